"""``terrakin:exportplaces``: a result layer as a GeoPackage with style and provenance."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterVectorLayer,
)

from ..core.errors import PluginError
from ..core.export import ExportSource, export_geopackage
from .base import TerrakinAlgorithm

INPUT, OUTPUT = "INPUT", "OUTPUT"


class ExportPlaces(TerrakinAlgorithm):
    """Writes a layer to a GeoPackage, all or nothing."""

    ID = "exportplaces"
    TITLE = "Export places to GeoPackage"
    ICON = "export.svg"
    HELP = (
        "Writes a layer of similar places to a GeoPackage, together with its style, metadata and "
        "provenance. An older file of that name is replaced only once the new one is complete."
    )

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.addParameter(
            QgsProcessingParameterVectorLayer(
                INPUT, self.tr("Layer of places"), [QgsProcessing.SourceType.TypeVectorPolygon]
            )
        )
        self.addParameter(
            QgsProcessingParameterFileDestination(
                OUTPUT, self.tr("GeoPackage"), self.tr("GeoPackage (*.gpkg)")
            )
        )

    def prepareAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,  # noqa: ARG002
    ) -> bool:
        layer = self.parameterAsVectorLayer(parameters, INPUT, context)
        if layer is None:
            raise QgsProcessingException(self.invalidSourceError(parameters, INPUT))
        self._source = ExportSource.of(layer, context.transformContext())
        return True

    def processAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> dict[str, Any]:
        path = self.parameterAsFileOutput(parameters, OUTPUT, context)
        try:
            written = export_geopackage(
                self._source, path, feedback.isCanceled, feedback.setProgress
            )
        except PluginError as error:
            raise QgsProcessingException(str(error)) from error
        return {OUTPUT: written}
