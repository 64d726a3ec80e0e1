"""Write a result layer to a GeoPackage: all or nothing, with style, metadata and provenance."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransformContext,
    QgsFeature,
    QgsFeatureSink,
    QgsFields,
    QgsLayerMetadata,
    QgsProviderRegistry,
    QgsVectorFileWriter,
    QgsVectorLayer,
    QgsWkbTypes,
)
from qgis.PyQt.QtXml import QDomDocument

from .errors import CancelledError, ExportError

SUFFIX = ".gpkg"
TABLE = "places"
STYLE_NAME = "terrakin"
PROGRESS_EVERY = 200


@dataclass(frozen=True)
class ExportSource:
    """A copy of a layer that a thread may read: features, style and metadata."""

    name: str
    fields: QgsFields
    wkb_type: QgsWkbTypes.Type
    crs: QgsCoordinateReferenceSystem
    transform_context: QgsCoordinateTransformContext
    features: list[QgsFeature]
    style: QDomDocument
    metadata: QgsLayerMetadata

    @classmethod
    def of(cls, layer: QgsVectorLayer, context: QgsCoordinateTransformContext) -> ExportSource:
        """Copy a layer, on the thread that owns it."""
        style = QDomDocument("qgis")
        layer.exportNamedStyle(style)
        return cls(
            name=layer.name(),
            fields=QgsFields(layer.fields()),
            wkb_type=layer.wkbType(),
            crs=QgsCoordinateReferenceSystem(layer.crs()),
            transform_context=QgsCoordinateTransformContext(context),
            features=[QgsFeature(feature) for feature in layer.getFeatures()],
            style=style,
            metadata=QgsLayerMetadata(layer.metadata()),
        )


def export_geopackage(
    source: ExportSource,
    path: str,
    is_cancelled: Callable[[], bool],
    set_progress: Callable[[float], None],
) -> str:
    """Write a GeoPackage and return its path; ``.gpkg`` is added where it is missing.

    The file is written under another name beside its place and then renamed, so that a failure
    or a cancel leaves an older file of that name as it was. Raises ExportError or
    CancelledError.
    """
    target = Path(path if path.lower().endswith(SUFFIX) else path + SUFFIX)
    try:
        with tempfile.TemporaryDirectory(prefix=".terrakin-", dir=target.parent) as folder:
            draft = Path(folder) / target.name
            _write(source, draft, is_cancelled, set_progress)
            _check_complete(source, draft)
            _dress(source, draft)
            _check_complete(source, draft)
            draft.replace(target)
    except OSError as error:
        raise ExportError(
            f"'{target}' cannot be written ({error.strerror or error}). Choose a folder that "
            "exists and that you may write to; on Windows, remove the file's layer from the "
            "project first."
        ) from None
    return str(target)


def _write(
    source: ExportSource,
    draft: Path,
    is_cancelled: Callable[[], bool],
    set_progress: Callable[[float], None],
) -> None:
    writer = QgsVectorFileWriter.create(
        str(draft),
        source.fields,
        source.wkb_type,
        source.crs,
        source.transform_context,
        _options(source),
    )
    try:
        _check(writer, draft)
        for number, feature in enumerate(source.features):
            if number % PROGRESS_EVERY == 0:
                if is_cancelled():
                    raise CancelledError("The export was cancelled.")
                set_progress(100.0 * number / len(source.features))
            writer.addFeature(feature, QgsFeatureSink.Flag.FastInsert)
        writer.flushBuffer()
        _check(writer, draft)
    finally:
        # The file is complete and closed only when the writer is gone.
        del writer


def _options(source: ExportSource) -> QgsVectorFileWriter.SaveVectorOptions:
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName = "GPKG"
    options.layerName = TABLE
    options.fileEncoding = "UTF-8"
    options.layerOptions = ["GEOMETRY_NAME=geom", f"IDENTIFIER={source.name}"]
    return options


def _check(writer: QgsVectorFileWriter, draft: Path) -> None:
    if writer.hasError() != QgsVectorFileWriter.WriterError.NoError:
        raise ExportError(
            f"The GeoPackage could not be written in '{draft.parent.parent}': "
            f"{writer.errorMessage()}. Is the disk full, or the folder read-only?"
        )


def _dress(source: ExportSource, draft: Path) -> None:
    """Keep style and metadata in the GeoPackage; the style holds the provenance property."""
    uri = f"{draft}|layername={TABLE}"
    layer = QgsVectorLayer(uri, source.name, "ogr")
    imported, message = layer.importNamedStyle(source.style)
    if imported:
        # The message may only complain of the SLD form, which cannot express every symbol.
        message = layer.saveStyleToDatabase(STYLE_NAME, source.name, True, "")
    _, _, names, _, _ = layer.listStylesInDatabase()
    del layer
    if STYLE_NAME not in names:
        raise ExportError(
            f"The style could not be stored in the GeoPackage: {message} Is the disk full?"
        )
    saved, message = QgsProviderRegistry.instance().saveLayerMetadata("ogr", uri, source.metadata)
    if not saved:
        raise ExportError(
            f"The metadata could not be stored in the GeoPackage: {message} Is the disk full?"
        )


def _check_complete(source: ExportSource, draft: Path) -> None:
    """Make sure that all of it is in the file. GDAL and QGIS report no error on closing.

    SQLite writes the last pages when a file is closed; when that fails, they stay behind in a
    journal beside it and the file itself is damaged.
    """
    try:
        with closing(sqlite3.connect(draft)) as file:
            [(state,)] = file.execute("PRAGMA integrity_check").fetchmany(1)
            [(rows,)] = file.execute("SELECT count(*) FROM places")
    except sqlite3.Error as error:
        state, rows = str(error), 0
    left_behind = [path.name for path in draft.parent.iterdir() if path != draft]
    if state != "ok" or rows != len(source.features) or left_behind:
        raise ExportError(
            f"The GeoPackage in '{draft.parent.parent}' is incomplete ({rows} of "
            f"{len(source.features)} places; {state}). Is the disk full?"
        )
