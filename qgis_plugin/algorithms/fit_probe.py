"""``terrakin:fitprobe``: a probe from a layer of labels, judged on regions left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputBoolean,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterBand,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
)

from ..core.errors import PluginError
from .job_base import path_of
from .probe_base import MODEL_FILTER, ProbeAlgorithm
from .server_access import COLLECTION, choose_collection, server_parameters

INPUT, FIELD, RASTER, BAND = "INPUT", "FIELD", "RASTER", "BAND"
TASK, MODEL, REPORT = "TASK", "MODEL", "REPORT"
SEPARATOR, NAMES, RULE, MIN_SHARE = "SEPARATOR", "NAMES", "RULE", "MIN_SHARE"
CONFLICTS, DATE_FIELD, BALANCED = "CONFLICTS", "DATE_FIELD", "BALANCED"
UNKNOWN_ERROR, BLOCK, FOLDS, CURVE, SEED = "UNKNOWN_ERROR", "BLOCK", "FOLDS", "CURVE", "SEED"
JUDGED, FIGURE, ACCURACY, LOW, HIGH = "JUDGED", "FIGURE", "ACCURACY", "LOW", "HIGH"
RANDOM, CHIPS, WARNINGS = "RANDOM_ACCURACY", "CHIPS", "WARNINGS"

TASKS = {
    "By the values of the field": None,
    "Classes": "classes",
    "A number": "number",
    "Several classes a place": "multilabel",
    "Places of one class (no field)": "positive",
}
SPELLINGS = {"Refuse": None, "Join": True, "Keep apart": False}
RULES = {
    "The usual (centre; of a raster the least share)": None,
    "Chips whose centre lies in it": "centre",
    "Chips that it covers by the least share": "share",
    "As by the centre, else the chip that contains it": "contains",
}
CONFLICTING = {
    "The usual (leave it out; of a raster the most)": None,
    "Leave it out": "drop",
    "Take the class of most weight": "majority",
}


class FitProbe(ProbeAlgorithm):
    """Fits a probe to a layer of labels and writes model and report."""

    ID = "fitprobe"
    TITLE = "Fit a probe"
    HELP = (
        "Learns from labelled places which embeddings of a collection belong to which class, or "
        "to which number. The probe is tested on whole regions that were left out of its "
        "training; ACCURACY is that figure (of numbers R², of one class AUC) with its 95 % "
        "interval, and RANDOM_ACCURACY what a random split would have promised. The report says "
        "all of it in words.\n\n"
        "Labels may be points, lines or polygons in any CRS; only the selected ones where that is "
        "ticked. Without a field all labels are places of one class. Edits that are not saved "
        "count too. A raster of classes or numbers does as well (advanced).\n\n"
        "The model is two files, MODEL.safetensors and MODEL.json; keep them together."
    )

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._add_label_layers()
        for parameter in server_parameters():
            self.addParameter(parameter)
        self.add_others_parameter()
        self._add_label_parameters()
        self._add_test_parameters()
        self.addParameter(
            QgsProcessingParameterFileDestination(MODEL, self.tr("Model"), self.tr(MODEL_FILTER))
        )
        self.addParameter(
            QgsProcessingParameterFileDestination(
                REPORT, self.tr("Report"), self.tr("HTML files (*.html)"), optional=True
            )
        )
        self._add_outputs()

    def prepareAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,  # noqa: ARG002
    ) -> bool:
        layer = self.parameterAsRasterLayer(parameters, RASTER, context)
        if (layer is None) == (parameters.get(INPUT) in (None, "")):
            raise QgsProcessingException(
                "Give the labels as a vector layer (INPUT) or as a raster (RASTER), one of them."
            )
        try:
            self._raster = None if layer is None else path_of(layer)
        except PluginError as error:
            raise QgsProcessingException(str(error)) from error
        return True

    def work(self) -> dict[str, Any]:
        collection = choose_collection(self._client, self.text(COLLECTION) or "")
        field, date_field = self.text(FIELD), self.text(DATE_FIELD)
        labels = self._raster or self.features(INPUT, [field, date_field])
        if self._raster:
            field = str(self.parameterAsInt(self._parameters, BAND, self._context) or 1)
        unknown = self.number(UNKNOWN_ERROR)
        done = self.ask(
            "probe-fit",
            {
                "collection": collection.id,
                "others": self.others(),
                "labels": labels,
                "field": field,
                "date_field": date_field,
                "out": self._destination(MODEL),
                "report": self._destination(REPORT),
                "task": self.choice(TASK, list(TASKS.values())),
                "separator": self.text(SEPARATOR),
                "merge_classes": self.choice(NAMES, list(SPELLINGS.values())),
                "rule": self.choice(RULE, list(RULES.values())),
                "min_share": self.number(MIN_SHARE),
                "conflicts": self.choice(CONFLICTS, list(CONFLICTING.values())),
                "balanced": self.flag(BALANCED),
                "unknown_error": "off" if unknown == 0 else unknown,
                "block_m": self.number(BLOCK),
                "folds": self.parameterAsInt(self._parameters, FOLDS, self._context),
                "curve": self.flag(CURVE),
                "seed": self.parameterAsInt(self._parameters, SEED, self._context),
            },
        )
        return self._outputs(done)

    def _destination(self, name: str) -> str | None:
        """Return the whole path of a file to write; None if none is wanted."""
        path = self.parameterAsFileOutput(self._parameters, name, self._context)
        return str(Path(path).absolute()) if path else None

    def _outputs(self, done: dict[str, Any]) -> dict[str, Any]:
        validation = done["probe"]["validation"]
        warnings = validation.get("warnings", [])
        for text in warnings:
            self._feedback.pushWarning(text)
        outputs = {
            MODEL: done["model"],
            JUDGED: done["judged"],
            CHIPS: done["probe"]["labels"]["chips_used"],
            WARNINGS: "\n".join(warnings),
        }
        if len(done["files"]) > 2:
            outputs[REPORT] = done["files"][2]
        if done["judged"]:
            main = validation["main"]
            spatial, random = (validation[part]["figures"][main] for part in ("spatial", "random"))
            outputs.update({FIGURE: main, ACCURACY: spatial["value"], RANDOM: random["value"]})
            outputs.update({LOW: spatial["low"], HIGH: spatial["high"]})
        return outputs

    def _add_label_layers(self) -> None:
        self.addParameter(
            QgsProcessingParameterFeatureSource(
                INPUT,
                self.tr("Labels"),
                [QgsProcessing.SourceType.TypeVectorAnyGeometry],
                optional=True,
            )
        )
        self.addParameter(
            QgsProcessingParameterField(
                FIELD, self.tr("Field with the classes"), None, INPUT, optional=True
            )
        )
        self.advanced(
            QgsProcessingParameterRasterLayer(
                RASTER, self.tr("Or labels as a raster"), optional=True
            )
        )
        self.advanced(
            QgsProcessingParameterBand(
                BAND, self.tr("Band with the classes"), 1, RASTER, optional=True
            )
        )

    def _add_label_parameters(self) -> None:
        number = QgsProcessingParameterNumber.Type.Double
        self.advanced(
            QgsProcessingParameterEnum(TASK, self.tr("What the field says"), list(TASKS), False, 0)
        )
        self.advanced(
            QgsProcessingParameterString(
                SEPARATOR, self.tr("What parts several classes in one text"), optional=True
            )
        )
        self.advanced(
            QgsProcessingParameterEnum(
                NAMES,
                self.tr("Classes that differ only in spaces or capitals"),
                list(SPELLINGS),
                defaultValue=0,
            )
        )
        self.advanced(
            QgsProcessingParameterEnum(
                RULE, self.tr("Which chips a polygon labels"), list(RULES), defaultValue=0
            )
        )
        self.advanced(
            QgsProcessingParameterNumber(
                MIN_SHARE, self.tr("Least share of a chip"), number, 0.5, False, 0.0, 1.0
            )
        )
        self.advanced(
            QgsProcessingParameterEnum(
                CONFLICTS,
                self.tr("A chip with labels of several classes"),
                list(CONFLICTING),
                defaultValue=0,
            )
        )
        self.advanced(
            QgsProcessingParameterField(
                DATE_FIELD, self.tr("Field with the labels' dates"), None, INPUT, optional=True
            )
        )
        self.advanced(
            QgsProcessingParameterBoolean(
                BALANCED, self.tr("Let rare classes count as much as common ones"), False
            )
        )

    def _add_test_parameters(self) -> None:
        kind = QgsProcessingParameterNumber.Type
        self.advanced(
            QgsProcessingParameterNumber(
                UNKNOWN_ERROR,
                self.tr("Share of errors among what is named, the rest is unknown (0: name all)"),
                kind.Double,
                0.1,
                False,
                0.0,
                0.99,
            )
        )
        self.advanced(
            QgsProcessingParameterNumber(
                BLOCK,
                self.tr("Width of a block, metres (empty: measured on the labels)"),
                kind.Double,
                None,
                True,
                1.0,
            )
        )
        self.advanced(
            QgsProcessingParameterNumber(
                FOLDS, self.tr("Regions to leave out in turn"), kind.Integer, 10, False, 2
            )
        )
        self.advanced(
            QgsProcessingParameterBoolean(
                CURVE, self.tr("Measure what more labels would bring (takes longest)"), True
            )
        )
        self.advanced(QgsProcessingParameterNumber(SEED, self.tr("Seed"), kind.Integer, 0))

    def _add_outputs(self) -> None:
        self.addOutput(QgsProcessingOutputBoolean(JUDGED, self.tr("Whether an accuracy is known")))
        self.addOutput(QgsProcessingOutputString(FIGURE, self.tr("Which figure it is")))
        self.addOutput(QgsProcessingOutputNumber(ACCURACY, self.tr("Accuracy, left-out regions")))
        self.addOutput(QgsProcessingOutputNumber(LOW, self.tr("Low end of its 95 % interval")))
        self.addOutput(QgsProcessingOutputNumber(HIGH, self.tr("High end of its 95 % interval")))
        self.addOutput(QgsProcessingOutputNumber(RANDOM, self.tr("Accuracy, random split")))
        self.addOutput(QgsProcessingOutputNumber(CHIPS, self.tr("Labelled chips")))
        self.addOutput(QgsProcessingOutputString(WARNINGS, self.tr("Warnings")))
