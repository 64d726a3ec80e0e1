"""The first thing a newcomer runs: ask the whole planet, offline, through the real server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embed_server.client import Client
from embeddings.errors import CancelledError
from embeddings.export import merged, write_places
from embeddings.search import MAX_K
from embeddings.spacing import distance_m, spread
from embeddings.types import LonLat
from embeddings.world import NAME
from embeddings.world.make_pictures import APART_M, ATTRIBUTION, MATCHES, PLACES
from embeddings.world.picture import Kin, draw_world

SHOWN = ("corn-belt", "sahara", "taiga")

Say = Callable[[str], None]
Serve = Callable[[Path, Path], Any]


def run(out: Path, serve: Serve, cancelled: Callable[[], bool], say: Say = print) -> None:
    """Find the kin of three places and write ``out/places.gpkg`` and ``out/map.png``.

    ``serve(store, ready_file)`` is a context manager that yields a client of a running server.
    Raises TerrakinError.
    """
    answers, kins = {}, []
    with serve(out / "store", out / "ready.json") as client:
        count = client.collection(NAME)["itemCount"]
        say(f"Serving at {client.url}: {count:,} places, all land on Earth in cells of 25 km.")
        for name in SHOWN:
            title, place = PLACES[name]
            if cancelled():
                raise CancelledError("Stopped as asked.")
            answer = _kin(client, place)
            answers[name.replace("-", "_")] = answer
            kins.append(_for_map(answer, title, place))
            away = distance_m(place, kins[-1].lon, kins[-1].lat)
            say(
                f"  {title}: {len(away)} places at least 100 km apart, cosine "
                f"{kins[-1].similarity[-1]:.2f} to {kins[-1].similarity[0]:.2f}, "
                f"{(away > 1e6).mean():.0%} of them beyond 1,000 km "
                f"({sum(answer['timing_ms'].values()):.0f} ms)"
            )
    write_places(merged(answers), out / "places.gpkg")
    draw_world(out / "map.png", kins, ATTRIBUTION)
    places = out / "places.gpkg"
    say(
        f"Wrote {places} (column 'query' says whose kin a place is) and {out / 'map.png'}.\n"
        f"In QGIS: drag {places} onto the map; or install the plugin, press Start in the\n"
        "Terrakin dock and click anywhere on land."
    )


def _kin(client: Client, place: LonLat) -> dict[str, Any]:
    """Search, and keep the best matches that are apart; ranks count anew."""
    answer = client.search(NAME, place.lonlat(), k=MAX_K)
    lon, lat = _column(answer, "lon"), _column(answer, "lat")
    kept = [answer["features"][i] for i in spread(lon, lat, APART_M, MATCHES)]
    for rank, feature in enumerate(kept, start=1):
        feature["properties"]["rank"] = rank
    return {**answer, "features": kept, "numberReturned": len(kept), "apart_m": APART_M}


def _column(answer: Mapping[str, Any], name: str) -> Any:
    return np.array([feature["properties"][name] for feature in answer["features"]])


def _for_map(answer: Mapping[str, Any], title: str, place: LonLat) -> Kin:
    return Kin(
        f"The places most like {title}",
        place,
        _column(answer, "lon"),
        _column(answer, "lat"),
        _column(answer, "similarity"),
    )
