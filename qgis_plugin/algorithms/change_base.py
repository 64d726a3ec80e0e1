"""What the algorithms about change have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

from qgis.core import (
    QgsMapLayer,
    QgsProcessing,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
)

from ..core.errors import RequestError
from ..core.geometry import wgs84
from .dressing import dress_when_loaded
from .job_base import EXTENT, JobAlgorithm

THRESHOLD, MIN_AREA, OBJECTS, REPORT = "THRESHOLD", "MIN_AREA", "OBJECTS", "REPORT"
CLICKS, FIELD = "CLICKS", "FIELD"
RASTERS, LAYERS = (".tif", ".tiff"), (".gpkg", ".parquet")


class ChangeAlgorithm(JobAlgorithm):
    """An algorithm that runs a process of change."""

    def group(self) -> str:
        return self.tr("Change")

    def groupId(self) -> str:
        return "change"

    def add_threshold_parameters(self, usual: str, least: str) -> None:
        """Add THRESHOLD, and MIN_AREA with its title.

        THRESHOLD may be empty: then the clicks tell, or it is the usual.
        """
        title = self.tr(
            "Where change begins (otsu, fdr=RATE, a score, clicks; empty: clicks, else {usual})"
        )
        self.addParameter(
            QgsProcessingParameterString(THRESHOLD, title.format(usual=usual), optional=True)
        )
        self.addParameter(
            QgsProcessingParameterNumber(
                MIN_AREA,
                least,
                QgsProcessingParameterNumber.Type.Double,
                None,
                True,
                0.0,
            )
        )

    def add_click_parameters(self, title: str) -> None:
        """Add CLICKS with its title, and FIELD of it."""
        self.addParameter(
            QgsProcessingParameterFeatureSource(
                CLICKS, title, [QgsProcessing.SourceType.TypeVectorAnyGeometry], optional=True
            )
        )
        self.addParameter(
            QgsProcessingParameterField(
                FIELD,
                self.tr("Field that says yes or no, or the kind of change"),
                None,
                CLICKS,
                optional=True,
            )
        )

    def clicks(self) -> dict[str, str | None]:
        """Return CLICKS and FIELD as processes take them. Raises PluginError."""
        field = self.text(FIELD)
        return {"clicks": self.features(CLICKS, [field]), "field": field}

    def add_extent_parameter(self) -> None:
        """Add EXTENT, which says where."""
        self.advanced(
            QgsProcessingParameterExtent(EXTENT, self.tr("Only in this extent"), optional=True)
        )

    def add_common_outputs(self) -> None:
        """Add OBJECTS and REPORT."""
        self.addParameter(
            QgsProcessingParameterVectorDestination(
                OBJECTS,
                self.tr("Objects that changed"),
                QgsProcessing.SourceType.TypeVectorPolygon,
                optional=True,
            )
        )
        self.addParameter(
            QgsProcessingParameterFileDestination(
                REPORT, self.tr("Report"), self.tr("HTML files (*.html)"), optional=True
            )
        )

    def box(self) -> list[float] | None:
        """Return EXTENT as [west, south, east, north] in degrees; None where none is given."""
        if self._parameters.get(EXTENT) in (None, ""):
            return None
        found = self.parameterAsExtent(self._parameters, EXTENT, self._context, wgs84())
        return [found.xMinimum(), found.yMinimum(), found.xMaximum(), found.yMaximum()]

    def output(self, name: str, suffixes: Sequence[str]) -> str | None:
        """Return where a layer goes, if it is wanted. Raises RequestError."""
        path = self.parameterAsOutputLayer(self._parameters, name, self._context)
        if path and Path(path).suffix.lower() not in suffixes:
            raise RequestError(
                f"{name} is '{path}'. It must end in {' or '.join(suffixes)}: name such a file."
            )
        return str(Path(path).absolute()) if path else None

    def reports(self) -> list[str] | None:
        """Return where the report goes, as processes take it; None where none is wanted."""
        path = self.parameterAsFileOutput(self._parameters, REPORT, self._context)
        return [str(Path(path).absolute())] if path else None

    def dress(self, title: str, path: str | None) -> None:
        """Name an output and give it the style that the server wrote, if it is to be loaded."""
        if path is not None:
            dress_when_loaded(self._context, path, title, _as_written)


def days(dates: Sequence[Any]) -> str:
    """Return " 2016-05-01 to 2017-05-01", or nothing where a date is not known."""
    known = [str(date)[:10] for date in dates if date]
    return f" {known[0]} to {known[-1]}" if len(known) > 1 else ""


def _as_written(layer: QgsMapLayer) -> None:
    layer.loadDefaultStyle()
