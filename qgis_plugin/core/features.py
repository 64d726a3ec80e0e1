"""Features of any layer as a file that the server reads. May run in any thread."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable, Sequence

from qgis.core import (
    QgsCoordinateTransformContext,
    QgsFeature,
    QgsFeatureRequest,
    QgsFeatureSink,
    QgsFields,
    QgsProcessingFeatureSource,
    QgsVectorFileWriter,
)

from .errors import CancelledError, ExportError, RequestError

PROGRESS_EVERY = 200
ID_COLUMN = "terrakin_id"
"""Not "fid": a layer may have a field of that name, with values that are no identifiers."""


def write_features(
    source: QgsProcessingFeatureSource,
    fields: Sequence[str],
    folder: Path,
    context: QgsCoordinateTransformContext,
    is_cancelled: Callable[[], bool],
) -> Path:
    """Write the features of a source and some of their fields to a GeoPackage in a folder.

    Features keep their order, values their types and coordinates the CRS of the layer. Raises
    RequestError for what cannot be used, ExportError or CancelledError.
    """
    _check(source, fields)
    path = folder / f"{_file_name(source.sourceName())}.gpkg"
    kept = QgsFields()
    places = [source.fields().lookupField(name) for name in fields]
    for place in places:
        kept.append(source.fields().at(place))
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName = "GPKG"
    options.layerName = path.stem
    options.layerOptions = [f"FID={ID_COLUMN}"]
    # The server mends what is invalid, and says so.
    as_they_are = QgsProcessingFeatureSource.Flag.FlagSkipGeometryValidityChecks
    writer = QgsVectorFileWriter.create(
        str(path), kept, source.wkbType(), source.sourceCrs(), context, options
    )
    try:
        for number, feature in enumerate(source.getFeatures(QgsFeatureRequest(), as_they_are)):
            if number % PROGRESS_EVERY == 0 and is_cancelled():
                raise CancelledError("Cancelled. Nothing was written.")
            copy = QgsFeature(kept)
            copy.setGeometry(feature.geometry())
            copy.setAttributes([feature.attribute(place) for place in places])
            writer.addFeature(copy, QgsFeatureSink.Flag.FastInsert)
        writer.flushBuffer()
        if writer.hasError() != QgsVectorFileWriter.WriterError.NoError:
            raise ExportError(
                f"'{source.sourceName()}' could not be handed to the server through '{folder}': "
                f"{writer.errorMessage()}. Is the disk full?"
            )
    finally:
        # The file is complete and closed only when the writer is gone.
        del writer
    return path


def _check(source: QgsProcessingFeatureSource, fields: Sequence[str]) -> None:
    name = source.sourceName()
    if not source.sourceCrs().isValid():
        raise RequestError(
            f"The layer '{name}' has no CRS, so that nobody knows where its features lie. Set it "
            "with a right click on the layer, Layer CRS > Set Layer CRS."
        )
    known = [field.name() for field in source.fields()]
    for field in fields:
        if field not in known:
            listed = ", ".join(f"'{each}'" for each in known) or "none"
            raise RequestError(
                f"The layer '{name}' has no field '{field}'. Its fields are {listed}."
            )
    if source.featureCount() == 0:
        raise RequestError(
            f"The layer '{name}' gives no features. Select some, or take all features of it."
        )


def _file_name(name: str) -> str:
    """Return a file name for a layer; reports call the labels by it."""
    return re.sub(r"[^\w .()-]+", "_", name).strip(" .") or "labels"
