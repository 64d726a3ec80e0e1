"""SQL answers what it should, and nothing hostile gets through. Each query is a process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from click.testing import CliRunner

from embed_server.commands.sql import sql
from embeddings.errors import InputError
from embeddings.store import Collection, Store
from embeddings.store.reader import Reader, Sandbox
from embeddings.store.sql import SqlLimits, run_sql, view
from embeddings.store.sql_answer import encoded

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
    assert len(result.rows) == (2**20 - len('["x"]')) // len('["' + "x" * 1000 + '"],')


@pytest.mark.parametrize(
    "text",
    [
        "SELECT repeat('x', 2000000)",
        "SELECT list(i % 2 = 0) FROM range(400000) t(i)",
        "SELECT repeat(chr(1), 300000)",
        "SELECT repeat('x', 400000)::BLOB AS a, repeat('x', 600000) AS b",
    ],
)
def test_a_row_larger_than_an_answer_is_refused(store: Store, text: str) -> None:
    with pytest.raises(
        InputError, match=r"One row of the answer is larger than all may be \(1,048"
    ):
        run_sql(store, text, SqlLimits(answer_mb=1))


def test_an_answer_is_measured_as_it_is_sent(store: Store) -> None:
    # As JSON these are 30 times what DuckDB holds: 100,000 bits a row.
    text = "SELECT (SELECT list(i % 2 = 0) FROM range(100000) t(i)) AS l FROM range(30)"
    result = run_sql(store, text, SqlLimits(answer_mb=2))
    assert result.truncated
    assert len(result.rows) == 3
    assert len(result.json) < 2 * 2**20 + 200


def test_rows_after_the_limit_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embeddings.store.sql_answer.PIECE_BYTES", 50)
    made: list[int] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for first in (0, 100, 200):
            made.append(first)
            yield pa.RecordBatch.from_pydict({"n": list(range(first, first + 100))})

    rows, more = encoded(batches(), ["n"], 120, 10_000)
    assert [json.loads(row) for row in rows] == [[n] for n in range(120)]
    assert (more, made) == (True, [0, 100])
    rows, more = encoded(batches(), ["n"], 300, 10_000)
    assert (len(rows), more) == (300, False)
    assert encoded(iter(()), ["n"], 1, 10) == ([], False)


@pytest.mark.parametrize(
    ("kind", "small", "large"),
    [
        (pa.list_(pa.bool_()), [True], [False] * 1000),
        (pa.list_(pa.list_(pa.int8())), [[1]], [[2] * 500, None, [3] * 500]),
        (pa.map_(pa.string(), pa.int8()), [("a", 1)], [(str(i), i % 9) for i in range(600)]),
        (pa.struct({"a": pa.list_(pa.int8())}), {"a": [1]}, {"a": [2] * 1000}),
        (pa.string(), "a", "b" * 70_000),
    ],
)
def test_a_giant_among_small_rows_ends_the_answer_unread(
    kind: Any, small: Any, large: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings.store.sql_answer.MOST_VALUES", 1000)
    monkeypatch.setattr("embeddings.store.sql_answer.PIECE_BYTES", 10_000)
    column = pa.array([small, None, small, large, small], kind)
    batch = pa.RecordBatch.from_arrays([column], ["x"])
    rows, more = encoded(iter([batch]), ["x"], 100, 50_000)
    assert rows == [orjson.dumps([value]) for value in (small, None, small)]
    assert more
    with pytest.raises(InputError, match="One row of the answer is larger"):
        encoded(iter([batch.slice(3)]), ["x"], 100, 50_000)
    assert len(encoded(iter([batch.slice(4)]), ["x"], 100, 50_000)[0]) == 1


def test_odd_values_become_json(store: Store) -> None:
    result = run_sql(
        store,
        """SELECT {'a': ['nan'::DOUBLE, NULL], 'b': 'x'::BLOB} AS s, 'inf'::FLOAT AS f,
        0.1::FLOAT AS g, 1.5::DECIMAL(4, 2) AS d, 2::DECIMAL(4, 2) AS e, interval 1 day AS i,
        MAP {'k': 1} AS m, time '10:00:00' AS t, timestamp '2018-10-13 10:00:00' AS u,
        170141183460469231731687303715884105727::HUGEINT AS h, TIMESTAMP_NS
        '2018-01-01 00:00:00.123456789' AS n, 'a"b' AS q, DATE '2018-10-13' AS s""",
    )
    assert result.columns == list("sfgdeimtuhnqs")
    assert result.rows == [
        [
            {"a": [None, None], "b": "eA=="}, None, 0.10000000149011612, 1.5, 2, [0, 1, 0],
            [["k", 1]], "10:00:00", "2018-10-13T10:00:00", 2**127 - 1,
            "2018-01-01T00:00:00.123456789", 'a"b', "2018-10-13",
        ]
    ]  # fmt: skip


def test_times_that_python_does_not_know_are_text(store: Store) -> None:
    result = run_sql(
        store,
        """SELECT DATE '290000-01-01', 'infinity'::TIMESTAMP, '-infinity'::DATE,
        DATE '0044-03-15 (BC)', 'infinity'::TIMESTAMPTZ, [DATE '290000-01-01', '2020-02-03', NULL],
        {'a': TIMESTAMP '290000-01-01 10:11:12.5', 'b': 1}, MAP {'a': DATE '290000-01-01'},
        TIMESTAMPTZ '9999-12-31 23:00:00-05', TIMESTAMP_S '290000-01-01',
        union_value(a := DATE '290000-01-01'), [[DATE '290000-01-01']]::DATE[][1]""",
    )
    assert result.rows == [
        [
            "290000-01-01", "infinity", "-infinity", "-0043-03-15", "infinity",
            ["290000-01-01", "2020-02-03", None], {"a": "290000-01-01T10:11:12.500000", "b": 1},
            [["a", "290000-01-01"]], "10000-01-01T04:00:00+00:00", "290000-01-01T00:00:00",
            "290000-01-01", [["290000-01-01"]],
        ]
    ]  # fmt: skip
    mixed = "SELECT unnest(['infinity', '1970-01-01 00:35:47.483647', NULL])::TIMESTAMP"
    found = [row[0] for row in run_sql(store, mixed).rows]
    assert found == ["infinity", "1970-01-01T00:35:47.483647", None]


def test_files_of_the_current_folder_are_not_run(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    for name in ("json", "duckdb", "orjson", "pyarrow"):
        (tmp_path / f"{name}.py").write_text(f"open({str(ran)!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    assert answer(store, "SELECT 1") == [[1]]
    assert not ran.exists()


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
