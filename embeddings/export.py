"""Items and search results as GeoJSON objects, and as files for QGIS and everyone else."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from embeddings import __version__
from embeddings.atomic import atomic_path
from embeddings.errors import InputError
from embeddings.search import SearchResult
from embeddings.store.schema import ATTRIBUTE_TYPES, ITEM_COLUMNS, geo_metadata

Feature = dict[str, Any]

IF_FULL = "Free some space, or write to another disk."


def items_geojson(items: pa.Table) -> list[Feature]:
    """Turn item rows into GeoJSON features (docs/api.md, Item), attributes after the rest."""
    attributes = [name for name in items.column_names if name not in ITEM_COLUMNS]
    shapes = shapely.from_wkb(items["geometry"].to_pylist())
    geometries = [json.loads(text) for text in shapely.to_geojson(shapes)] if len(shapes) else []
    return [
        {
            "type": "Feature",
            "id": row["id"],
            "geometry": geometry,
            "bbox": [row["bbox"][side] for side in ("xmin", "ymin", "xmax", "ymax")],
            "properties": {
                "lon": row["lon"],
                "lat": row["lat"],
                "datetime": row["datetime"] and _utc(row["datetime"]),
                "grid_cell": row["grid_cell"],
                **{name: _json_value(row[name]) for name in attributes},
            },
        }
        for row, geometry in zip(
            items.drop_columns("geometry").to_pylist(), geometries, strict=True
        )
    ]


def result_geojson(result: SearchResult, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Turn a search result into the GeoJSON object of docs/api.md, Search."""
    features, item, at = items_geojson(result.matches), result.query_item, result.query.at
    scores = zip(features, result.similarity.tolist(), result.percentile.tolist(), strict=True)
    for rank, (feature, similarity, percentile) in enumerate(scores, start=1):
        feature["properties"] = {
            "rank": rank,
            "similarity": round(similarity, 6),
            "percentile": round(100 * percentile, 4),
            **feature["properties"],
        }
    return {
        "type": "FeatureCollection",
        "features": features,
        "numberReturned": len(features),
        "numberMatched": result.matched,
        "query": None if item is None else items_geojson(item)[0],
        "at": None if at is None else list(at.lonlat()),
        "k": result.query.k,
        "exclude_m": result.query.exclude_m,
        "apart_m": result.query.apart_m,
        "collection": result.collection.id,
        "spec": result.collection.spec.to_json(),
        "considered": result.considered,
        "expected_recall": round(result.expected_recall, 4),
        "notes": list(notes),
        "timing_ms": {stage: round(1000 * s, 3) for stage, s in result.seconds.items()},
        "terrakin_version": __version__,
    }


def write_places(answer: Mapping[str, Any], path: Path) -> None:
    """Write a search answer (``result_geojson``, or the server's) to a file, whole or not at all.

    The suffix chooses: ``.gpkg`` (layer "places", the query in the layer's metadata),
    ``.geojson`` or ``.parquet`` (GeoParquet 1.1). Raises InputError for another suffix.
    """
    writer = _writer(path)
    with atomic_path(path, IF_FULL) as temporary:
        writer(answer, temporary)


def merged(answers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Put several named answers into one, to be written together.

    Every feature gets its answer's name as ``query``; the names' own queries stand in
    ``searches``.
    """
    features = [
        {**feature, "properties": {"query": name, **feature["properties"]}}
        for name, answer in answers.items()
        for feature in answer["features"]
    ]
    searches = {
        name: {key: value for key, value in answer.items() if key not in ("type", "features")}
        for name, answer in answers.items()
    }
    return {"type": "FeatureCollection", "features": features, "searches": searches}


def check_out(path: Path) -> None:
    """Raise InputError if ``write_places`` has no such format, or the user named no folder."""
    _writer(path)
    folder = path.absolute().parent
    if not folder.exists():
        raise InputError(
            f"There is no folder '{folder}' to write '{path.name}' into. Make it first, or name "
            "another."
        )


def _writer(path: Path) -> Callable[[Mapping[str, Any], Path], None]:
    writers = {".gpkg": _write_gpkg, ".geojson": _write_geojson, ".parquet": _write_parquet}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise InputError(
            f"'{path.name}' has no suffix that Terrakin writes. Use one of {', '.join(writers)}."
        )
    return writer


def _write_geojson(answer: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(answer) + "\n", encoding="utf-8")


def _columns(answer: Mapping[str, Any]) -> dict[str, pa.Array]:
    rows = [{"id": f["id"], **f["properties"]} for f in answer["features"]]
    kinds = {
        "id": pa.string(),
        "rank": pa.int32(),
        "similarity": pa.float64(),
        "percentile": pa.float64(),
        "datetime": pa.string(),
        "grid_cell": pa.string(),
        "lon": pa.float64(),
        "lat": pa.float64(),
        **_attributes(answer),
    }
    if rows and "query" in rows[0]:
        kinds = {"query": pa.string(), **kinds}
    columns = {}
    for name, kind in kinds.items():
        values = [row.get(name) for row in rows]
        if kind == pa.string():
            values = [None if value is None else str(value) for value in values]
        columns[name] = pa.array(values, kind)
    return columns


def _attributes(answer: Mapping[str, Any]) -> dict[str, pa.DataType]:
    """Return the type in a file of each attribute; times are text, as ``datetime`` is.

    Of several collections that disagree, all is text.
    """
    found: dict[str, pa.DataType] = {}
    for search in answer.get("searches", {"": answer}).values():
        for name, kind in search.get("spec", {}).get("attributes", ()):
            written = pa.string() if kind == "timestamp" else ATTRIBUTE_TYPES[kind]
            found[name] = written if found.get(name, written) == written else pa.string()
    return found


def _footprints(answer: Mapping[str, Any]) -> list[bytes]:
    shapes = [shapely.geometry.shape(f["geometry"]) for f in answer["features"]]
    return [bytes(wkb) for wkb in shapely.to_wkb(shapes, byte_order=1)]


def _provenance(answer: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in answer.items() if key not in ("type", "features")}
    return json.dumps(kept, sort_keys=True)


def _write_gpkg(answer: Mapping[str, Any], path: Path) -> None:
    import pyogrio.raw  # late: it takes a third of the server's start

    columns = _columns(answer)
    text = [pa.types.is_string(column.type) for column in columns.values()]
    # GDAL does not say why it cannot write a file, so it writes into memory and we write the file.
    memory = io.BytesIO()
    pyogrio.raw.write(
        memory,
        geometry=np.array(_footprints(answer), dtype=object),
        field_data=[
            np.array(column.to_pylist(), dtype=object)
            if is_text
            else _filled(column).to_numpy(zero_copy_only=False)
            for column, is_text in zip(columns.values(), text, strict=True)
        ],
        field_mask=[
            None if is_text else column.is_null().to_numpy(zero_copy_only=False)
            for column, is_text in zip(columns.values(), text, strict=True)
        ],
        fields=list(columns),
        driver="GPKG",
        layer="places",
        geometry_type="Unknown",
        crs="EPSG:4326",
        layer_metadata={"terrakin": _provenance(answer)},
    )
    path.write_bytes(memory.getvalue())


def _filled(column: pa.Array) -> pa.Array:
    """Put zeros (or false) where a column has none; a mask says where."""
    return column.fill_null(False if pa.types.is_boolean(column.type) else 0)


def _write_parquet(answer: Mapping[str, Any], path: Path) -> None:
    columns = _columns(answer)
    sides = ("xmin", "ymin", "xmax", "ymax")
    boxes = [dict(zip(sides, f["bbox"], strict=True)) for f in answer["features"]]
    columns["bbox"] = pa.array(boxes, pa.struct([(side, pa.float64()) for side in sides]))
    columns["geometry"] = pa.array(_footprints(answer), pa.binary())
    table = pa.table(columns)
    footer = {b"geo": geo_metadata(table), b"terrakin": _provenance(answer).encode()}
    pq.write_table(table.replace_schema_metadata(footer), path, compression="zstd")


def _json_value(value: Any) -> Any:
    """Return an attribute as JSON has it: times in ISO 8601, null for what is no number."""
    if isinstance(value, datetime):
        return _utc(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _utc(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")
