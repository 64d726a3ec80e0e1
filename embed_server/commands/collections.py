"""``terrakin collections``, ``info``, ``verify``, ``rename`` and ``delete``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from embed_server.console import EXIT_FAILED, EXIT_PARTLY, note, show
from embed_server.options import json_option, store_option
from embeddings.errors import StoreFormatError
from embeddings.store import Collection, Store


@click.command()
@store_option
@json_option
def collections(store: Path, as_json: bool) -> None:
    """List the collections of a store.

    \b
    Example:
      terrakin collections --store ~/embeddings
    """
    opened = Store.open(store)
    found, damaged = [], []
    for name in [*opened.names(), *opened.shipped()]:
        try:
            found.append(opened.collection(name))
        except StoreFormatError as error:
            damaged.append(f"Error: {error}")
    show(
        [_summary(c) for c in found],
        [f"{c.id:<24} {c.count:>12,}  {c.spec.product}" for c in found],
        as_json=as_json,
    )
    if damaged:
        note("\n".join(damaged))
        sys.exit(EXIT_PARTLY)


@click.command()
@click.argument("name")
@store_option
@json_option
def info(name: str, store: Path, as_json: bool) -> None:
    """Describe one collection: its spec, its scenes, what has no data.

    \b
    Example:
      terrakin info carolina --store ~/embeddings
    """
    collection = Store.open(store).collection(name)
    spec = collection.spec
    lines = [
        collection.description,
        f"  bands     {', '.join(spec.bands)} at {spec.gsd_m:g} m",
        f"  stored as {spec.dim} x {spec.dtype}, {sum(p.bytes for p in collection.parts):,} bytes",
        f"  weights   {spec.weights_sha256[:16]}",
        f"  licence   {collection.licence}",
        f"  written   {collection.created}, last {collection.updated}",
    ]
    for scene in collection.scenes:
        state = "" if scene.complete else "  (not finished: run its embed command again)"
        lines.append(
            f"  scene     {scene.id}  {scene.datetime or 'no date'}  {scene.embedded:,} "
            f"chips, {scene.absent:,} without data{state}"
        )
    show(collection.descriptor, lines, as_json=as_json)


@click.command()
@click.argument("names", nargs=-1)
@store_option
@json_option
def verify(names: tuple[str, ...], store: Path, as_json: bool) -> None:
    """Read every file of the collections (all, or those named) and report what is damaged.

    \b
    Example:
      terrakin verify carolina --store ~/embeddings
    """
    from embeddings.store.verify import verify as verify_collection

    opened = Store.open(store)
    found = {}
    for name in names or opened.names():
        try:
            found[name] = verify_collection(opened.collection(name))
        except StoreFormatError as error:
            found[name] = [str(error)]
    lines = [
        f"{name}: {'whole' if not problems else '; '.join(problems)}"
        for name, problems in found.items()
    ]
    show(found, lines or ["The store holds no collection yet."], as_json=as_json)
    if any(found.values()):
        sys.exit(EXIT_FAILED)


@click.command()
@click.argument("name")
@click.argument("new_name")
@store_option
def rename(name: str, new_name: str, store: Path) -> None:
    """Rename a collection.

    \b
    Example:
      terrakin rename carolina carolina-2018 --store ~/embeddings
    """
    Store.open(store).rename(name, new_name)
    note(f"'{name}' is now '{new_name}'.")


@click.command()
@click.argument("name")
@store_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(name: str, store: Path, yes: bool) -> None:
    """Delete a collection for good.

    \b
    Example:
      terrakin delete carolina --store ~/embeddings
    """
    opened = Store.open(store)
    try:
        holds = f"{opened.collection(name).count:,} embeddings"
    except StoreFormatError:
        holds = "damaged files"
    if not yes and not click.confirm(f"Delete '{name}' with {holds}?", err=True):
        note("Nothing was deleted.")
        sys.exit(EXIT_FAILED)
    opened.delete(name)
    note(f"'{name}' is deleted.")


def _summary(collection: Collection) -> dict[str, Any]:
    bounds = collection.bounds
    return {
        "id": collection.id,
        "count": collection.count,
        "spec": collection.spec.to_json(),
        "bounds": asdict(bounds) if bounds else None,
        "licence": collection.licence,
    }
