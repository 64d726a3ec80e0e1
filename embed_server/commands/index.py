"""``terrakin index``."""

from __future__ import annotations

from pathlib import Path

import click

from embed_server.console import interruptible, note, progress_line, show
from embed_server.options import json_option, store_option
from embeddings.indexing import RECALL, TYPICAL_K, index_advice, index_collection
from embeddings.store import Collection


@click.command("index")
@store_option
@click.option("--collection", required=True, help="Which collection.")
@click.option(
    "--recall",
    type=float,
    default=RECALL,
    show_default=True,
    help=f"Share of the true best {TYPICAL_K} that a search is to find.",
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
    with progress_line() as line, interruptible() as stop:
        made = index_collection(store, collection, recall, line, stop.is_set)
    show(made.to_json(), made.lines, as_json=as_json)


def advise_index(store: Path | str, collection: str) -> None:
    """Say so if a collection that was just written is large and has no index.

    A store at an address is searched where it has been fetched to, so nothing is said of it.
    """
    if isinstance(store, Path):
        advice = index_advice(Collection.load(store / collection))
        if advice is not None:
            note(f"Note: {advice}")
