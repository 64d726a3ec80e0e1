"""Items and search results as GeoJSON objects, and as files for QGIS and everyone else."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from embeddings import __version__
from embeddings.atomic import atomic_path
from embeddings.errors import InputError
from embeddings.search import SearchResult
from embeddings.store.schema import geo_metadata

Feature = dict[str, Any]

IF_FULL = "Free some space, or write to another disk."


def items_geojson(items: pa.Table) -> list[Feature]:
    """Turn item rows into GeoJSON features (docs/api.md, Item)."""
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
            },
        }
        for row, geometry in zip(
            items.drop_columns("geometry").to_pylist(), geometries, strict=True
        )
    ]


def result_geojson(result: SearchResult) -> dict[str, Any]:
    """Turn a search result into the GeoJSON object of docs/api.md, Search."""
    features = items_geojson(result.matches)
    for rank, (feature, similarity) in enumerate(
        zip(features, result.similarity.tolist(), strict=True), start=1
    ):
        feature["properties"] = {
            "rank": rank,
            "similarity": round(similarity, 6),
            **feature["properties"],
        }
    return {
        "type": "FeatureCollection",
        "features": features,
        "numberReturned": len(features),
        "numberMatched": result.matched,
        "query": items_geojson(result.query_item)[0],
        "at": list(result.query.at.lonlat()),
        "k": result.query.k,
        "exclude_m": result.query.exclude_m,
        "collection": result.collection.id,
        "spec": result.collection.spec.to_json(),
        "considered": result.considered,
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


def _columns(answer: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    rows = [{"id": f["id"], **f["properties"]} for f in answer["features"]]
    dtypes = {
        "id": object,
        "rank": np.int32,
        "similarity": np.float64,
        "datetime": object,
        "grid_cell": object,
        "lon": np.float64,
        "lat": np.float64,
    }
    if rows and "query" in rows[0]:
        dtypes = {"query": object, **dtypes}
    return {
        name: np.array([row[name] for row in rows], dtype=dtype) for name, dtype in dtypes.items()
    }


def _footprints(answer: Mapping[str, Any]) -> list[bytes]:
    shapes = [shapely.geometry.shape(f["geometry"]) for f in answer["features"]]
    return [bytes(wkb) for wkb in shapely.to_wkb(shapes, byte_order=1)]


def _provenance(answer: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in answer.items() if key not in ("type", "features")}
    return json.dumps(kept, sort_keys=True)


def _write_gpkg(answer: Mapping[str, Any], path: Path) -> None:
    import pyogrio.raw  # late: it takes a third of the server's start

    columns = _columns(answer)
    # GDAL does not say why it cannot write a file, so it writes into memory and we write the file.
    memory = io.BytesIO()
    pyogrio.raw.write(
        memory,
        geometry=np.array(_footprints(answer), dtype=object),
        field_data=list(columns.values()),
        fields=list(columns),
        driver="GPKG",
        layer="places",
        geometry_type="Unknown",
        crs="EPSG:4326",
        layer_metadata={"terrakin": _provenance(answer)},
    )
    path.write_bytes(memory.getvalue())


def _write_parquet(answer: Mapping[str, Any], path: Path) -> None:
    columns: dict[str, Any] = {}
    for name, values in _columns(answer).items():
        kind = pa.string() if values.dtype == object else pa.from_numpy_dtype(values.dtype)
        columns[name] = pa.array(values.tolist(), kind)
    sides = ("xmin", "ymin", "xmax", "ymax")
    boxes = [dict(zip(sides, f["bbox"], strict=True)) for f in answer["features"]]
    columns["bbox"] = pa.array(boxes, pa.struct([(side, pa.float64()) for side in sides]))
    columns["geometry"] = pa.array(_footprints(answer), pa.binary())
    table = pa.table(columns)
    footer = {b"geo": geo_metadata(table), b"terrakin": _provenance(answer).encode()}
    pq.write_table(table.replace_schema_metadata(footer), path, compression="zstd")


def _utc(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")
