"""``terrakin fetch``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from embed_server.console import interruptible, progress_line, show
from embed_server.options import json_option, store_option
from embeddings.report import Progress


@click.command()
@click.argument("url")
@store_option
@click.option(
    "--collection",
    "names",
    multiple=True,
    help="Which collection; may be given several times.  [default: all]",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Put the remote collection in the place of another one of the same name.",
)
@json_option
def fetch(url: str, store: Path, names: tuple[str, ...], replace: bool, as_json: bool) -> None:
    """Copy collections from a remote store to this machine.

    URL is any address that fsspec knows: s3://, gs://, az://, sftp://, https://, file://.
    Credentials come from the environment. Every file is compared with its hash. Running it again
    goes on where it stopped, brings what is new, and fetches again what is damaged here.

    \b
    Example:
      terrakin fetch s3://bucket/embeddings --store ~/embeddings --collection carolina
    """
    from embeddings.store.fetch import fetch as fetch_collections

    with progress_line() as line, interruptible() as stop:
        fetched = fetch_collections(
            url,
            store,
            names,
            replace=replace,
            tell=lambda done, total, message: line(Progress(done, total, message)),
            cancelled=stop.is_set,
        )
    lines = [
        f"{one.collection}: {one.embeddings:,} embeddings in {one.files:,} files, {one.kept:,} of "
        f"them here before; {one.bytes / 1e6:,.1f} MB copied"
        for one in fetched
    ]
    show(
        [asdict(one) for one in fetched],
        lines or ["The remote store holds no collection yet."],
        as_json=as_json,
    )
