"""The ``terrakin`` command: argument parsing and printing only."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from embed_server.console import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PARTLY,
    interruptible,
    note,
    progress_line,
    show,
)
from embed_server.options import MetresType, PlaceType, json_option, store_option
from embeddings import __version__
from embeddings.errors import CancelledError, StoreFormatError, TerrakinError
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.search import MAX_K, Searcher, SearchQuery
from embeddings.store import Collection, Store
from embeddings.types import LonLat


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="terrakin")
def terrakin() -> None:
    """Find the places that are like this place.

    Data goes to standard output, progress and messages to standard error. Exit codes: 0 done,
    1 failed, 2 wrong usage, 3 partly done, 130 interrupted (run the same command to go on).
    """


@terrakin.group()
def embed() -> None:
    """Compute embeddings and add them to a collection."""


@embed.command("raster")
@click.argument("files", nargs=-1, required=True)
@store_option
@click.option("--collection", required=True, help="Name of the collection; made when it is new.")
@click.option("--encoder", default="rcf", show_default=True, help="How pixels become vectors.")
@click.option("--chip", default="32", show_default=True, help="Side of a chip: 32 pixels or 320m.")
@click.option("--stride", help="Step from chip to chip.  [default: the chip's side]")
@click.option(
    "--nodata",
    help="Value of missing pixels, or 'none'.  [default: as the files "
    "declare, else looked for in the corners]",
)
@click.option(
    "--offset",
    type=float,
    help="Added to every pixel, for example -1000 for Sentinel-2 "
    "of processing baseline 04.00 and later.",
)
@click.option("--datetime", "time", help="ISO 8601, or a pattern of the file name such as %Y%m%d.")
@click.option(
    "--scene",
    help="Name of the scene, first part of its ids.  [default: name of the "
    "file, or of the folder where there are several]",
)
@click.option(
    "--dtype",
    default="float16",
    show_default=True,
    type=click.Choice(["float16", "float32", "int8"]),
    help="How vectors are stored.",
)
@click.option("--source", help='The data, for the descriptor: "Sentinel-2 L1C".')
@click.option("--licence", default="proprietary", show_default=True, help="SPDX identifier.")
@click.option(
    "--replace",
    is_flag=True,
    help="Make the collection anew; the old one serves until the new one is complete.",
)
@json_option
def embed_raster_command(
    files: tuple[str, ...], store: Path, time: str | None, as_json: bool, **options: Any
) -> None:
    """Embed one scene, given as one or many GeoTIFFs, in chips.

    Running it again goes on where it stopped, and does nothing when all is done.

    \b
    Example:
      terrakin embed raster B02.tif B03.tif B04.tif B08.tif --chip 160m \\
          --datetime 2018-10-13 --store ~/embeddings --collection carolina
    """
    job = RasterJob(store=store, files=files, datetime=time, **options)
    with progress_line() as line, interruptible() as stop:
        report = embed_raster(job, line, stop.is_set)
    for text in report.notes:
        note(f"Note: {text}")
    resumed = f", {report.resumed:,} of them before this run" if report.resumed else ""
    show(
        report.to_json(),
        [
            f"{report.embedded:,} of {report.planned:,} chips of scene '{report.scene}' are in "
            f"collection '{report.collection}'{resumed}; {report.absent:,} have no data.",
        ],
        as_json=as_json,
    )


@terrakin.command()
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
    for name in opened.names():
        try:
            found.append(opened.collection(name))
        except StoreFormatError as error:
            damaged.append(f"Error: {error}")
    show(
        [_summary(c) for c in found],
        [f"{c.id:<24} {c.count:>12,}  {c.spec.product}" for c in found]
        or ([] if damaged else ["The store holds no collection yet."]),
        as_json=as_json,
    )
    if damaged:
        note("\n".join(damaged))
        sys.exit(EXIT_PARTLY)


@terrakin.command()
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


@terrakin.command()
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


@terrakin.command()
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


@terrakin.command()
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


@terrakin.command()
@store_option
@click.option("--collection", required=True, help="Where to search.")
@click.option("--at", type=PlaceType(), required=True, help="The place: longitude,latitude.")
@click.option(
    "-k", default=10, show_default=True, type=click.IntRange(1, MAX_K), help="How many places."
)
@click.option(
    "--exclude",
    type=MetresType(),
    default="0m",
    show_default=True,
    help="Leave out what is this close to the place: 300m.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the places to .gpkg, .geojson or .parquet.",
)
@json_option
def search(
    store: Path,
    collection: str,
    at: LonLat,
    k: int,
    exclude: float,
    out: Path | None,
    as_json: bool,
) -> None:
    """Find the places most like a place.

    \b
    Example:
      terrakin search --store ~/embeddings --collection carolina --at -76.657,34.718 \\
          -k 20 --exclude 300m --out places.gpkg
    """
    from embeddings.export import check_suffix, result_geojson, write_places

    if out is not None:
        check_suffix(out)
    result = Searcher(Store.open(store)).search(collection, SearchQuery(at, k, exclude))
    answer = result_geojson(result)
    if out is not None:
        write_places(answer, out)
        note(f"{answer['numberReturned']} places written to {out}.")
    if as_json or out is None:
        rows = [
            f"{p['rank']:>5}  {p['similarity']:.4f}  {p['lon']:>11.6f} {p['lat']:>10.6f}  {f['id']}"
            for f in answer["features"]
            for p in (f["properties"],)
        ]
        show(answer, [" rank  cosine          lon        lat  id", *rows], as_json=as_json)


@terrakin.command()
@store_option
@click.option(
    "--port",
    default=0,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port on 127.0.0.1; 0 takes a free one.",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where url and token are written when the server is ready.",
)
@click.option("--stop-with-stdin", is_flag=True, help="Stop when standard input closes.")
def serve(store: Path, port: int, ready_file: Path | None, stop_with_stdin: bool) -> None:
    """Serve a store to QGIS and scripts on this machine.

    Prints one line of JSON when ready; docs/api.md describes the interface.

    \b
    Example:
      terrakin serve --store ~/embeddings --ready-file ready.json
    """
    from embed_server.runner import serve as run
    from embed_server.settings import ServerSettings, Settings

    given: dict[str, Any] = {"port": port, "stop_with_stdin": stop_with_stdin}
    if ready_file is not None:
        given["ready_file"] = ready_file
    sys.exit(run(Settings(store=store, server=ServerSettings(**given))))


@terrakin.command()
@click.argument("files", nargs=-1)
@click.option("--at", type=PlaceType(), help="The place to search from.  [default: the middle]")
@click.option("--nodata", help="Value of missing pixels, or 'none'.")
@click.option("--chip", default="160m", show_default=True, help="Side of a chip.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Folder for the results.",
)
def demo(
    files: tuple[str, ...], at: LonLat | None, nodata: str | None, chip: str, out: Path
) -> None:
    """Run the whole path on a scene: embed, serve, search, export.

    Without FILES it makes a scene first. Writes OUT/places.gpkg and OUT/map.png.

    \b
    Example:
      terrakin demo B02.tif B03.tif B04.tif B08.tif --at -76.657,34.718
    """
    from embed_server.demo import run

    with progress_line() as line, interruptible() as stop:
        run(files, out, at=at, nodata=nodata, chip=chip, progress=line, cancelled=stop.is_set)


def main() -> None:
    """Run the command; turn our errors into one line and an exit code."""
    try:
        sys.exit(terrakin(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CancelledError as error:
        note(str(error))
        sys.exit(EXIT_INTERRUPTED)
    except (KeyboardInterrupt, click.Abort):
        note("Interrupted. Run the same command to go on.")
        sys.exit(EXIT_INTERRUPTED)
    except TerrakinError as error:
        note(f"Error: {error}")
        sys.exit(EXIT_FAILED)


def _summary(collection: Collection) -> dict[str, Any]:
    bounds = collection.bounds
    return {
        "id": collection.id,
        "count": collection.count,
        "spec": collection.spec.to_json(),
        "bounds": asdict(bounds) if bounds else None,
        "licence": collection.licence,
    }


if __name__ == "__main__":
    main()
