"""Items and search results as GeoJSON objects, and as files for QGIS and everyone else."""

from __future__ import annotations

import io
import json
import math
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

from embeddings import __version__
from embeddings.atomic import atomic_path
from embeddings.errors import InputError
from embeddings.search import SearchResult
from embeddings.store.schema import ATTRIBUTE_TYPES, ITEM_COLUMNS, geo_metadata

Feature = dict[str, Any]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BOX_HEAD = struct.pack("<BIII", 1, 3, 1, 5)
_BOX = np.dtype([("head", f"V{len(_BOX_HEAD)}"), ("ring", "<f8", (5, 2))])
"""The WKB of a polygon with one ring of five corners, little-endian."""
IF_FULL = "Free some space, or write to another disk."


def items_geojson(items: pa.Table) -> list[Feature]:
    """Turn item rows into GeoJSON features (docs/api.md, Item), attributes after the rest."""
    if not items.num_rows:
        return []  # a table without rows may be without types
    attributes = [name for name in items.column_names if name not in ITEM_COLUMNS]
    columns = {
        "lon": items["lon"].to_pylist(),
        "lat": items["lat"].to_pylist(),
        "datetime": _times(items["datetime"]),
        "grid_cell": items["grid_cell"].to_pylist(),
        **{name: [_json_value(value) for value in items[name].to_pylist()] for name in attributes},
    }
    sides = (pc.struct_field(items["bbox"], side) for side in ("xmin", "ymin", "xmax", "ymax"))
    return [
        {
            "type": "Feature",
            "id": item_id,
            "geometry": geometry,
            "bbox": list(bbox),
            "properties": dict(zip(columns, row, strict=True)),
        }
        for item_id, geometry, bbox, row in zip(
            items["id"].to_pylist(),
            _geometries(items["geometry"]),
            zip(*(side.to_pylist() for side in sides), strict=True),
            zip(*columns.values(), strict=True),
            strict=True,
        )
    ]


def _geometries(wkb: pa.ChunkedArray) -> list[dict[str, Any]]:
    """Return footprints as GeoJSON; nearly all are polygons of one ring, made in one go."""
    binary = wkb.to_pylist()
    if all(len(each) == _BOX.itemsize and each.startswith(_BOX_HEAD) for each in binary):
        rings = np.frombuffer(b"".join(binary), _BOX)["ring"].tolist()
        return [{"type": "Polygon", "coordinates": [ring]} for ring in rings]
    shapes = shapely.from_wkb(wkb.to_numpy())
    simple = (shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON) & (
        shapely.get_num_interior_rings(shapes) == 0
    )
    if not simple.all() or shapely.is_empty(shapes).any() or shapely.has_z(shapes).any():
        return [json.loads(text) for text in shapely.to_geojson(shapes)]
    points = shapely.get_coordinates(shapes).tolist()
    ends = np.cumsum(shapely.get_num_coordinates(shapes)).tolist()
    return [
        {"type": "Polygon", "coordinates": [points[start:end]]}
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def _times(column: pa.ChunkedArray) -> list[str | None]:
    """Return times in ISO 8601. From numbers: pyarrow looks the time zone up for every row."""
    numbers = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
    # Many chips are of few scenes.
    texts = {
        number: None if number is None else _utc(EPOCH + timedelta(microseconds=number))
        for number in set(numbers)
    }
    return [texts[number] for number in numbers]


def result_geojson(result: SearchResult, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Turn a search result into the GeoJSON object of docs/api.md, Search."""
    started = time.perf_counter()
    query = result.query
    features, place = _features(result)
    for rank, (feature, scores) in enumerate(
        zip(features, _scores(result), strict=True), start=query.offset + 1
    ):
        feature["properties"] = {"rank": rank, **scores, **feature["properties"]}
    answer = {
        "type": "FeatureCollection",
        "features": features,
        "numberReturned": len(features),
        "numberMatched": result.matched,
        "query": place,
        "at": None if query.at is None else list(query.at.lonlat()),
        "k": query.k,
        "limit": query.k if query.limit is None else query.limit,
        "offset": query.offset,
        "state": result.state,
        "exclude_m": query.exclude_m,
        "apart_m": query.apart_m,
        "collection": result.collection.id,
        "spec": result.collection.spec.to_json(),
        "considered": result.considered,
        "expected_recall": round(result.expected_recall, 4),
        "precision": _precision_steps(result),
        "notes": [*notes, *result.notes],
        "terrakin_version": __version__,
    }
    if result.weights:
        weights = result.weights.items()
        answer["collections"] = [{"id": name, "weight": weight} for name, weight in weights]
    seconds = {**result.seconds, "format": time.perf_counter() - started}
    return {**answer, "timing_ms": {stage: round(1000 * s, 3) for stage, s in seconds.items()}}


def _features(result: SearchResult) -> tuple[list[Feature], Feature | None]:
    """Return the matches, and the item at the query's place, as features."""
    if result.query_item is None:
        return items_geojson(result.matches), None
    # A table without rows may be without types.
    tables = [table for table in (result.matches, result.query_item) if table.num_rows]
    *features, place = items_geojson(pa.concat_tables(tables))
    return features, place


def _scores(result: SearchResult) -> list[dict[str, Any]]:
    """Return what is said of each result beside its item, by column."""
    columns: dict[str, list[Any]] = {
        "similarity": [round(value, 6) for value in result.similarity.tolist()],
        "percentile": [round(100 * value, 4) for value in result.percentile.tolist()],
    }
    judged = result.judged
    if judged is not None:
        for name, values in (
            ("precision", judged.precision),
            ("precision_low", judged.low),
            ("precision_high", judged.high),
        ):
            columns[name] = values.round(4).tolist()
    if result.similarities:
        names = list(result.similarities)
        each = zip(*(values.tolist() for values in result.similarities.values()), strict=True)
        columns["similarities"] = [
            {name: round(value, 6) for name, value in zip(names, values, strict=True)}
            for values in each
        ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _precision_steps(result: SearchResult) -> list[dict[str, Any]] | None:
    """Return the curve of estimated precision, best first; None where nothing was judged."""
    if result.judged is None:
        return None
    curve = result.judged.curve
    columns = (curve.threshold, curve.precision, curve.low, curve.high)
    return [
        {
            "similarity": round(similarity, 6),
            "precision": round(precision, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "labels": labels,
        }
        for similarity, precision, low, high, labels in zip(
            *(values.tolist() for values in columns), curve.labels.tolist(), strict=True
        )
    ]


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
    rows = [_flat(f) for f in answer["features"]]
    kinds = {
        "id": pa.string(),
        "rank": pa.int32(),
        "similarity": pa.float64(),
        "percentile": pa.float64(),
        **_optional(answer),
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


def _flat(feature: Feature) -> dict[str, Any]:
    """Return what a feature says by column; the cosine in collection a stands in similarity_a."""
    properties = feature["properties"]
    each = properties.get("similarities", {})
    return {
        "id": feature["id"],
        **properties,
        **{f"similarity_{name}": value for name, value in each.items()},
    }


def _optional(answer: Mapping[str, Any]) -> dict[str, pa.DataType]:
    """Return the columns of estimates and of several collections, where an answer has them."""
    searches = answer.get("searches", {"": answer}).values()
    judged = any(search.get("precision") is not None for search in searches)
    names = ["precision", "precision_low", "precision_high"] if judged else []
    for search in searches:
        names += [f"similarity_{each['id']}" for each in search.get("collections", ())]
    return dict.fromkeys(names, pa.float64())


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
