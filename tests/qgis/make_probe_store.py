"""Run by the server's Python: a store whose chips' classes can be learned, and labels of them.

The collection ``land`` is that of the tests of probes; ``kin`` is copied from the store of
make_store.py. Usage: make_probe_store.py FOLDER STORE_WITH_KIN
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.embeddings.label_data import write_labels
from tests.embeddings.probe_data import centre, make_store, some_chips, write_points


def main(folder: Path, other: Path) -> None:
    """Write FOLDER/store, and FOLDER/points.gpkg and other files of labels."""
    make_store(folder / "store", noise=1.5)
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
