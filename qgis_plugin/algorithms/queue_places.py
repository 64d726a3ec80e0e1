"""``terrakin:queueplaces``: the places that are worth labelling next."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsProcessingParameterFile,
    QgsProcessingParameterNumber,
    QgsProcessingParameterVectorDestination,
)

from ..core.errors import RequestError
from ..core.style import style_queue
from .dressing import dress_when_loaded
from .probe_base import MODEL_FILTER, ProbeAlgorithm
from .server_access import COLLECTION, choose_collection, server_parameters

MODEL, LABELS, FIELD, MANY = "MODEL", "LABELS", "FIELD", "COUNT"
STRATEGY, SEED, OUTPUT = "STRATEGY", "SEED", "OUTPUT"
TAKEN, CANDIDATES, LABELLED = "STRATEGY_TAKEN", "CANDIDATES", "LABELLED"
STRATEGIES = {
    "By the number of labels": None,
    "Places unlike those labelled": "coverage",
    "Where the probe hesitates": "uncertainty",
}


class QueuePlaces(ProbeAlgorithm):
    """Writes a layer of places in the order in which to label them."""

    ID = "queueplaces"
    TITLE = "Places to label next"
    HELP = (
        "Lists the chips of a collection that are worth labelling next, the most useful first: "
        "where the probe hesitates, no two alike, or, with few labels or without a probe, places "
        "that stand for many others. Fill in the field 'label' and fit a probe to it.\n\n"
        "Chips that the labels given hold already are left out; with a field only labels with a "
        "value in it count. The layer is a new GeoPackage; a file that is there is never replaced."
    )

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.addParameter(
            QgsProcessingParameterFile(
                MODEL, self.tr("Model"), fileFilter=self.tr(MODEL_FILTER), optional=True
            )
        )
        for parameter in server_parameters():
            self.addParameter(parameter)
        self.add_others_parameter()
        self.addParameter(
            QgsProcessingParameterFeatureSource(
                LABELS,
                self.tr("Labels there are"),
                [QgsProcessing.SourceType.TypeVectorAnyGeometry],
                optional=True,
            )
        )
        self.addParameter(
            QgsProcessingParameterField(
                FIELD, self.tr("Field with the classes"), None, LABELS, optional=True
            )
        )
        self.add_area_parameters()
        kind = QgsProcessingParameterNumber.Type.Integer
        self.addParameter(
            QgsProcessingParameterNumber(MANY, self.tr("Number of places"), kind, 50, False, 1)
        )
        self.advanced(
            QgsProcessingParameterEnum(
                STRATEGY, self.tr("Strategy"), list(STRATEGIES), defaultValue=0
            )
        )
        self.advanced(QgsProcessingParameterNumber(SEED, self.tr("Seed"), kind, 0))
        self.addParameter(
            QgsProcessingParameterVectorDestination(
                OUTPUT, self.tr("Places to label"), QgsProcessing.SourceType.TypeVectorPolygon
            )
        )
        self.addOutput(QgsProcessingOutputString(TAKEN, self.tr("Strategy")))
        self.addOutput(QgsProcessingOutputNumber(CANDIDATES, self.tr("Chips to choose among")))
        self.addOutput(QgsProcessingOutputNumber(LABELLED, self.tr("Chips with a label")))

    def work(self) -> dict[str, Any]:
        path = self.new_geopackage(OUTPUT)
        field, labels = self.text(FIELD), None
        if self._parameters.get(LABELS) not in (None, ""):
            labels = self.features(LABELS, [field])
        elif field is not None:
            raise RequestError("FIELD is a field of LABELS. Give the layer, or leave both out.")
        collection = choose_collection(self._client, self.text(COLLECTION) or "")
        done = self.ask(
            "probe-queue",
            {
                "collection": collection.id,
                "out": path,
                "others": self.others(),
                "model": self.file(MODEL),
                "labels": labels,
                "field": field,
                "within": self.area(),
                "many": self.parameterAsInt(self._parameters, MANY, self._context),
                "strategy": self.choice(STRATEGY, list(STRATEGIES.values())),
                "seed": self.parameterAsInt(self._parameters, SEED, self._context),
            },
        )
        dress_when_loaded(self._context, path, f"Places to label ({collection.id})", style_queue)
        return {
            OUTPUT: path,
            TAKEN: done["strategy"],
            CANDIDATES: done["candidates"],
            LABELLED: done["labelled"],
        }
