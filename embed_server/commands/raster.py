"""``terrakin embed raster`` and ``terrakin encoders``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from embed_server.commands.index import advise_index
from embed_server.console import EXIT_PARTLY, interruptible, note, progress_line, show
from embed_server.options import BoundsType, NamesType, any_store_option, json_option
from embeddings import encoders
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.plan import Plan, plan_raster
from embeddings.report import EmbedReport
from embeddings.store.mirror import work_store

_file = click.Path(path_type=Path)

MOST_NOTES = 20
"""Of many scenes each may have its own."""


@click.command("raster")
@click.argument("files", metavar="SCENE...", nargs=-1, required=True)
@any_store_option
@click.option("--collection", required=True, help="Name of the collection; made when it is new.")
@click.option(
    "--encoder",
    help="How pixels become vectors: see 'terrakin encoders'.  [default: as the collection has, "
    "else rcf]",
)
@click.option("--weights", type=_file, help="Local file or folder with the encoder's weights.")
@click.option("--weights-sha256", help="What the weights must hash to.")
@click.option(
    "--chip",
    help="Side of a chip: 32 pixels, 320m, or majortom:224 for fragments on the Major TOM grid.  "
    "[default: as the collection has, else as the encoder was trained, else 32]",
)
@click.option(
    "--stride",
    help="Step from chip to chip.  [default: as the collection has, else the chip's side]",
)
@click.option(
    "--bands",
    type=NamesType(),
    help="Which bands, in which order: B04,B03,B02 or red,green,blue; or names for bands that "
    "have none.  [default: all, or those the encoder wants]",
)
@click.option("--assets", type=NamesType(), help="Assets of a STAC item, by key or common name.")
@click.option(
    "--nodata",
    help="Value that marks a pixel as missing in whichever band holds it, or 'none'.  [default: "
    "as the files declare, else a value that fills a corner of all bands]",
)
@click.option(
    "--mask",
    help="Band that says which pixels are missing: SCL, SCL=0,1,3,8,9,10 or QA_PIXEL=bit3,bit4.",
)
@click.option(
    "--min-valid",
    type=float,
    help="Share of valid pixels a chip needs; its gaps get the chip's mean.  [default: as the "
    "collection has, else 1]",
)
@click.option(
    "--offset",
    type=float,
    help="Added to every number of the files, before the scale: -1000 for Sentinel-2 of "
    "processing baseline 04.00 and later.",
)
@click.option(
    "--scale",
    type=float,
    help="What the numbers are multiplied with, in place of what the files declare.",
)
@click.option(
    "--gsd",
    help="Resample to pixels of this size, such as 10m; or 'native': take them as they are, "
    "whatever the encoder was trained on.",
)
@click.option("--bbox", type=BoundsType(), help="Only this part of the scenes: W,S,E,N.")
@click.option(
    "--datetime", "time", help="ISO 8601, or a pattern of the scenes' file names such as %Y%m%d."
)
@click.option(
    "--scene",
    help="Name of the scene, first part of its ids.  [default: name of the "
    "file, or of the folder where there are several]",
)
@click.option("--each", is_flag=True, help="Every file is a scene of its own.")
@click.option("--mosaic", is_flag=True, help="Scenes of one day become one.")
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
@click.option("--dense", is_flag=True, help="Store a vector for every pixel too, as rasters.")
@click.option(
    "--dense-stride",
    help="With --dense: a vector for every so many pixels, or metres (40m).  [default: 1]",
)
@click.option(
    "--replace",
    is_flag=True,
    help="Make the collection anew; the old one serves until the new one is complete.",
)
@click.option(
    "--workers",
    type=int,
    default=1,
    show_default=True,
    help="Processes of this machine that encode.",
)
@click.option("--scheduler", help="Encode on a Dask cluster: tcp://HOST:PORT.")
@click.option("--plan", is_flag=True, help="Say what would be done and how long; write nothing.")
@json_option
def embed_raster_command(
    files: tuple[str, ...],
    store: Path | str,
    time: str | None,
    dense: bool,
    dense_stride: str | None,
    plan: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Embed imagery, cut into chips.

    A SCENE is a GeoTIFF, COG or VRT, a folder, a STAC item or item collection, a Major TOM image
    Parquet, or the address of one (http, https, s3). Files with different bands are one scene;
    files with the same bands are a scene each. Running it again goes on where it stopped, and
    does nothing when all is done.

    \b
    Examples:
      terrakin embed raster B02.tif B03.tif B04.tif B08.tif --chip 160m \\
          --datetime 2018-10-13 --store ~/embeddings --collection carolina
      terrakin embed raster landsat/*.tif --datetime %Y --store ~/embeddings --collection years
    """
    if dense_stride is not None and not dense:
        raise click.UsageError("--dense-stride goes with --dense.")
    if dense and not isinstance(store, Path):
        raise click.UsageError("--dense writes to a local store; give a folder as --store.")
    with (
        progress_line() as line,
        interruptible() as stop,
        work_store(store, options["collection"], writing=not plan) as (folder, published),
    ):
        asked = (dense_stride or "1") if dense else None
        job = RasterJob(store=folder, files=files, datetime=time, dense=asked, **options)
        if plan:
            planned = plan_raster(job, line, stop.is_set)
        else:
            report = embed_raster(job, line, stop.is_set, published)
    if plan:
        show(planned.to_json(), _plan_lines(planned), as_json=as_json)
        return
    show_report(report, store, as_json=as_json)


def show_report(report: EmbedReport, store: Path | str, *, as_json: bool) -> None:
    """Print what a run did; exit with 3 if something could not be read."""
    for text in report.notes[:MOST_NOTES]:
        note(f"Note: {text}")
    if len(report.notes) > MOST_NOTES:
        note(f"... and {len(report.notes) - MOST_NOTES:,} notes more; --json lists them all.")
    for text in report.failures:
        note(f"Not done: {text}")
    resumed = f", {report.resumed:,} of them before this run" if report.resumed else ""
    missing = f"; {report.missing:,} could not be read" if report.missing else ""
    scenes = report.scenes
    what = f"scene '{scenes[0].scene}'" if len(scenes) == 1 else f"{len(scenes):,} scenes"
    line = (
        f"{report.embedded:,} of {report.planned:,} chips of {what} are in collection "
        f"'{report.collection}'{resumed}; {report.absent:,} have no data{missing}."
    )
    lines = [line]
    if report.dense:
        lines.append(f"{report.dense:,} dense vectors are stored as rasters beside it.")
    show(report.to_json(), lines, as_json=as_json)
    advise_index(store, report.collection)
    if report.failures:
        note("What is missing is listed above; the same command tries it again.")
        sys.exit(EXIT_PARTLY)


def _plan_lines(plan: Plan) -> list[str]:
    lines = []
    for scene in plan.scenes[:20]:
        if scene.error is not None:
            lines.append(f"scene '{scene.scene}': {scene.error}")
            continue
        rows, cols = scene.chip_px
        lines.append(
            f"scene '{scene.scene}': {scene.chips:,} chips of {cols} x {rows} pixels of "
            f"{scene.gsd_m:.4g} m, bands {', '.join(scene.bands)}"
        )
        lines += [f"  note: {text}" for text in scene.notes]
    if len(plan.scenes) > 20:
        lines.append(f"... and {len(plan.scenes) - 20:,} scenes more")
    lines.append(
        f"together {plan.chips:,} chips -> {plan.dim} x {plan.dtype} by {plan.encoder}: at most "
        f"{plan.bytes / 1e6:,.1f} MB before compression"
    )
    if plan.seconds is not None:
        lines.append(
            f"about {plan.seconds:,.0f} s: {plan.fit_s:.1f} s to prepare, then "
            f"{plan.trial_chips / max(plan.trial_s, 1e-9):,.0f} chips/s a worker (measured on "
            f"{plan.trial_chips:,} chips in {plan.trial_s:.1f} s)"
        )
    return lines


@click.command("encoders")
@json_option
def encoders_command(as_json: bool) -> None:
    """List the encoders that --encoder can name.

    \b
    Example:
      terrakin encoders --json
    """
    known = encoders.listing()
    rows = [
        {
            "name": info.name,
            "title": info.title,
            "bands": info.bands,
            "dim": info.dim,
            "chip_px": info.chip_px,
            "available": info.available,
        }
        for info in known
    ]
    lines = []
    for info in known:
        facts = [
            f"{info.bands} bands" if info.bands else "any bands",
            f"{info.chip_px} px" if info.chip_px else "any size",
            f"{info.dim} dimensions" if info.dim else "",
            "" if info.available else "extra not installed",
        ]
        lines.append(f"{info.name}: {info.title} ({', '.join(fact for fact in facts if fact)})")
    show({"encoders": rows}, lines, as_json=as_json)
