"""``terrakin embed chips``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from embed_server.commands.raster import show_report
from embed_server.console import interruptible, progress_line
from embed_server.options import NamesType, any_store_option, json_option


@click.command("chips")
@click.argument("table", type=click.Path(path_type=Path))
@any_store_option
@click.option("--collection", required=True, help="Name of the collection; made when it is new.")
@click.option(
    "--encoder",
    help="How pixels become vectors; 'terrakin encoders' lists them.  [default: as the collection "
    "has, else rcf]",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="File or folder of the encoder's weights.  [default: where its library keeps them]",
)
@click.option("--weights-sha256", help="What the weights must hash to, hexadecimal.")
@click.option(
    "--bands",
    type=NamesType(),
    help="Bands by name, in order: red,green,blue; or names for the images' bands.  [default: all, "
    "as the images name them, else their colours, else B1,B2 ...]",
)
@click.option(
    "--nodata", help="Value that marks a pixel as missing in whichever band holds it, or 'none'."
)
@click.option(
    "--scale",
    type=float,
    help="What the numbers are multiplied with, in place of what the images declare.",
)
@click.option(
    "--min-valid",
    type=float,
    help="Share of pixels with data that a chip needs, 0 to 1.  [default: any pixel]",
)
@click.option(
    "--chip-size",
    help="Side of a chip on the ground: 640m.  [default: as the images say, else as the "
    "collection has, else 100m]",
)
@click.option("--scene", help="Name of the table's record.  [default: name of the file]")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32", "int8"]),
    help="How vectors are stored.  [default: as the collection has, else float16]",
)
@click.option("--source", help='The data, for the descriptor: "EuroSAT".')
@click.option(
    "--licence", help="SPDX identifier.  [default: as the collection has, else proprietary]"
)
@click.option(
    "--replace",
    is_flag=True,
    help="Make the collection anew; the old one serves until the new one is complete.",
)
@json_option
def embed_chips_command(table: Path, store: Path | str, as_json: bool, **options: Any) -> None:
    """Embed images that are cut already and listed in a table.

    TABLE is CSV or Parquet with columns path (from the table's folder), lon and lat (centres,
    degrees), and maybe id and datetime. All other columns are kept and come back with every
    result. The images need no CRS; all have the same size and bands.

    Every row is checked before anything is written. Running it again goes on where it stopped,
    and does nothing when all is done. Exit code 3: some images could not be read, which are listed.

    \b
    Example:
      terrakin embed chips coordinates.csv --chip-size 640m --store ~/embeddings \\
          --collection eurosat
    """
    from embeddings.chip_job import ChipsJob
    from embeddings.chip_run import embed_chips
    from embeddings.store.mirror import work_store

    job = ChipsJob(store=Path(), table=table, **options)
    adding = None if job.replace else job.scene_id()
    with (
        progress_line() as line,
        interruptible() as stop,
        work_store(store, job.collection, adding=adding) as (folder, published),
    ):
        report = embed_chips(replace(job, store=folder), line, stop.is_set, published)
    show_report(report, store, as_json=as_json)
