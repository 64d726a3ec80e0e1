"""``terrakin:changecollection``: what changed between dates of a collection, and since when."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
)

from ..core.errors import RequestError
from .change_base import (
    LAYERS,
    MIN_AREA,
    OBJECTS,
    RASTERS,
    REPORT,
    THRESHOLD,
    ChangeAlgorithm,
    days,
)
from .probe_base import MODEL_FILTER
from .server_access import COLLECTION, choose_collection, server_parameters

FROM, TO, TOLERANCE, ALL_DATES = "FROM", "TO", "TOLERANCE", "ALL_DATES"
WITH_COLLECTION, METRIC, HISTORY = "WITH_COLLECTION", "METRIC", "HISTORY"
FALSE_ALARMS, PROBE = "FALSE_ALARMS", "PROBE"
DENSE, WITH = "DENSE", "WITH"
RASTER, FOOTPRINTS = "RASTER", "FOOTPRINTS"
COMPARED, CHANGED, HECTARES, NOTES = "COMPARED", "CHANGED", "CHANGED_HECTARES", "NOTES"
METRICS = ("euclidean", "cosine")
CLICKS_FROM = "CLICKS_FROM"
CLICKS_FROM_WHAT = ("both", "after", "move")


class ChangeCollection(ChangeAlgorithm):
    """Compares two dates of a collection, or all of them."""

    ID = "changecollection"
    TITLE = "Change in a collection"
    HELP = (
        "Maps how unusual the change of each place of a collection is, compared with places that "
        "looked like it at the first date. Scores are standard normal where nothing changed: 5 % "
        "of unchanged places exceed 1.645, 1 % exceed 2.326.\n\n"
        "Without dates the first and the last are compared. With all dates the map says since "
        "when each place is another. The raster has a pixel a chip; the footprints have a polygon "
        "a chip with all measures. Of stored dense vectors there is a raster alone, with a pixel a "
        "cell. Where there was no data at a date is said, and is never 'no "
        "change'."
    )

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        for parameter in server_parameters():
            self.addParameter(parameter)
        self._add_date_parameters()
        self.add_threshold_parameters("2.326", self.tr("Smallest object, m² (empty: one chip)"))
        self.add_click_parameters(
            self.tr("Places that changed and places that did not, or kinds of change")
        )
        self._add_measure_parameters()
        self.addParameter(
            QgsProcessingParameterRasterDestination(RASTER, self.tr("Change"), optional=True)
        )
        self.addParameter(
            QgsProcessingParameterVectorDestination(
                FOOTPRINTS,
                self.tr("Change as footprints"),
                QgsProcessing.SourceType.TypeVectorPolygon,
                optional=True,
                createByDefault=False,
            )
        )
        self.add_common_outputs()
        self.addOutput(QgsProcessingOutputNumber(COMPARED, self.tr("Places compared")))
        self.addOutput(QgsProcessingOutputNumber(CHANGED, self.tr("Places that changed")))
        self.addOutput(QgsProcessingOutputNumber(HECTARES, self.tr("Hectares that changed")))
        self.addOutput(QgsProcessingOutputString(NOTES, self.tr("Notes")))

    def work(self) -> dict[str, Any]:
        paths = {RASTER: self.output(RASTER, RASTERS), FOOTPRINTS: self.output(FOOTPRINTS, LAYERS)}
        objects, reports = self.output(OBJECTS, (".gpkg",)), self.reports()
        wanted = {name: path for name, path in paths.items() if path}
        if not wanted:
            raise RequestError("No map is wanted. Name a file for RASTER, for FOOTPRINTS, or both.")
        inputs = self._inputs()
        # One run writes a raster or footprints; objects and report are of the first.
        more = {"objects": objects, "report": reports}
        outputs: dict[str, Any] = {}
        for name, path in wanted.items():
            done = self.ask("change-collection", {**inputs, **more, "out": path})
            found, more = done["change"], {}
            outputs[name] = path
            when = days([found["dates"][0], found["dates"][-1]])
            self.dress(f"{self._title()} ({inputs['collection']}){when}", path)
        self.dress(f"{self.tr('Objects that changed')} ({inputs['collection']}){when}", objects)
        if objects:
            outputs[OBJECTS] = objects
        if reports:
            outputs[REPORT] = reports[0]
        return {
            **outputs,
            COMPARED: found["coverage"]["compared"]["places"],
            CHANGED: found["changed"]["places"],
            HECTARES: found["changed"]["hectares"],
            NOTES: "\n".join(found["notes"]),
        }

    def _inputs(self) -> dict[str, Any]:
        return {
            "collection": choose_collection(self._client, self.text(COLLECTION) or "").id,
            "from": self.text(FROM),
            "to": self.text(TO),
            "tolerance_days": self.number(TOLERANCE),
            "with_collection": self.text(WITH_COLLECTION),
            "dense": self.text(DENSE),
            "with": _names(self.text(WITH)),
            "all_dates": self.flag(ALL_DATES),
            "metric": self.choice(METRIC, METRICS),
            "threshold": self.text(THRESHOLD),
            "false_alarms": self.number(FALSE_ALARMS),
            "history": self.flag(HISTORY),
            "probe": self.file(PROBE),
            **self.clicks(),
            "clicks_from": self.choice(CLICKS_FROM, CLICKS_FROM_WHAT),
            "min_area_m2": self.number(MIN_AREA),
            "bbox": self.box(),
        }

    def _title(self) -> str:
        return self.tr("Changed since") if self.flag(ALL_DATES) else self.tr("Change")

    def _add_date_parameters(self) -> None:
        texts = {
            FROM: "Date 1 (2017-07-01; empty: the first there is)",
            TO: "Date 2 (2018-07-01; empty: the last there is)",
        }
        for name, title in texts.items():
            self.addParameter(QgsProcessingParameterString(name, self.tr(title), optional=True))
        self.addParameter(
            QgsProcessingParameterNumber(
                TOLERANCE,
                self.tr("Days that chips may be apart from these dates"),
                QgsProcessingParameterNumber.Type.Double,
                30.0,
                False,
                0.0,
            )
        )
        self.addParameter(
            QgsProcessingParameterBoolean(
                ALL_DATES, self.tr("All dates: since when each place is another"), False
            )
        )

    def _add_measure_parameters(self) -> None:
        self.advanced(
            QgsProcessingParameterString(
                WITH_COLLECTION, self.tr("Date 2 from another collection"), optional=True
            )
        )
        self.advanced(
            QgsProcessingParameterString(
                DENSE,
                self.tr("Stored dense vectors: their stride (2, 40m), or any (empty: chips)"),
                optional=True,
            )
        )
        self.advanced(
            QgsProcessingParameterString(
                WITH,
                self.tr("Of dense vectors: collections of other chip sizes (A, B)"),
                optional=True,
            )
        )
        self.advanced(
            QgsProcessingParameterEnum(
                METRIC, self.tr("Difference of vectors"), list(METRICS), False, 0
            )
        )
        self.advanced(
            QgsProcessingParameterBoolean(
                HISTORY, self.tr("The score against each place's own history, too"), False
            )
        )
        self.advanced(
            QgsProcessingParameterNumber(
                FALSE_ALARMS,
                self.tr("Of all dates: share of unchanged places that may be named"),
                QgsProcessingParameterNumber.Type.Double,
                0.05,
                False,
                0.0001,
                0.9999,
            )
        )
        self.advanced(
            QgsProcessingParameterFile(
                PROBE,
                self.tr("Probe of land cover: changed from what into what"),
                optional=True,
                fileFilter=self.tr(MODEL_FILTER),
            )
        )
        self.advanced(
            QgsProcessingParameterEnum(
                CLICKS_FROM,
                self.tr("Kinds of change are told by: date 1 and the move, date 2, or the move"),
                list(CLICKS_FROM_WHAT),
                False,
                0,
            )
        )
        self.add_extent_parameter()


def _names(text: str | None) -> list[str] | None:
    """Return names parted by commas; None without any."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else None
