"""One layer of footprints to a GeoPackage, whole or not at all."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embeddings.atomic import atomic_path
from embeddings.errors import InputError
from embeddings.probe.outputs import IF_FULL, check_file

NO_CLOCK = "2000-01-01T00:00:00.000Z"
"""What GeoPackage has to have as time of the last change, so that equal content has equal bytes."""

_COUNTERS = (24, 92)
"""Where SQLite counts the changes of a file, which is another number from run to run."""


def check_layer_path(path: Path) -> None:
    """Raise InputError or StoreError, before any work, if a layer could not be written there."""
    if path.suffix.lower() != ".gpkg":
        raise InputError(f"'{path.name}' is no GeoPackage. Give a name that ends in .gpkg.")
    check_file(path)
    _check_new(path)


def _check_new(path: Path) -> None:
    if path.exists():
        raise InputError(
            f"'{path}' is there already, and what was filled in there would be lost. Name another "
            "file, or remove that one."
        )


def write_layer(
    path: Path,
    layer: str,
    table: pa.Table,
    provenance: Mapping[str, Any],
    more: Mapping[str, pa.Table] | None = None,
    qml: str | None = None,
    *,
    multi: bool = False,
) -> None:
    """Write a table with ``geometry`` (WKB, degrees) and its provenance to a new file.

    ``more`` are tables without geometry, by name; ``qml`` is a style of the layer. ``multi``:
    polygons of one part and of several are all written as MultiPolygon, for tools that want one
    type of geometry. Equal content has equal bytes. Raises InputError or StoreError.
    """
    check_layer_path(path)
    content = io.BytesIO()
    _add(content, layer, table, json.dumps(provenance, sort_keys=True), multi=multi)
    with atomic_path(path, IF_FULL) as temporary:
        # GDAL does not say why it cannot write a file, so it writes into memory and we the file.
        temporary.write_bytes(content.getvalue())
        for name, each in (more or {}).items():
            _add(temporary, name, each, None)
        finish_layer(temporary, layer, qml)
        # Another run may have written there meanwhile.
        _check_new(path)


def _add(
    target: Any, layer: str, table: pa.Table, said: str | None, *, multi: bool = False
) -> None:
    import pyogrio.raw  # late: it takes a third of the server's start

    fields = {name: table[name] for name in table.column_names if name != "geometry"}
    shapes = table["geometry"].to_numpy() if "geometry" in table.column_names else None
    kind = "MultiPolygon" if multi else "Unknown"
    pyogrio.raw.write(
        target,
        geometry=shapes,
        field_data=[_values(column) for column in fields.values()],
        field_mask=[_mask(column) for column in fields.values()],
        fields=list(fields),
        driver="GPKG",
        layer=layer,
        geometry_type=None if shapes is None else kind,
        promote_to_multi=multi,
        crs=None if shapes is None else "EPSG:4326",
        append=shapes is None,
        layer_metadata=None if said is None else {"terrakin": said},
    )


def _values(column: pa.ChunkedArray) -> Any:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=object)
    if pa.types.is_timestamp(kind):
        texts = [
            None if v is None else v.isoformat().replace("+00:00", "Z") for v in column.to_pylist()
        ]
        return np.array(texts, dtype=object)
    return column.fill_null(False if pa.types.is_boolean(kind) else 0).to_numpy()


def _mask(column: pa.ChunkedArray) -> Any:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_timestamp(kind):
        return None
    return column.is_null().to_numpy()


def _add_style(database: sqlite3.Connection, layer: str, qml: str) -> None:
    """Put a layer's style where QGIS looks for it in a GeoPackage."""
    database.execute(
        "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT, "
        "f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256), "
        "f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT, "
        "useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), "
        "update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"
    )
    database.execute(
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
        "f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner, "
        "update_time) VALUES ('', '', ?, 'geom', ?, ?, '', 1, 'Terrakin', '', ?)",
        (layer, layer, qml, NO_CLOCK),
    )
    database.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change) "
        "VALUES ('layer_styles', 'attributes', 'layer_styles', '', ?)",
        (NO_CLOCK,),
    )


def finish_layer(file: Path, layer: str, qml: str | None) -> None:
    """Put a layer's style into the file, and the clock and the count of changes out of it."""
    with closing(sqlite3.connect(file)) as database, database:
        if qml is not None:
            _add_style(database, layer, qml)
        database.execute("UPDATE gpkg_contents SET last_change = ?", (NO_CLOCK,))
        database.execute("UPDATE gpkg_metadata_reference SET timestamp = ?", (NO_CLOCK,))
    with file.open("r+b") as raw:
        for place in _COUNTERS:
            raw.seek(place)
            raw.write((1).to_bytes(4, "big"))
