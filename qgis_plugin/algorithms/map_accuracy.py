"""``terrakin:mapaccuracy``: accuracy and areas of a map from its filled-in sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterField,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterVectorLayer,
)

from ..core.errors import PluginError, RequestError
from .job_base import path_of
from .probe_base import ProbeAlgorithm
from .server_access import server_parameters

SAMPLE, FIELD, CONFIDENCE, MERGE = "SAMPLE", "FIELD", "CONFIDENCE", "MERGE"
REPORT, ACCURACY, HALF_WIDTH = "REPORT", "ACCURACY", "HALF_WIDTH"
USED, CLASSES, NOTES = "PLACES", "CLASSES", "NOTES"


class MapAccuracy(ProbeAlgorithm):
    """Estimates a map's accuracy and its classes' areas, with intervals."""

    ID = "mapaccuracy"
    TITLE = "Accuracy and areas"
    HELP = (
        "Estimates from an accuracy sample whose field 'reference' was filled in how much of a map "
        "is right, and how many hectares each class covers, with confidence intervals (Olofsson "
        "et al. 2014). Unknown counts as wrong in the overall accuracy. Save your edits before."
    )

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.addParameter(
            QgsProcessingParameterVectorLayer(
                SAMPLE,
                self.tr("Accuracy sample"),
                [QgsProcessing.SourceType.TypeVectorAnyGeometry],
            )
        )
        for parameter in server_parameters(collection=False):
            self.addParameter(parameter)
        self.addParameter(
            QgsProcessingParameterField(
                FIELD, self.tr("Field with the true classes"), "reference", SAMPLE, optional=True
            )
        )
        self.advanced(
            QgsProcessingParameterNumber(
                CONFIDENCE,
                self.tr("Confidence of the intervals"),
                QgsProcessingParameterNumber.Type.Double,
                0.95,
                False,
                0.5,
                0.999,
            )
        )
        self.advanced(
            QgsProcessingParameterBoolean(
                MERGE, self.tr("Join references that differ only in spaces or capitals"), False
            )
        )
        self.addParameter(
            QgsProcessingParameterFileDestination(
                REPORT, self.tr("Report"), self.tr("HTML files (*.html)"), optional=True
            )
        )
        self.addOutput(QgsProcessingOutputNumber(ACCURACY, self.tr("Overall accuracy")))
        self.addOutput(QgsProcessingOutputNumber(HALF_WIDTH, self.tr("Half of its interval")))
        self.addOutput(QgsProcessingOutputNumber(USED, self.tr("Places with a reference")))
        self.addOutput(QgsProcessingOutputString(CLASSES, self.tr("Classes (JSON)")))
        self.addOutput(QgsProcessingOutputString(NOTES, self.tr("Notes")))

    def prepareAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,  # noqa: ARG002
    ) -> bool:
        layer = self.parameterAsVectorLayer(parameters, SAMPLE, context)
        if layer is None:
            raise QgsProcessingException(self.invalidSourceError(parameters, SAMPLE))
        try:
            if layer.isModified():
                raise RequestError(
                    f"The layer '{layer.name()}' has edits that are not saved. Save them first."
                )
            if layer.subsetString():
                raise RequestError(
                    f"The layer '{layer.name()}' shows a part of its places only. Remove its "
                    "filter: an accuracy needs the whole sample."
                )
            self._sample = path_of(layer)
        except PluginError as error:
            raise QgsProcessingException(str(error)) from error
        return True

    def work(self) -> dict[str, Any]:
        report = self.parameterAsFileOutput(self._parameters, REPORT, self._context)
        done = self.ask(
            "probe-accuracy",
            {
                "sample": self._sample,
                "out": str(Path(report).absolute()) if report else None,
                "field": self.text(FIELD),
                "confidence": self.number(CONFIDENCE),
                "merge_classes": self.flag(MERGE),
            },
        )
        found = done["accuracy"]
        outputs = {
            ACCURACY: found["overall_accuracy"]["value"],
            HALF_WIDTH: found["overall_accuracy"]["half_width"],
            USED: found["sampled"] - found["without_reference"],
            CLASSES: json.dumps(found["classes"]),
            NOTES: "\n".join(found["notes"]),
        }
        return {**outputs, REPORT: done["file"]} if done["file"] else outputs
