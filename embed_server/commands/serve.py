"""``terrakin serve`` and ``terrakin demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from embed_server.console import interruptible, progress_line
from embed_server.options import PlaceType, store_option
from embeddings.types import LonLat


@click.command()
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


@click.command()
@click.argument("files", nargs=-1)
@click.option("--at", type=PlaceType(), help="The place to search from.  [default: the middle]")
@click.option("--nodata", help="Value of missing pixels, or 'none'.")
@click.option("--chip", default="160m", show_default=True, help="Side of a chip.")
@click.option("--made-up", is_flag=True, help="Make a scene from a seed and run on that.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Folder for the results.",
)
def demo(
    files: tuple[str, ...],
    at: LonLat | None,
    nodata: str | None,
    chip: str,
    made_up: bool,
    out: Path,
) -> None:
    """Show what Terrakin does, through the real server: on the whole Earth, or on a scene.

    Without FILES it asks the shipped world collection for the kin of three places. With FILES
    (or --made-up) it embeds the scene, searches it and exports. Writes OUT/places.gpkg and
    OUT/map.png.

    \b
    Examples:
      terrakin demo
      terrakin demo B02.tif B03.tif B04.tif B08.tif --at -76.657,34.718
    """
    from embed_server import demo as scene_demo
    from embed_server import world_demo

    with progress_line() as line, interruptible() as stop:
        if files or made_up:
            scene_demo.run(
                files, out, at=at, nodata=nodata, chip=chip, progress=line, cancelled=stop.is_set
            )
        else:
            world_demo.run(out, scene_demo.server, stop.is_set)
