"""``terrakin embed locations``, ``terrakin grid`` and ``terrakin train location``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from embed_server.commands.index import advise_index
from embed_server.console import interruptible, note, progress_line, show
from embed_server.options import BoundsType, StoreType, json_option, store_option
from embeddings.types import Bounds

_file = click.Path(path_type=Path, dir_okay=False)


@click.command("locations")
@click.option(
    "--encoder",
    default="terrakin",
    show_default=True,
    help="terrakin (shipped), satclip:FILE.ckpt, or a MODEL.safetensors of your own.",
)
@click.option("--points", type=_file, help="CSV or Parquet with columns lon and lat, degrees.")
@click.option("--out", type=_file, help="Parquet of the points' vectors.")
@click.option("--grid-km", type=float, help="Embed every cell of the Major TOM grid this wide.")
@click.option("--bbox", type=BoundsType(), help="Only cells whose centre lies in W,S,E,N.")
@click.option("--within", type=_file, help="Only cells whose centre lies in this file's polygons.")
@click.option("--land", is_flag=True, help="Only cells whose centre lies on land.")
@click.option(
    "--store",
    type=StoreType(),
    envvar="TERRAKIN_STORE",
    help="Folder of collections, for a grid.",
)
@click.option("--collection", help="Name of the collection, for a grid.")
@click.option(
    "--dtype",
    default="float16",
    show_default=True,
    type=click.Choice(["float16", "float32"]),
    help="How vectors of a grid are stored.",
)
@click.option("--replace", is_flag=True, help="Make the collection anew.")
@json_option
def embed_locations_command(
    encoder: str,
    points: Path | None,
    out: Path | None,
    grid_km: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn places into vectors: a table of points, or every cell of a grid.

    Points keep their order and their columns; longitudes beyond 180 are wrapped. A grid becomes a
    collection, and running it again goes on where it stopped.

    \b
    Examples:
      terrakin embed locations --points points.csv --out vectors.parquet
      terrakin embed locations --encoder satclip:satclip-vit16-l40.ckpt --grid-km 10 --land \\
          --store ~/embeddings --collection satclip
    """
    if (points is None) == (grid_km is None):
        raise click.UsageError(
            "Give either --points and --out, or --grid-km, --store and --collection."
        )
    _refuse_foreign(points is not None, out, options)
    if points is not None:
        if out is None:
            raise click.UsageError("--points needs --out, a Parquet file.")
        _embed_points(points, out, encoder, as_json)
        return
    missing = [f"--{name}" for name in ("store", "collection") if options[name] is None]
    if missing:
        raise click.UsageError(f"--grid-km needs {' and '.join(missing)}.")
    _embed_grid(encoder, grid_km, as_json, **options)


def _refuse_foreign(of_points: bool, out: Path | None, options: dict[str, Any]) -> None:
    """Refuse options that belong to the other form of the command."""
    if of_points:
        names = ("bbox", "within", "land", "collection", "replace")
        foreign = [f"--{name}" for name in names if options[name]]
    else:
        foreign = ["--out"] if out is not None else []
    if foreign:
        form = "--points" if of_points else "--grid-km"
        raise click.UsageError(f"{', '.join(foreign)} does not go with {form}.")


def _embed_points(points: Path, out: Path, encoder: str, as_json: bool) -> None:
    from embeddings.locations import embed_points, location_encoder

    with progress_line() as line, interruptible() as stop:
        count = embed_points(points, out, location_encoder(encoder), line, stop.is_set)
    show(
        {"points": count, "out": str(out)},
        [f"{count:,} vectors written to {out}."],
        as_json=as_json,
    )


def _embed_grid(
    encoder: str,
    grid_km: Any,
    as_json: bool,
    *,
    bbox: Bounds | None,
    within: Path | None,
    **options: Any,
) -> None:
    from embeddings.location_grid import GridJob, embed_grid
    from embeddings.locations import location_encoder
    from embeddings.sources.areas import Area

    if bbox is not None and within is not None:
        raise click.UsageError("Give --bbox or --within, not both.")
    area = Area.of_box(bbox) if bbox is not None else None
    area = Area.of_file(within) if within is not None else area
    with progress_line() as line, interruptible() as stop:
        report = embed_grid(
            GridJob(grid_km=grid_km, area=area, **options),
            location_encoder(encoder),
            line,
            stop.is_set,
        )
    show(
        report.to_json(),
        [
            f"{report.embedded:,} cells of the {grid_km:g} km grid are in collection "
            f"'{report.collection}'."
        ],
        as_json=as_json,
    )
    advise_index(options["store"], report.collection)


@click.command()
@click.option("--km", type=float, default=10.0, show_default=True, help="Width of a cell.")
@click.option("--points", type=_file, required=True, help="CSV or Parquet with lon and lat.")
@click.option("--out", type=_file, required=True, help="CSV of the cells.")
@click.option(
    "--official",
    is_flag=True,
    help="Answer south of the grid's first row as ESA's code "
    "does (it wraps to the northernmost row) instead of refusing.",
)
def grid(km: float, points: Path, out: Path, official: bool) -> None:
    """Name the Major TOM cell of each point.

    Writes lon, lat, cell, grid_row_u, grid_col_r, sw_lat, sw_lon, utm_epsg, in input order.

    \b
    Example:
      terrakin grid --km 10 --points points.csv --out cells.csv
    """
    from embeddings.locations import name_cells

    count = name_cells(points, out, km, official=official)
    note(f"{count:,} cells written to {out}.")


@click.command("location")
@click.option("--from", "collection", required=True, help="The collection to learn from.")
@store_option
@click.option("--out", type=_file, required=True, help="MODEL.safetensors; MODEL.json beside it.")
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=5000,
    show_default=True,
    help="Steps of 1,024 places; 5,000 take about seven minutes on two cores.",
)
@click.option("--seed", default=0, show_default=True)
@json_option
def train_location_command(
    collection: str, store: Path, out: Path, steps: int, seed: int, as_json: bool
) -> None:
    """Train a continuous location encoder on the vectors of a collection.

    It then gives a vector for any place on Earth. Uses a GPU where there is one.

    \b
    Example:
      terrakin train location --from world --store ~/embeddings --out mine.safetensors
    """
    from embeddings.store import Store
    from embeddings.training import train_location

    with progress_line() as line, interruptible() as stop:
        report = train_location(
            Store.open(store).collection(collection),
            out,
            steps=steps,
            seed=seed,
            progress=line,
            cancelled=stop.is_set,
        )
    show(report, [f"{key:<20} {value}" for key, value in report.items()], as_json=as_json)
