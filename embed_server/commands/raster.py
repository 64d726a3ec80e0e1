"""``terrakin embed raster``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from embed_server.console import interruptible, note, progress_line, show
from embed_server.options import json_option, store_option
from embeddings.pipeline import RasterJob, embed_raster


@click.command("raster")
@click.argument("files", nargs=-1, required=True)
@store_option
@click.option("--collection", required=True, help="Name of the collection; made when it is new.")
@click.option("--encoder", default="rcf", show_default=True, help="How pixels become vectors.")
@click.option(
    "--chip",
    help="Side of a chip: 32 pixels or 320m.  [default: as the collection has, else 32]",
)
@click.option(
    "--stride",
    help="Step from chip to chip.  [default: as the collection has, else the chip's side]",
)
@click.option(
    "--nodata",
    help="Value that marks a pixel as missing in whichever band holds it, or 'none'.  [default: "
    "as the files declare, else a value that fills a corner of all bands]",
)
@click.option(
    "--offset",
    type=float,
    help="Added to every number of the files, before the scale they declare: -1000 for "
    "Sentinel-2 of processing baseline 04.00 and later.",
)
@click.option("--datetime", "time", help="ISO 8601, or a pattern of the file name such as %Y%m%d.")
@click.option(
    "--scene",
    help="Name of the scene, first part of its ids.  [default: name of the "
    "file, or of the folder where there are several]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32", "int8"]),
    help="How vectors are stored.  [default: as the collection has, else float16]",
)
@click.option(
    "--source",
    help='The data, for the descriptor: "Sentinel-2 L1C".  [default: as the collection has]',
)
@click.option(
    "--licence",
    help="SPDX identifier.  [default: as the collection has, else proprietary]",
)
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
