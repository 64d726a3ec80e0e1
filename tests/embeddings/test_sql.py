"""SQL answers what it should, and nothing hostile gets through. Each query is a process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from embed_server.commands.sql import sql
from embeddings.errors import InputError
from embeddings.store import Collection, Store
from embeddings.store.reader import Reader, Sandbox
from embeddings.store.sql import SqlLimits, plain, run_sql, view

LIMITS = SqlLimits(seconds=20)


@pytest.fixture
def store(small: Collection) -> Store:
    return Store.open(small.path.parent)


def answer(store: Store, text: str, limits: SqlLimits = LIMITS) -> list[list[Any]]:
    return run_sql(store, text, limits).rows


def test_collections_are_tables_with_decoded_vectors(store: Store, small: Collection) -> None:
    assert answer(store, "SHOW TABLES") == [["land"], ["world"]]
    result = run_sql(
        store,
        "WITH one AS (SELECT embedding FROM land WHERE id = 'b_3_4')"
        " SELECT id, datetime, geometry, embedding, array_cosine_similarity(embedding,"
        " (FROM one)) AS cosine FROM land ORDER BY cosine DESC LIMIT 3; ",
    )
    assert result.columns == ["id", "datetime", "geometry", "embedding", "cosine"]
    assert not result.truncated
    assert result.rows[0][0] == "b_3_4"
    assert result.rows[0][1] is None
    assert result.rows[0][4] == pytest.approx(1.0)
    everything = Reader(small).items(limit=1000)["id"].to_pylist()
    vector = Reader(small).vectors([everything.index("b_3_4")])[0]
    assert result.rows[0][3] == vector.tolist()
    json.dumps(result.rows)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_every_storage_type_is_decoded(
    dtype: str, tmp_path: Path, land: Callable[..., Any], write_raster: Any, embed: Any
) -> None:
    made = embed(
        tmp_path / "o'store", write_raster(tmp_path / "a.tif", land()), dtype=dtype,
        collection="my-land",
    )  # fmt: skip
    files = [path.resolve().as_posix() for path in made.part_paths]
    sandbox = Sandbox({"my-land": view(made)}, files, 512)
    text = 'SELECT embedding FROM "my-land"'
    tables = list(sandbox.batches(sandbox.select(text, 1024)))
    found = np.concatenate([np.array(b["embedding"].to_pylist(), np.float32) for b in tables])
    stored = np.concatenate([values for _, values in Reader(made).batches()])
    assert found.tolist() == stored.tolist()


HOSTILE = [
    "COPY land TO '{out}'",
    "COPY (SELECT 1) TO '{out}' (FORMAT parquet)",
    "ATTACH '{out}' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "SET memory_limit = '64GB'",
    "RESET enable_external_access",
    "CALL enable_logging('QueryLog', storage = 'file', storage_path = '{out}')",
    "EXPORT DATABASE '{out}'",
    "CREATE TABLE t AS SELECT 1",
    "CREATE OR REPLACE VIEW land AS SELECT 1",
    "DROP VIEW land",
    "DELETE FROM land",
    "INSERT INTO land SELECT * FROM land",
    "UPDATE land SET lon = 0",
    "PREPARE p AS SELECT 1",
    "BEGIN TRANSACTION",
    "CHECKPOINT",
    "EXPLAIN ANALYZE SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY land TO '{out}'",
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM read_blob('/proc/self/environ')",
    "SELECT * FROM read_parquet('{other}')",
    "SELECT * FROM '{other}'",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM read_parquet('https://127.0.0.1:1/a.parquet')",
    "SELECT * FROM read_json('s3://bucket/key')",
    "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM parquet_metadata('{other}')",
    "SELECT * FROM sqlite_scan('{out}', 't')",
    "SELECT * FROM query('COPY land TO ''{out}''')",
    "SELECT * FROM enable_logging('QueryLog', storage = 'file', storage_path = '{out}')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT getenv('HOME')",
    "SELECT * FROM hidden",
    "SELECT * FROM self",
    "SELECT",
    "",
    "not sql",
]


def test_nothing_but_a_select_over_the_collections_is_done(
    small: Collection, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    hidden = pa.table({"secret": [1]})
    other, secret, out = (tmp_path / name for name in ("other.parquet", "secret.csv", "out"))
    pq.write_table(hidden, other)
    secret.write_text("a,b\n1,2\n")
    names = {"out": out, "other": other, "secret": secret, "folder": tmp_path}
    files = [path.resolve().as_posix() for path in small.part_paths]
    for text in HOSTILE:
        sandbox = Sandbox({"land": view(small)}, files, 512)
        with pytest.raises(InputError, match=r"A query is one SELECT|The query was refused"):
            list(sandbox.batches(sandbox.select(text.format(**names), 1024)))
        kept = list(sandbox.batches(sandbox.select("SELECT count(*) AS n FROM land", 1024)))
        assert kept[0]["n"].to_pylist() == [288], text
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.parquet", "secret.csv"]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT count(*) FROM range(10000000) a, range(10000000) b",
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
    ],
)
def test_an_endless_query_is_stopped(store: Store, text: str) -> None:
    start = time.monotonic()
    with pytest.raises(InputError, match=r"longer than 0\.5 s and was stopped"):
        run_sql(store, text, SqlLimits(seconds=0.5))
    assert time.monotonic() - start < 10


def test_a_query_deaf_to_interruption_is_ended_with_its_process(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings.store.sql.GRACE_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(InputError, match="was stopped"):
        run_sql(
            store,
            "SELECT levenshtein(repeat('a', 400000), repeat('b', 400000))",
            SqlLimits(seconds=0.5),
        )
    assert time.monotonic() - start < 6


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM range(100000000) ORDER BY random()",
        "SELECT max(x) FROM (SELECT repeat(i::VARCHAR, 1000000) AS x FROM range(10000) t(i))",
    ],
)
def test_a_hungry_query_is_refused(store: Store, text: str) -> None:
    with pytest.raises(InputError, match=r"(?i)memory"):
        run_sql(store, text, SqlLimits(memory_mb=64, seconds=20))


def test_long_and_wide_answers_are_cut_and_say_so(store: Store) -> None:
    result = run_sql(store, "SELECT * FROM range(10000000000)", SqlLimits(rows=3000))
    assert result.truncated
    assert [row[0] for row in result.rows] == list(range(3000))
    assert not run_sql(store, "SELECT * FROM range(3000)", SqlLimits(rows=3000)).truncated
    wide = "SELECT repeat('x', 1000) AS x FROM range(100000)"
    result = run_sql(store, wide, SqlLimits(rows=100_000, answer_mb=1))
    assert result.truncated
    assert 1000 <= result.table.num_rows < 4000


def test_odd_values_become_json() -> None:
    assert plain({"a": [float("nan"), b"x", (1, None)]}) == {"a": [None, "eA==", [1, None]]}


def test_a_collection_that_cannot_be_read_has_no_table(
    tmp_path: Path, land: Callable[..., Any], write_raster: Any, embed: Any
) -> None:
    good = embed(tmp_path / "s", write_raster(tmp_path / "a.tif", land()), collection="good")
    bad = embed(tmp_path / "s", tmp_path / "a.tif", collection="bad")
    worse = embed(tmp_path / "s", tmp_path / "a.tif", collection="worse")
    bad.part_paths[0].write_bytes(b"PAR1 no parquet at all PAR1")
    worse.part_paths[0].unlink()
    store = Store.open(tmp_path / "s")
    assert answer(store, "SHOW TABLES") == [["good"], ["world"]]
    assert answer(store, "SELECT count(*) FROM good") == [[good.count]]
    with pytest.raises(InputError, match="Tables are the collections: good, world"):
        answer(store, "SELECT * FROM bad")


@pytest.mark.parametrize(
    "changes", [{"rows": 0}, {"rows": 10**9}, {"seconds": 0}, {"seconds": 1e9}, {"memory_mb": 1}]
)
def test_limits_have_limits(changes: dict[str, float]) -> None:
    with pytest.raises(InputError, match="limit"):
        SqlLimits(**changes)  # type: ignore[arg-type]


def test_the_command_prints_a_table_csv_and_json(store: Store) -> None:
    query = (
        "SELECT id, datetime, 1.5::DECIMAL(4, 2) AS d, 'nan'::DOUBLE AS n, 'a,b' AS t, [1, 2] AS l,"
        " interval 1 day AS i, 12345678901234567890123::HUGEINT AS h FROM land ORDER BY id"
    )
    run = CliRunner().invoke
    base = [query, "--store", str(store.path), "--limit", "2"]
    shown = run(sql, base)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[0].split() == ["id", "datetime", "d", "n", "t", "l", "i", "h"]
    assert "Only the first 2 rows" in shown.stderr
    assert len(shown.stdout.splitlines()) == 3
    data = json.loads(run(sql, [*base, "--json"]).stdout)
    assert data["truncated"] is True
    assert data["rows"][0][:6] == ["a_0_0", "2018-10-13T10:00:00+00:00", 1.5, None, "a,b", [1, 2]]
    assert data["rows"][0][7] == 12345678901234567890123
    lines = run(sql, [*base, "--csv"]).stdout.splitlines()
    assert lines[0] == "id,datetime,d,n,t,l,i,h"
    assert '"a,b","[1, 2]"' in lines[1]
    assert run(sql, [*base, "--csv", "--json"]).exit_code == 2
