"""``terrakin search``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from embed_server.console import note, show
from embed_server.options import BoundsType, MetresType, PlaceType, json_option, store_option
from embeddings.errors import InputError
from embeddings.query.examples import Examples
from embeddings.query.filters import Filter
from embeddings.query.polygons import read_polygons
from embeddings.search import MAX_K, Searcher, SearchQuery, SearchResult, Weighted
from embeddings.store import Store
from embeddings.types import Bounds, LonLat, TimeRange

_file = click.Path(path_type=Path, dir_okay=False)


_PLACE = re.compile(r"\s*[-+\d.eE]+\s*,\s*[-+\d.eE]+\s*")


class WeightedType(click.ParamType[Weighted]):
    """NAME or NAME=WEIGHT."""

    name = "name[=weight]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a Weighted, or fail with the reason."""
        if isinstance(value, Weighted):
            return value
        name, given, weight = str(value).partition("=")
        try:
            return Weighted(name, float(weight) if given else 1.0)
        except ValueError:
            self.fail(f"'{weight}' is not a weight. Write {name}=0.5.", param, ctx)
        except InputError as error:
            self.fail(str(error), param, ctx)


@click.command()
@store_option
@click.option("--collection", required=True, help="Where to search.")
@click.option(
    "--with",
    "others",
    multiple=True,
    type=WeightedType(),
    help="Search this collection too, joined by item ids: NAME or NAME=WEIGHT, against 1.",
)
@click.option("--at", type=PlaceType(), help="The place: longitude,latitude.")
@click.option(
    "--like", multiple=True, help="Another positive example: longitude,latitude or an item's id."
)
@click.option(
    "--like-image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An image of one chip, or a folder of its bands, as a positive example.",
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
@click.option("--confirmed", multiple=True, metavar="ID", help="A result that was right.")
@click.option("--rejected", multiple=True, metavar="ID", help="A result that was wrong.")
@click.option("--limit", type=click.IntRange(1), help="Most places on this page; all.")
@click.option(
    "--offset",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="How many of the -k places come before this page.",
)
@click.option("--state", help="State of the first page: fail if the rows have changed.")
@click.option(
    "--out",
    type=_file,
    help="Write the places to .gpkg, .geojson or .parquet.",
)
@json_option
def search(
    store: Path,
    collection: str,
    others: tuple[Weighted, ...],
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the places most like a place, or like examples.

    \b
    Examples:
      terrakin search --store ~/embeddings --collection carolina --at -76.657,34.718 \\
          -k 20 --exclude 300m --out places.gpkg
      terrakin search --store ~/embeddings --collection optical --with radar=0.5 \\
          --at -76.657,34.718
      terrakin search --store ~/embeddings --collection carolina --at -76.657,34.718 \\
          --like -76.7,34.72 --unlike sentinel-2_8_38 --within county.gpkg --apart 500m
    """
    from embeddings.export import check_out, result_geojson, write_places

    if out is not None:
        check_out(out)
    query, notes = _query(**options)
    for text in notes:
        note(f"Note: {text}")
    searcher = Searcher(Store.open(store))
    if others:
        result = searcher.search_fused((Weighted(collection), *others), query)
    else:
        result = searcher.search(collection, query)
    for text in result.notes:
        note(f"Note: {text}")
    answer = result_geojson(result, notes)
    if not answer["features"]:
        note(_why_none(result))
    if out is not None:
        write_places(answer, out)
        note(f"{answer['numberReturned']} places written to {out}.")
    if result.next_offset is not None:
        following = f"--limit {query.limit} --offset {result.next_offset} --state {result.state}"
        note(f"Next page of {result.found:,} places: {following}")
    if as_json or out is None:
        show(answer, _lines(answer), as_json=as_json)


def _lines(answer: dict[str, Any]) -> list[str]:
    """Return a table of the places, with their estimated precision where there is one."""
    judged = answer["precision"] is not None
    rows = [
        f"{p['rank']:>5}  {p['similarity']:.4f}  "
        + (f"{p['precision']:>9.2f}  " if judged else "")
        + f"{p['lon']:>11.6f} {p['lat']:>10.6f}  {f['id']}"
        for f in answer["features"]
        for p in (f["properties"],)
    ]
    return [f" rank  cosine  {'precision  ' * judged}        lon        lat  id", *rows]


def _query(
    at: LonLat | None,
    like: tuple[str, ...],
    images: tuple[Path, ...],
    unlike: tuple[str, ...],
    k: int,
    exclude: float,
    apart: float,
    bbox: Bounds | None,
    within: Path | None,
    time: str | None,
    where: str | None,
    **more: Any,
) -> tuple[SearchQuery, tuple[str, ...]]:
    """Return what is asked for, and notes on what was mended in it."""
    if at is None and not like and not images:
        raise click.UsageError("Missing option '--at', or '--like', or '--like-image'.")
    read = read_polygons(within) if within is not None else None
    wanted = Filter(
        bounds=bbox,
        polygons=() if read is None else (read.area,),
        time=None if time is None else TimeRange.parse(time),
        where=where,
    )
    examples = replace(_examples(like), images=images), _examples(unlike)
    query = SearchQuery(at, k, exclude, *examples, wanted, apart, **more)
    return query, () if read is None else read.notes


def _examples(given: tuple[str, ...]) -> Examples:
    places = [text for text in given if _PLACE.fullmatch(text)]
    return Examples(
        places=tuple(LonLat.parse(text) for text in places),
        ids=tuple(text for text in given if text not in places),
    )


def _why_none(result: SearchResult) -> str:
    if result.found:
        return f"No place is on this page: there are {result.found:,}."
    if result.query.filter != Filter():
        return "No place was found: none meets the filter."
    if not result.query.exclude_m:
        return "No place was found: the collection holds only the query's own."
    return (
        f"No place was found: all of the collection lie within {result.query.exclude_m:g} m of the "
        "query's own. Choose a smaller --exclude."
    )
