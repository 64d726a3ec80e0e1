"""Draw the pictures of docs/world.md: the kin of ten places.

``python -m embeddings.world.make_pictures docs/images [BLUE_MARBLE_IMAGE]``
"""

from __future__ import annotations

import sys
from pathlib import Path

from embeddings.search import MAX_K, Searcher, SearchQuery
from embeddings.spacing import spread
from embeddings.store import Store
from embeddings.types import LonLat
from embeddings.world import NAME, STORE
from embeddings.world.picture import Kin, draw_world

MATCHES = 200
APART_M = 100_000.0
"""Windows of neighbouring cells overlap: without this, most matches crowd around a few places."""
ATTRIBUTION = (
    "No two places within 100 km.  "
    "Embeddings: Terrakin, from NASA Blue Marble, NASA Black Marble and NOAA ETOPO"
)

PLACES = {
    "sahara": ("the central Sahara, Algeria", LonLat(5.0, 26.0)),
    "amazon": ("the Amazon rain forest, Brazil", LonLat(-65.0, -4.0)),
    "taiga": ("the Siberian taiga, Yenisei", LonLat(97.0, 61.0)),
    "greenland": ("the Greenland ice sheet", LonLat(-40.0, 72.0)),
    "tibet": ("the Tibetan plateau", LonLat(88.0, 32.5)),
    "corn-belt": ("the Corn Belt, Iowa", LonLat(-93.5, 42.0)),
    "ganges": ("the Ganges plain, Uttar Pradesh", LonLat(80.5, 27.0)),
    "alps": ("the Swiss Alps", LonLat(8.0, 46.5)),
    "andalusia": ("Andalusia, Spain", LonLat(-5.0, 37.5)),
    "serengeti": ("the savanna of the Serengeti, Tanzania", LonLat(34.8, -2.3)),
}


def kin_of(searcher: Searcher, title: str, place: LonLat) -> Kin:
    """Search the world collection: the best matches, no two of them within APART_M."""
    found = searcher.search(NAME, SearchQuery(place, k=MAX_K))
    lon, lat = (found.matches[name].to_numpy() for name in ("lon", "lat"))
    kept = spread(lon, lat, APART_M, MATCHES)
    return Kin(title, place, lon[kept], lat[kept], found.similarity[kept])


def main(arguments: list[str]) -> int:
    """Draw a picture for each place into a folder."""
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    base = Path(arguments[1]) if len(arguments) == 2 else None
    credit = "" if base is None else "Map: NASA Blue Marble.  "
    searcher = Searcher(Store.open(STORE))
    for name, (title, place) in PLACES.items():
        kin = kin_of(searcher, f"The {MATCHES} places most like {title}", place)
        picture = Path(arguments[0]) / f"world-{name}.png"
        draw_world(picture, [kin], credit + ATTRIBUTION, base)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
