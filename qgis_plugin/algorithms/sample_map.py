"""``terrakin:samplemap``: a stratified random sample of a map, to be checked."""

from __future__ import annotations

import json
from typing import Any

from qgis.core import (
    QgsMapLayer,
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterMapLayer,
    QgsProcessingParameterNumber,
    QgsProcessingParameterVectorDestination,
)

from ..core.errors import PluginError
from .dressing import dress_when_loaded
from .job_base import path_of
from .probe_base import ProbeAlgorithm
from .server_access import server_parameters

MAP, TOTAL, STANDARD_ERROR, MINIMUM = "MAP", "TOTAL", "STANDARD_ERROR", "MINIMUM"
EXPECTED, SEED, OUTPUT = "EXPECTED_ACCURACY", "SEED", "OUTPUT"
PLACES, STRATA = "PLACES", "STRATA"
DEFAULT_TOTAL = 500


class SampleMap(ProbeAlgorithm):
    """Draws places of a map whose true class is to be filled in."""

    ID = "samplemap"
    TITLE = "Accuracy sample"
    HELP = (
        "Draws a random sample of a map that a probe made, with a least number of places in every "
        "class, to learn how right the map is. Look at each place in imagery or on the ground and "
        "write what is there into the field 'reference'; leave it empty only where you cannot "
        "tell. What the map says of a place is hidden, so that it does not lead you. Then run "
        "'Accuracy and areas'.\n\n"
        "With a standard error, as many places are drawn as give the overall accuracy that "
        "error; the number of places is then not used. A file that is there is never replaced."
    )

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        kind = QgsProcessingParameterNumber.Type
        source = QgsProcessing.SourceType
        self.addParameter(
            QgsProcessingParameterMapLayer(
                MAP,
                self.tr("Map"),
                types=[source.TypeRaster, source.TypeVectorPolygon],
            )
        )
        for parameter in server_parameters(collection=False):
            self.addParameter(parameter)
        self.addParameter(
            QgsProcessingParameterNumber(
                TOTAL, self.tr("Number of places"), kind.Integer, DEFAULT_TOTAL, False, 1
            )
        )
        self.addParameter(
            QgsProcessingParameterNumber(
                MINIMUM, self.tr("Places of each class at least"), kind.Integer, 50, False, 2
            )
        )
        self.advanced(
            QgsProcessingParameterNumber(
                STANDARD_ERROR,
                self.tr("Standard error of the overall accuracy, in place of the number"),
                kind.Double,
                None,
                True,
                0.0001,
                0.5,
            )
        )
        self.advanced(
            QgsProcessingParameterNumber(
                EXPECTED,
                self.tr("A guess of each class's accuracy, for the standard error"),
                kind.Double,
                0.8,
                False,
                0.01,
                0.99,
            )
        )
        self.advanced(QgsProcessingParameterNumber(SEED, self.tr("Seed"), kind.Integer, 0))
        self.addParameter(
            QgsProcessingParameterVectorDestination(
                OUTPUT, self.tr("Sample"), QgsProcessing.SourceType.TypeVectorPolygon
            )
        )
        self.addOutput(QgsProcessingOutputNumber(PLACES, self.tr("Places drawn")))
        self.addOutput(QgsProcessingOutputString(STRATA, self.tr("Classes of the map (JSON)")))

    def prepareAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,  # noqa: ARG002
    ) -> bool:
        layer = self.parameterAsLayer(parameters, MAP, context)
        if layer is None:
            raise QgsProcessingException(self.invalidSourceError(parameters, MAP))
        try:
            self._map = path_of(layer)
        except PluginError as error:
            raise QgsProcessingException(str(error)) from error
        return True

    def work(self) -> dict[str, Any]:
        path = self.new_geopackage(OUTPUT)
        standard_error = self.number(STANDARD_ERROR)
        total = self.parameterAsInt(self._parameters, TOTAL, self._context)
        done = self.ask(
            "probe-sample",
            {
                "map": self._map,
                "out": path,
                "total": total if standard_error is None else None,
                "standard_error": standard_error,
                "minimum": self.parameterAsInt(self._parameters, MINIMUM, self._context),
                "expected_accuracy": self.number(EXPECTED),
                "seed": self.parameterAsInt(self._parameters, SEED, self._context),
            },
        )
        dress_when_loaded(self._context, path, self.tr("Accuracy sample"), _as_written)
        return {OUTPUT: path, PLACES: done["places"], STRATA: json.dumps(done["strata"])}


def _as_written(layer: QgsMapLayer) -> None:
    """Take the style that hides what the map says."""
    layer.loadDefaultStyle()
