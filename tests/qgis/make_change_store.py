"""Run by the server's Python: two dates of imagery, and a store with a collection of three years.

The scenes are those of the tests of change: ``before``, ``after`` and ``far``, which lies
elsewhere. The collection ``where`` holds location embeddings, ``cells`` dense vectors of ``before``
and ``after``. Usage: make_change_store.py FOLDER
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from embeddings.change.pairs import LOCATION_ONLY
from embeddings.pipeline import RasterJob, embed_raster
from tests.embeddings.change_data import make_years
from tests.embeddings.change_scenes import write_date


def main(folder: Path) -> None:
    """Write FOLDER/before, FOLDER/after, FOLDER/far and FOLDER/store."""
    for year, date in ((2016, write_date(folder / "before", seed=1)),
                       (2017, write_date(folder / "after", seed=2, changed=True))):  # fmt: skip
        asked = RasterJob(folder / "store", "cells", tuple(date), "rcf:features=16,dim=8", chip="6")
        embed_raster(replace(asked, datetime=f"{year}-05-01", scene=f"d{year}", dense="2"))
    write_date(folder / "far", seed=3, size=(60, 60), origin=(50_000.0, 0.0))
    make_years(folder / "store", (2016, 2017, 2018), {30: 2018, 200: 2018, 201: 2018})
    where = make_years(folder / "store", (2017, 2018), name="where")
    replace(where, spec=replace(where.spec, source=LOCATION_ONLY)).save()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
