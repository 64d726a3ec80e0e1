"""``terrakin sql``."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import click

from embed_server.console import note, show
from embed_server.options import json_option, store_option
from embeddings.store import Store

WIDEST = 60
"""Characters of a value that a table for people shows."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("query")
@store_option
@click.option("--limit", default=1_000, show_default=True, help="Most rows to answer.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds the query may take.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
def sql(query: str, store: Path, limit: int, timeout: float, as_csv: bool, as_json: bool) -> None:
    """Ask one read-only SELECT; each collection is a table.

    A table has the columns of its items, their attributes, and "embedding", FLOAT[n] whatever it
    is stored as. Names with a '-' stand in double quotes. It is DuckDB's SQL, with its functions
    for vectors; SHOW TABLES and DESCRIBE say what there is.

    \b
    Example:
      terrakin sql --store ~/embeddings "SELECT id, lon, lat FROM carolina LIMIT 10"
    """
    from embeddings.store.sql import SqlLimits, run_sql

    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    result = run_sql(Store.open(store), query, SqlLimits(rows=limit, seconds=timeout))
    if result.truncated:
        note(f"Only the first {len(result.rows):,} rows are shown. Set --limit, or ask for less.")
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([result.columns, *result.rows])
        return
    data = {
        "columns": result.columns,
        "rows": result.rows,
        "truncated": result.truncated,
        "seconds": round(result.seconds, 3),
    }
    show(data, _aligned([result.columns, *result.rows]), as_json=as_json)


def _aligned(rows: list[list[Any]]) -> list[str]:
    """Return rows as lines whose columns stand under each other."""
    texts = [[_short(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    ]


def _short(value: Any) -> str:
    text = "" if value is None else str(value).replace("\n", " ")
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."
