"""``terrakin:predictprobe``: a map of what a probe says, as a raster or as footprints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

from qgis.core import (
    QgsMapLayer,
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingFeatureSourceDefinition,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterFile,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
    QgsProviderRegistry,
)

from ..core.errors import RequestError
from ..core.layers import describe_map
from .dressing import dress_when_loaded
from .probe_base import MASK, MODEL_FILTER, ProbeAlgorithm
from .server_access import COLLECTION, choose_collection, server_parameters

MODEL, DATETIME, PER_CLASS, MEASURES = "MODEL", "DATETIME", "PER_CLASS", "MEASURES"
NAME_ALL = "NAME_ALL"
RASTER, FOOTPRINTS = "RASTER", "FOOTPRINTS"
CHIPS, UNKNOWN, NO_DATA, CLASSES = "CHIPS", "UNKNOWN", "NO_DATA", "CLASSES"
SUFFIXES = {RASTER: (".tif", ".tiff"), FOOTPRINTS: (".gpkg", ".parquet")}


class PredictProbe(ProbeAlgorithm):
    """Predicts a collection, or a part of it, with a probe."""

    ID = "predictprobe"
    TITLE = "Map with a probe"
    HELP = (
        "Predicts the chips of a collection with a probe that was fitted to embeddings of the "
        "same kind. The raster has a pixel a chip, with a colour for each class; unknown is grey, "
        "and no data is transparent. The footprints have a polygon a chip with its class, "
        "probability, margin, entropy and applicability.\n\n"
        "'Unknown' is a place where the probe would be wrong too often. That promise holds for "
        "places like those of the labels, not in regions unlike all of them."
    )

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.addParameter(
            QgsProcessingParameterFile(MODEL, self.tr("Model"), fileFilter=self.tr(MODEL_FILTER))
        )
        for parameter in server_parameters():
            self.addParameter(parameter)
        self.add_others_parameter()
        self.add_area_parameters()
        self.advanced(
            QgsProcessingParameterString(
                DATETIME, self.tr("Only this time (2018-10-13, A/B, A/..)"), optional=True
            )
        )
        self.advanced(
            QgsProcessingParameterBoolean(
                PER_CLASS, self.tr("The probability of each class, too"), False
            )
        )
        self.advanced(
            QgsProcessingParameterBoolean(
                MEASURES, self.tr("A second raster with probability and applicability"), False
            )
        )
        self.advanced(
            QgsProcessingParameterBoolean(
                NAME_ALL, self.tr("The likeliest class everywhere, never unknown"), False
            )
        )
        self.addParameter(
            QgsProcessingParameterRasterDestination(RASTER, self.tr("Map"), optional=True)
        )
        self.addParameter(
            QgsProcessingParameterVectorDestination(
                FOOTPRINTS,
                self.tr("Map as footprints"),
                QgsProcessing.SourceType.TypeVectorPolygon,
                optional=True,
                createByDefault=False,
            )
        )
        self.addOutput(QgsProcessingOutputNumber(CHIPS, self.tr("Chips predicted")))
        self.addOutput(QgsProcessingOutputNumber(UNKNOWN, self.tr("Chips of no class")))
        self.addOutput(QgsProcessingOutputNumber(NO_DATA, self.tr("Chips without data")))
        self.addOutput(QgsProcessingOutputString(CLASSES, self.tr("Chips by class (JSON)")))

    def prepareAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,  # noqa: ARG002
    ) -> bool:
        # The server sees the features of the mask, never its file.
        given = parameters.get(MASK)
        if isinstance(given, QgsProcessingFeatureSourceDefinition):
            given = given.source.staticValue()
        mask = self.parameterAsVectorLayer({**parameters, MASK: given}, MASK, context)
        self._mask_file = None
        if mask is not None and mask.providerType() == "ogr":
            parts = QgsProviderRegistry.instance().decodeUri("ogr", mask.source())
            self._mask_file = Path(parts.get("path") or "").resolve()
        return True

    def work(self) -> dict[str, Any]:
        paths = {name: self._path(name) for name in SUFFIXES}
        wanted = {name: path for name, path in paths.items() if path}
        if not wanted:
            raise RequestError("No map is wanted. Name a file for RASTER, for FOOTPRINTS, or both.")
        collection = choose_collection(self._client, self.text(COLLECTION) or "")
        inputs = {
            "model": self.file(MODEL),
            "collection": collection.id,
            "others": self.others(),
            "within": self.area(),
            "datetime": self.text(DATETIME),
            "per_class": self.flag(PER_CLASS),
            "name_all": self.flag(NAME_ALL),
        }
        title = f"{Path(inputs['model'] or '').stem} ({collection.id})"
        outputs: dict[str, Any] = {}
        for name, path in wanted.items():
            measures = self.flag(MEASURES) if name == RASTER else None
            done = self.ask("probe-predict", {**inputs, "out": path, "measures": measures})
            outputs.update(
                {
                    name: path,
                    CHIPS: done["rows"],
                    UNKNOWN: done["unknown"],
                    NO_DATA: done["no_data"],
                    CLASSES: json.dumps(done["classes"]),
                }
            )
            abstract = _abstract(done, inputs["model"] or "")
            dress_when_loaded(self._context, path, title, _dresser(abstract, collection.id))
        return outputs

    def _path(self, name: str) -> str:
        """Return where an output goes, if it is wanted. Raises RequestError."""
        path = self.parameterAsOutputLayer(self._parameters, name, self._context)
        allowed = SUFFIXES[name]
        if path and Path(path).suffix.lower() not in allowed:
            raise RequestError(
                f"{name} is '{path}'. It must end in {' or '.join(allowed)}: name such a file."
            )
        if path and Path(path).resolve() == self._mask_file:
            raise RequestError(
                f"{name} is '{path}', the file of the polygons themselves, which would be "
                "replaced. Name another file."
            )
        return str(Path(path).absolute()) if path else ""


def _abstract(done: dict[str, Any], model: str) -> str:
    """Return what a map was made of and what it says, as a paragraph."""
    classes = ", ".join(f"{name} {chips:,}" for name, chips in done["classes"].items())
    counted = f" Chips by class: {classes}, unknown {done['unknown']:,}." if classes else ""
    notes = " ".join(["", *done["notes"]])
    return (
        f"{done['rows']:,} chips of the collection '{done['collection']}', predicted with the "
        f"probe '{model}'. The model's report says how good it is.{counted}{notes}"
    )


def _dresser(abstract: str, collection: str) -> Callable[[QgsMapLayer], None]:
    def dress(layer: QgsMapLayer) -> None:
        # The server wrote the style with the map.
        layer.loadDefaultStyle()
        describe_map(layer, abstract, collection)

    return dress
