"""``terrakin index``."""

from __future__ import annotations

from pathlib import Path

import click

from embed_server.console import interruptible, progress_line, show
from embed_server.options import json_option, store_option
from embeddings.errors import StoreNotWritableError
from embeddings.index.build import build_index
from embeddings.report import Progress
from embeddings.store import Store


@click.command("index")
@store_option
@click.option("--collection", required=True, help="Which collection.")
@click.option(
    "--recall",
    type=float,
    default=0.99,
    show_default=True,
    help="Share of the true best 100 that a search is to find.",
)
@json_option
def index_command(store: Path, collection: str, recall: float, as_json: bool) -> None:
    """Build the search index of a collection, tuned on its own vectors.

    Small collections need none. The old index serves until the new one is whole; running it
    again goes on where it stopped, and it is built anew when the collection has changed.

    \b
    Example:
      terrakin index --store ~/embeddings --collection planet
    """
    opened = Store.open(store)
    found = opened.collection(collection)
    if collection in opened.shipped():
        raise StoreNotWritableError(
            f"Collection '{collection}' comes with Terrakin, is read-only and small: it is "
            "searched without an index."
        )
    with progress_line() as line, interruptible() as stop:
        report = build_index(
            found,
            target_recall=recall,
            progress=lambda done, total, text: line(Progress(done, total, text)),
            cancelled=stop.is_set,
        )
    data = {
        "collection": collection,
        "kind": report.kind,
        "rows": report.count,
        "bytes": report.bytes,
        "seconds": report.seconds,
    }
    seconds = sum(report.seconds.values())
    show(
        data,
        [
            f"{report.count:,} rows of '{collection}' are indexed ({report.kind}, "
            f"{report.bytes / 1e6:,.1f} MB) in {seconds:,.1f} s."
        ],
        as_json=as_json,
    )
