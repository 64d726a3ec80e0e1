"""``terrakin:changeraster``: how unusual the change of each pixel is between two dates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingOutputRasterLayer,
    QgsProcessingOutputString,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterMultipleLayers,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterString,
)

from ..core.errors import PluginError, RequestError
from .change_base import MIN_AREA, OBJECTS, RASTERS, REPORT, THRESHOLD, ChangeAlgorithm, days
from .job_base import path_of
from .server_access import server_parameters

BEFORE, AFTER, BEFORE_DATE, AFTER_DATE = "BEFORE", "AFTER", "BEFORE_DATE", "AFTER_DATE"
BANDS, MASK, NODATA, OFFSET, SCALE = "BANDS", "MASK", "NODATA", "OFFSET", "SCALE"
GSD, REGISTER, PROBABILITY = "GSD", "REGISTER", "PROBABILITY"
SCORE, CLASSES, COVERAGE = "SCORE", "CLASSES", "COVERAGE"
COMPARED, AREA, COUNT, NOTES = "COMPARED", "CHANGED_AREA", "OBJECT_COUNT", "NOTES"


class ChangeRaster(ChangeAlgorithm):
    """Compares two dates of imagery, pixel by pixel."""

    ID = "changeraster"
    TITLE = "Change between two dates of imagery"
    HELP = (
        "Maps how unusual the change of each pixel is, measured against the noise of the two "
        "dates: haze, season and sensor, which move every pixel a little, are not change. Scores "
        "are about standard normal where nothing changed.\n\n"
        "Give each date as its bands: several layers or files, or one of several bands. Date 2 "
        "may differ in size, resolution and CRS; a shift between the dates is measured and "
        "undone. Bands pair by their names.\n\n"
        "What is masked or without data at either date has no score; the raster "
        "NAME_coverage.tif, beside the score, says why (output COVERAGE). Change begins at "
        "fdr=RATE (that share of what is called change may be false alarm), otsu, or a score.\n\n"
        "Points or polygons whose field says yes and no, or 1 and 0, choose the threshold "
        "themselves; the report says how far it errs on those left out. A field that names kinds "
        "of change (built, felled, no change) gives each change its kind."
    )

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._add_date_parameters()
        for parameter in server_parameters(collection=False):
            self.addParameter(parameter)
        self.add_threshold_parameters("fdr=0.1", self.tr("Smallest object, m² (empty: 4 pixels)"))
        self.add_click_parameters(
            self.tr("Places that changed and places that did not, or kinds of change")
        )
        self._add_reading_parameters()
        self.addParameter(
            QgsProcessingParameterRasterDestination(SCORE, self.tr("Score of change"))
        )
        self.addParameter(
            QgsProcessingParameterRasterDestination(
                CLASSES,
                self.tr("Change and no change, or kinds of change"),
                optional=True,
                createByDefault=False,
            )
        )
        self.add_common_outputs()
        self.addOutput(QgsProcessingOutputRasterLayer(COVERAGE, self.tr("What was compared")))
        self.addOutput(QgsProcessingOutputNumber(COMPARED, self.tr("Pixels compared")))
        self.addOutput(QgsProcessingOutputNumber(AREA, self.tr("Area that changed, m²")))
        self.addOutput(QgsProcessingOutputNumber(COUNT, self.tr("Objects")))
        self.addOutput(QgsProcessingOutputString(NOTES, self.tr("Notes")))

    def prepareAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,  # noqa: ARG002
    ) -> bool:
        try:
            self._dates = [
                [path_of(layer) for layer in self.parameterAsLayerList(parameters, name, context)]
                for name in (BEFORE, AFTER)
            ]
        except PluginError as error:
            raise QgsProcessingException(str(error)) from error
        return True

    def work(self) -> dict[str, Any]:
        score, classes = self.output(SCORE, RASTERS), self.output(CLASSES, RASTERS)
        objects, reports = self.output(OBJECTS, (".gpkg",)), self.reports()
        before, after = self._dates
        done = self.ask(
            "change-raster",
            {
                "before": before,
                "after": after,
                "out": score,
                "classes": classes,
                "objects": objects,
                "report": reports,
                "probability": self.flag(PROBABILITY),
                "threshold": self.text(THRESHOLD),
                **self.clicks(),
                "min_area_m2": self.number(MIN_AREA),
                "before_date": self.text(BEFORE_DATE),
                "after_date": self.text(AFTER_DATE),
                "bands": self._bands(),
                "mask": self.text(MASK),
                "nodata": self._nodata(),
                "offset": self.number(OFFSET),
                "scale": self.number(SCALE),
                "gsd": self.text(GSD),
                "bbox": self.box(),
                "register": self.flag(REGISTER),
            },
        )
        found = done["change"]
        when = days([found[side]["datetime"] for side in ("before", "after")])
        self.dress(self.tr("Change") + when, score)
        kinds = found["kinds"] is not None
        title = self.tr("Kinds of change") if kinds else self.tr("Changed or not")
        self.dress(title + when, classes)
        self.dress(self.tr("Objects that changed") + when, objects)
        written = {SCORE: score, CLASSES: classes, OBJECTS: objects}
        outputs: dict[str, Any] = {name: path for name, path in written.items() if path}
        if reports:
            outputs[REPORT] = reports[0]
        if found["objects"] is not None:
            outputs[COUNT] = found["objects"]["count"]
        coverage = Path(score or "")
        return {
            **outputs,
            COVERAGE: str(coverage.with_name(f"{coverage.stem}_coverage{coverage.suffix}")),
            COMPARED: found["coverage"]["compared"]["pixels"],
            AREA: found["changed"]["area_m2"],
            NOTES: "\n".join(found["notes"]),
        }

    def _bands(self) -> list[str] | None:
        names = [name.strip() for name in (self.text(BANDS) or "").split(",")]
        return [name for name in names if name] or None

    def _nodata(self) -> float | str | None:
        text = self.text(NODATA)
        if text is None or text.lower() == "none":
            return text and text.lower()
        try:
            return float(text)
        except ValueError:
            raise RequestError(f"NODATA is '{text}'. Give a number, or none.") from None

    def _add_date_parameters(self) -> None:
        for name, title, date, date_title in (
            (BEFORE, "Date 1: its bands", BEFORE_DATE, "Date 1 (2016-05-01; empty: as files say)"),
            (AFTER, "Date 2: its bands", AFTER_DATE, "Date 2 (2017-05-01; empty: as files say)"),
        ):
            self.addParameter(
                QgsProcessingParameterMultipleLayers(
                    name, self.tr(title), QgsProcessing.SourceType.TypeRaster
                )
            )
            self.addParameter(
                QgsProcessingParameterString(date, self.tr(date_title), optional=True)
            )

    def _add_reading_parameters(self) -> None:
        texts = {
            BANDS: "Which bands of both dates (names, commas between; empty: all)",
            MASK: "Band of missing pixels (SCL, QA_PIXEL=bit3,bit4)",
            NODATA: "Value of missing pixels, or none (empty: as files say)",
            GSD: "Compare at pixels of this size, such as 20m (empty: of date 1)",
        }
        for name, title in texts.items():
            self.advanced(QgsProcessingParameterString(name, self.tr(title), optional=True))
        numbers = {
            OFFSET: "Added to every number of the files (empty: as files say)",
            SCALE: "What numbers are multiplied with (empty: as files say)",
        }
        kind = QgsProcessingParameterNumber.Type.Double
        for name, title in numbers.items():
            self.advanced(QgsProcessingParameterNumber(name, self.tr(title), kind, None, True))
        self.add_extent_parameter()
        self.advanced(
            QgsProcessingParameterBoolean(
                REGISTER, self.tr("Measure a shift between the dates, and undo it"), True
            )
        )
        self.advanced(
            QgsProcessingParameterBoolean(
                PROBABILITY, self.tr("The probability of change as band 2"), False
            )
        )
