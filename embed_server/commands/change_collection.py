"""``terrakin change collection``: what changed between dates of a collection, and since when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from embed_server.commands.change import SeveralFiles, tell
from embed_server.console import interruptible, progress_line, show
from embed_server.options import BoundsType, json_option, store_option

_path = click.Path(path_type=Path)


@click.command("collection", cls=SeveralFiles)
@store_option
@click.option("--collection", required=True, help="Whose vectors to compare.")
@click.option(
    "--from",
    "start",
    metavar="DATE",
    help="Date 1: the nearest within --tolerance.  [default: the first there is]",
)
@click.option("--to", "end", metavar="DATE", help="Date 2.  [default: the last there is]")
@click.option(
    "--tolerance",
    "tolerance_days",
    type=float,
    default=30.0,
    show_default=True,
    help="Days that chips may be apart from the date asked for.",
)
@click.option(
    "--with-collection", "other", help="The collection of date 2, if it is another of one spec."
)
@click.option(
    "--dense",
    is_flag=False,
    flag_value="any",
    metavar="[STRIDE]",
    help="Compare stored dense vectors, cell by cell: those of this stride (2, 40m), or the one "
    "there is.",
)
@click.option(
    "--with",
    "scales",
    multiple=True,
    metavar="NAME...",
    help="Of --dense: collections of the same scenes with other chip sizes, whose scores count as "
    "much.",
)
@click.option(
    "--all-dates", is_flag=True, help="Since when: the first lasting change of each place."
)
@click.option(
    "--out",
    required=True,
    type=_path,
    help=".tif (a pixel a chip or cell), .gpkg or .parquet (a footprint a chip).",
)
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=_path,
    metavar="FILE...",
    help="Write the report to .html (for people) or .json (the same data), or both.",
)
@click.option(
    "--metric",
    type=click.Choice(["euclidean", "cosine"]),
    default="euclidean",
    show_default=True,
    help="Whether the length of vectors counts, or their direction alone.",
)
@click.option(
    "--threshold",
    help="Where change begins: a score (1 % of unchanged places exceed 2.326, 5 % 1.645), otsu, "
    "fdr=RATE (share of false alarms among what is called change) or clicks.  [default: 2.326; "
    "clicks, if --clicks says what changed and what did not]",
)
@click.option(
    "--false-alarms",
    type=float,
    default=0.05,
    show_default=True,
    help="Of --all-dates: share of unchanged places that may be named.",
)
@click.option(
    "--history",
    is_flag=True,
    help="The score against each place's own history at other dates, too.",
)
@click.option(
    "--probe", type=_path, help="A model of land cover: changed from what into what, with areas."
)
@click.option(
    "--clicks",
    type=_path,
    help="Labels on places that changed and did not, or of kinds of change.",
)
@click.option("--field", help="Field of --clicks: yes and no, or the kinds.")
@click.option(
    "--clicks-from",
    type=click.Choice(["both", "after", "move"]),
    default="both",
    show_default=True,
    help="What the kinds are told by: what came after, the move from before, or both.",
)
@click.option("--objects", type=_path, help="A .gpkg of chips that changed together, as polygons.")
@click.option(
    "--min-area",
    "min_area_m2",
    type=float,
    default=0.0,
    help="Smallest object in square metres.  [default: one chip]",
)
@click.option("--bbox", type=BoundsType(), help="Only centres in this box: W,S,E,N.")
@json_option
def collection_command(as_json: bool, **options: Any) -> None:
    """Map how unusual the change of each place of a collection is.

    The move of a vector is compared with the moves of places that looked like it at the first
    date. Where there was no data at a date is a layer of its own, never "no change".

    \b
    Examples:
      terrakin change collection --store ~/embeddings --collection years \\
          --from 1990-01-01 --to 2020-01-01 --out score.tif --report report.html
      terrakin change collection --store ~/embeddings --collection years \\
          --all-dates --out since.tif
      terrakin change collection --store ~/embeddings --collection years \\
          --dense --out cells.tif --objects changes.gpkg
    """
    from embed_server.processes.change_runs import collection_to_files
    from embeddings.change.collection_job import CollectionChangeJob
    from embeddings.change.collection_report import report_lines

    job = CollectionChangeJob(**options)
    with progress_line() as line, interruptible() as stop:
        made, report, files = collection_to_files(job, line, stop.is_set)
    tell(made.notes, files)
    show(report, report_lines(report), as_json=as_json)
