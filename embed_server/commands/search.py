"""``terrakin search``."""

from __future__ import annotations

from pathlib import Path

import click

from embed_server.console import note, show
from embed_server.options import MetresType, PlaceType, json_option, store_option
from embeddings.search import MAX_K, Searcher, SearchQuery, SearchResult
from embeddings.store import Store
from embeddings.types import LonLat


@click.command()
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
    from embeddings.export import check_out, result_geojson, write_places

    if out is not None:
        check_out(out)
    result = Searcher(Store.open(store)).search(collection, SearchQuery(at, k, exclude))
    answer = result_geojson(result)
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


def _why_none(result: SearchResult) -> str:
    if result.considered == 1:
        return "No place was found: the collection holds only the query's own."
    return (
        f"No place was found: all {result.considered:,} of the collection lie within "
        f"{result.query.exclude_m:g} m of the query's own. Choose a smaller --exclude."
    )
