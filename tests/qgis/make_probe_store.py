"""Run by the server's Python: a store whose chips' classes can be learned, and labels of them.

The collection ``land`` is that of the tests of probes, and ``radar`` lies on its grid; ``kin`` is
copied from the store of make_store.py. Usage: make_probe_store.py FOLDER STORE_WITH_KIN
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.embeddings.label_data import square_chips, write_labels
from tests.embeddings.probe_data import (
    COLS,
    NORTH,
    ROWS,
    WEST,
    centre,
    make_store,
    some_chips,
    write_points,
)


def main(folder: Path, other: Path) -> None:
    """Write FOLDER/store, and FOLDER/points.gpkg and other files of labels."""
    make_store(folder / "store", noise=1.5)
    square_chips(folder / "store" / "radar", ROWS, COLS, origin=(WEST, NORTH))
    shutil.copytree(other / "kin", folder / "store" / "kin")
    write_points(folder / "points.gpkg")
    places = [centre(*chip) for chip in some_chips(20).tolist()]
    write_labels(folder / "one.gpkg", places, **{"class": ["wood"] * len(places)})
    alike = ["Wet Sand", "wet sand"] * (len(places) // 2)
    write_labels(folder / "alike.gpkg", places, **{"class": alike})
    classes = ["wood", "field"] * (len(places) // 2)
    write_labels(folder / "nowhere.shp", places, crs=None, **{"class": classes})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
