"""``terrakin search``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from embed_server.console import note, show
from embed_server.options import BoundsType, MetresType, PlaceType, json_option, store_option
from embeddings.query.examples import Examples
from embeddings.query.filters import Filter
from embeddings.query.polygons import read_polygons
from embeddings.search import MAX_K, Searcher, SearchQuery, SearchResult
from embeddings.store import Store
from embeddings.types import Bounds, LonLat, TimeRange

_file = click.Path(path_type=Path, dir_okay=False)


_PLACE = re.compile(r"\s*[-+\d.eE]+\s*,\s*[-+\d.eE]+\s*")


@click.command()
@store_option
@click.option("--collection", required=True, help="Where to search.")
@click.option("--at", type=PlaceType(), help="The place: longitude,latitude.")
@click.option(
    "--like", multiple=True, help="Another positive example: longitude,latitude or an item's id."
)
@click.option("--unlike", multiple=True, help="A negative example, as --like.")
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
    "--apart",
    type=MetresType(),
    default="0m",
    show_default=True,
    help="Least distance between two results: 1km.",
)
@click.option("--bbox", type=BoundsType(), help="Only centres in W,S,E,N.")
@click.option(
    "--within", type=_file, help="Only centres in this file's polygons (GeoPackage, GeoJSON ...)."
)
@click.option("--datetime", "time", help="Only this time: 2018-10-13, A/B, A/.. or ../B.")
@click.option("--where", help='Only rows that meet an expression: "cloud < 20".')
@click.option(
    "--out",
    type=_file,
    help="Write the places to .gpkg, .geojson or .parquet.",
)
@json_option
def search(store: Path, collection: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Find the places most like a place, or like examples.

    \b
    Examples:
      terrakin search --store ~/embeddings --collection carolina --at -76.657,34.718 \\
          -k 20 --exclude 300m --out places.gpkg
      terrakin search --store ~/embeddings --collection carolina --at -76.657,34.718 \\
          --like -76.7,34.72 --unlike sentinel-2_8_38 --within county.gpkg --apart 500m
    """
    from embeddings.export import check_out, result_geojson, write_places

    if out is not None:
        check_out(out)
    query, notes = _query(**options)
    for text in notes:
        note(f"Note: {text}")
    result = Searcher(Store.open(store)).search(collection, query)
    answer = result_geojson(result, notes)
    if not answer["features"]:
        note(_why_none(result))
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


def _query(
    at: LonLat | None,
    like: tuple[str, ...],
    unlike: tuple[str, ...],
    k: int,
    exclude: float,
    apart: float,
    bbox: Bounds | None,
    within: Path | None,
    time: str | None,
    where: str | None,
) -> tuple[SearchQuery, tuple[str, ...]]:
    """Return what is asked for, and notes on what was mended in it."""
    if at is None and not like:
        raise click.UsageError("Missing option '--at', or '--like'.")
    read = read_polygons(within) if within is not None else None
    wanted = Filter(
        bounds=bbox,
        polygons=() if read is None else (read.area,),
        time=None if time is None else TimeRange.parse(time),
        where=where,
    )
    query = SearchQuery(at, k, exclude, _examples(like), _examples(unlike), wanted, apart)
    return query, () if read is None else read.notes


def _examples(given: tuple[str, ...]) -> Examples:
    places = [text for text in given if _PLACE.fullmatch(text)]
    return Examples(
        places=tuple(LonLat.parse(text) for text in places),
        ids=tuple(text for text in given if text not in places),
    )


def _why_none(result: SearchResult) -> str:
    if result.query.filter != Filter():
        return "No place was found: none meets the filter."
    if not result.query.exclude_m:
        return "No place was found: the collection holds only the query's own."
    return (
        f"No place was found: all of the collection lie within {result.query.exclude_m:g} m of the "
        "query's own. Choose a smaller --exclude."
    )
