"""Check that a collection is what its ``collection.json`` says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embeddings import codec, encoders
from embeddings.errors import StoreFormatError
from embeddings.index.open import index_problems
from embeddings.store.collection import Collection, Part
from embeddings.store.layout import DENSE_FOLDER
from embeddings.store.schema import arrow_schema, embedding_matrix, read_footer_spec


def verify(
    collection: Collection, progress: Callable[[int, int], None] = lambda *_: None
) -> list[str]:
    """Read every part, every dense tile and the index; return what is wrong, in words.

    ``progress`` is called with the parts done and their number.
    """
    problems = _check_encoder(collection)
    seen: set[str] = set()
    for done, part in enumerate(collection.parts, start=1):
        try:
            problems += _check_part(collection, part, seen)
        except (StoreFormatError, pa.ArrowException, OSError) as error:
            problems.append(f"{part.file}: cannot be read ({str(error).splitlines()[0]})")
        progress(done, len(collection.parts))
    problems += _check_dense(collection)
    problems += index_problems(collection)
    problems += [
        f"scene '{scene.id}' is not finished: run its embed command again"
        for scene in collection.scenes
        if not scene.complete
    ]
    return problems


def _check_encoder(collection: Collection) -> list[str]:
    if collection.spec.layout is None:  # embeddings of places; there is no image to embed later
        return []
    try:
        encoder = encoders.load(collection.path)
    except StoreFormatError as error:
        return [str(error)]
    if encoder.sha256 != collection.spec.weights_sha256:
        return ["the encoder's weights are not those the collection was made with"]
    return []


def _check_dense(collection: Collection) -> list[str]:
    problems = []
    for path in sorted((collection.path / DENSE_FOLDER).glob("*.parquet")):
        try:
            rows = pq.read_table(path, columns=["tile", "sha256"]).to_pylist()
        except (pa.ArrowException, OSError) as error:
            problems.append(f"{DENSE_FOLDER}/{path.name}: cannot be read ({error})")
            continue
        for row in rows:
            if row["tile"] is not None:
                problems += _check_file(collection.path, row["tile"], row["sha256"])
    return problems


def _check_file(folder: Path, file: str, sha256: str) -> list[str]:
    if not (folder / file).exists():
        return [f"{file}: is missing"]
    with (folder / file).open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != sha256:
            return [f"{file}: its content has changed since it was written"]
    return []


def _check_part(collection: Collection, part: Part, seen: set[str]) -> list[str]:
    problems = _check_file(collection.path, part.file, part.sha256)
    if problems:
        return problems
    path: Path = collection.path / part.file
    spec = collection.spec
    if read_footer_spec(path) != spec:
        problems.append(f"{part.file}: its footer states another spec")
    with pq.ParquetFile(path) as file:
        if not file.schema_arrow.equals(arrow_schema(spec)):
            problems.append(f"{part.file}: its columns are not those of format version 1")
        if file.metadata.num_rows != part.rows:
            problems.append(f"{part.file}: {file.metadata.num_rows} rows, {part.rows} recorded")
        for batch in file.iter_batches(columns=["id", "embedding"]):
            ids = batch.column("id").to_pylist()
            if len(seen) + len(ids) != len(seen | set(ids)):
                problems.append(f"{part.file}: holds an id twice")
            seen.update(ids)
            vectors = embedding_matrix(batch.column("embedding"))
            if not np.isfinite(codec.decode(vectors, spec.dtype, spec.scale)).all():
                problems.append(f"{part.file}: holds NaN or infinity")
    return problems
