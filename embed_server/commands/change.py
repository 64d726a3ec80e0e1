"""``terrakin change raster``: a change map of two dates of imagery."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from embed_server.console import interruptible, note, progress_line, show
from embed_server.options import BoundsType, NamesType, json_option

_path = click.Path(path_type=Path)


class SeveralFiles(click.Command):
    """A command whose options of several values take them one after another.

    ``--before a.tif b.tif`` is read as ``--before a.tif --before b.tif``.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option before each of its values."""
        many = {
            name
            for param in self.params
            if isinstance(param, click.Option) and param.multiple
            for name in param.opts
        }
        return super().parse_args(ctx, _repeated(args, many))


def _repeated(args: list[str], many: set[str]) -> list[str]:
    found: list[str] = []
    option: str | None = None
    waiting = False
    for word in args:
        if word.startswith("-") and len(word) > 1:
            name, given, _ = word.partition("=")
            option, waiting = (name, not given) if name in many else (None, False)
        elif waiting or option is None:
            waiting = False
        else:
            found.append(option)
        found.append(word)
    return found


@click.group("change")
def change() -> None:
    """Map what changed between dates, measured against its own noise."""


@change.command("raster", cls=SeveralFiles)
@click.option(
    "--before",
    multiple=True,
    required=True,
    metavar="FILE...",
    help="Date 1: its bands as files, a folder, a STAC item, or addresses.",
)
@click.option(
    "--after", multiple=True, required=True, metavar="FILE...", help="Date 2, in the same way."
)
@click.option(
    "--out", required=True, type=_path, help="SCORE.tif; SCORE_coverage.tif is written beside it."
)
@click.option(
    "--report",
    "reports",
    multiple=True,
    type=_path,
    metavar="FILE...",
    help="Write the report to .html (for people) or .json (the same data), or both.",
)
@click.option("--classes", type=_path, help="A .tif of no change and change, or of its kinds.")
@click.option("--objects", type=_path, help="A .gpkg of the places that changed, as polygons.")
@click.option("--probability", is_flag=True, help="Add the probability of change as band 2.")
@click.option(
    "--threshold",
    help="Where change begins: otsu, fdr=RATE (share of false alarms among what is called "
    "change), a score, or clicks.  [default: fdr=0.1; with --clicks these, if they can]",
)
@click.option(
    "--clicks",
    type=_path,
    help="Points or polygons of places that changed and that did not, or of kinds of change.",
)
@click.option(
    "--field", help="Field of --clicks: yes and no, 1 and 0, or the kinds, 'no change' among them."
)
@click.option(
    "--min-area",
    "min_area_m2",
    type=float,
    help="Smallest object in square metres.  [default: 4 pixels]",
)
@click.option(
    "--before-date", help="ISO 8601, or a pattern of the file names such as %Y%m%d, of date 1."
)
@click.option("--after-date", help="The same of date 2.")
@click.option(
    "--bands",
    type=NamesType(),
    help="Which bands of both dates: B02,B03,B04; or names for bands that have none.  "
    "[default: all]",
)
@click.option(
    "--mask",
    help="Band that says which pixels are missing: SCL, SCL=0,1,3,8,9,10 or QA_PIXEL=bit3,bit4.",
)
@click.option(
    "--nodata",
    help="Value that marks a pixel as missing in whichever band holds it, or 'none'.  [default: "
    "as the files declare, else a value that fills a corner of all bands]",
)
@click.option("--offset", type=float, help="Added to every number of the files, before the scale.")
@click.option("--scale", type=float, help="What the numbers of the files are multiplied with.")
@click.option("--gsd", help="Compare at pixels of this size, such as 20m.  [default: of date 1]")
@click.option("--bbox", type=BoundsType(), help="Only this part of date 1: W,S,E,N.")
@click.option(
    "--register/--no-register",
    default=True,
    show_default=True,
    help="Measure how far date 2 lies beside date 1, and undo it.",
)
@json_option
def raster_command(as_json: bool, before: tuple[str, ...], **options: Any) -> None:
    """Map how unusual the change of each pixel is between two dates.

    The grid is that of date 1, at its finest band. Date 2 is brought onto it, whatever its size,
    resolution or CRS. Run the same command again after a stop, and it goes on.

    \b
    Example:
      terrakin change raster --before 2016/B02.tif 2016/B03.tif 2016/B04.tif 2016/B08.tif \\
          --after 2017/B02.tif 2017/B03.tif 2017/B04.tif 2017/B08.tif \\
          --out score.tif --objects changes.gpkg --report report.html
      terrakin change raster --before 2016/*.tif --after 2017/*.tif --out score.tif \\
          --clicks clicks.gpkg --field what --classes kinds.tif --report report.html
    """
    from embed_server.processes.change_runs import raster_to_files
    from embeddings.change.raster_job import RasterChangeJob
    from embeddings.change.raster_report import report_lines

    job = RasterChangeJob(before=before, **options)
    with progress_line() as line, interruptible() as stop:
        made, report, files = raster_to_files(job, line, stop.is_set)
    tell(made.notes, files)
    show(report, report_lines(report), as_json=as_json)


def tell(notes: Iterable[str], files: Iterable[Path]) -> None:
    """Tell what was noticed, and what was written."""
    for text in notes:
        note(f"Note: {text}")
    note(f"Written: {', '.join(map(str, files))}")
