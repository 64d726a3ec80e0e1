"""Names that are safe on every file system, and the order of rows in a file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.errors import InputError
from embeddings.store.layout import check_name, check_scene, scene_from
from embeddings.store.order import hilbert_index


@pytest.mark.parametrize("name", ["carolina", "a", "0", "sea-2018_x", "a" * 64])
def test_good_names_of_collections(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Carolina",
        "a b",
        "../x",
        "a/b",
        "a\\b",
        ".hidden",
        "-a",
        "a" * 65,
        "con",
        "lpt1",
        "a\n",
        "ä",
        "a.b",
        "a\x00",
    ],
)
def test_bad_names_of_collections(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a collection"):
        check_name(name)


@pytest.mark.parametrize("name", ["S2A_2018.SAFE", "T18SVD", "a" * 128, "0.1"])
def test_good_names_of_scenes(name: str) -> None:
    assert check_scene(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "NUL", "com1.tif", "a" * 129, "x\n"])
def test_bad_names_of_scenes(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a scene"):
        check_scene(name)


@given(st.text(max_size=200))
def test_any_file_name_gives_a_scene_that_is_safe_or_refused(text: str) -> None:
    scene = scene_from(text)
    try:
        check_scene(scene)
    except InputError:
        # Only names that Windows keeps for devices remain, and the error tells of --scene.
        assert scene.split(".")[0].lower().rstrip("0123456789") in {
            "con",
            "prn",
            "aux",
            "nul",
            "com",
            "lpt",
        }


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_the_hilbert_order_visits_every_cell_once_and_neighbour_after_neighbour(bits: int) -> None:
    side = 2**bits
    row, col = np.divmod(np.arange(side * side), side)
    order = hilbert_index(row, col, bits)
    assert sorted(order.tolist()) == list(range(side * side))
    walk = np.argsort(order)
    steps = np.abs(np.diff(row[walk])) + np.abs(np.diff(col[walk]))
    assert (steps == 1).all()


@given(
    st.lists(
        st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1)),
        min_size=1,
        max_size=50,
        unique=True,
    )
)
def test_the_hilbert_order_of_large_grids_is_unique(places: list[tuple[int, int]]) -> None:
    row, col = np.array(places, dtype=np.int64).T
    order = hilbert_index(row, col, 31)
    assert len(set(order.tolist())) == len(places)
    # One level up, a cell keeps the place of its quarter.
    assert ((order >> np.uint64(2)) == hilbert_index(row // 2, col // 2, 30)).all()
