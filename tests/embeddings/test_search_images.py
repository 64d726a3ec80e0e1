"""Images on disk as examples of a search."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embeddings.errors import InputError, SourceNotFoundError
from embeddings.query.examples import Examples
from embeddings.search import Searcher, SearchQuery, SearchResult, Weighted
from embeddings.store import Collection, Store

Embed = Callable[..., Collection]


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, land: Any, write_raster: Any, embed: Embed
) -> Path:
    """A store with 'land' and 'texture' of one scene, and images of two of its chips beside it."""
    folder = tmp_path_factory.mktemp("images")
    pixels = land(seed=1)
    scene = write_raster(folder / "a.tif", pixels)
    embed(folder / "store", scene)
    embed(folder / "store", scene, collection="texture", encoder="rcf:kernel=5,dim=32")
    for name, row, col in (("one", 3, 5), ("two", 8, 2)):
        chip = pixels[:, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8]
        write_raster(folder / f"{name}.tif", chip, origin=(900_000, 9_000_000))
    return folder


@pytest.fixture
def searcher(made: Path) -> Searcher:
    return Searcher(Store(made / "store"))


def like(*images: Path, **more: Any) -> SearchQuery:
    return SearchQuery(positive=Examples(images=images), **more)


def found(result: SearchResult) -> list[str]:
    return result.matches["id"].to_pylist()


def test_an_image_of_a_chip_finds_that_chip_first(made: Path, searcher: Searcher) -> None:
    result = searcher.search("land", like(made / "one.tif"))
    assert found(result)[0] == "a_3_5"
    assert result.similarity[0] == pytest.approx(1, abs=1e-3)
    assert (result.query_item, result.matched) == (None, 144)
    beside = searcher.search("land", SearchQuery(positive=Examples(ids=("a_3_5",)), k=9))
    assert found(result)[1:] == found(beside)


def test_several_images_and_images_that_are_not_wanted(made: Path, searcher: Searcher) -> None:
    both = searcher.search("land", like(made / "one.tif", made / "two.tif", k=4))
    assert {"a_3_5", "a_8_2"} <= set(found(both))
    query = SearchQuery(
        positive=Examples(images=(made / "one.tif",)), negative=Examples(images=(made / "two.tif",))
    )
    rejected = searcher.search("land", query)
    assert found(rejected)[0] == "a_3_5"


def test_each_collection_encodes_the_image_itself(made: Path, searcher: Searcher) -> None:
    pair = (Weighted("land"), Weighted("texture"))
    result = searcher.search_fused(pair, like(made / "one.tif"))
    assert found(result)[0] == "a_3_5"
    assert min(values[0] for values in result.similarities.values()) > 0.999


def test_an_image_that_was_changed_is_read_again(
    made: Path, searcher: Searcher, tmp_path: Path
) -> None:
    image = Path(shutil.copy(made / "one.tif", tmp_path / "chip.tif"))
    assert found(searcher.search("land", like(image)))[0] == "a_3_5"
    shutil.copy(made / "two.tif", image)
    assert found(searcher.search("land", like(image)))[0] == "a_8_2"


def test_images_that_cannot_be_used(made: Path, searcher: Searcher, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"no image '.*nothing\.tif'"):
        searcher.search("land", like(tmp_path / "nothing.tif"))
    with pytest.raises(SourceNotFoundError, match="no image"):
        searcher.search("land", like(Path("/a\0b.tif")))
    with pytest.raises(InputError, match="chip of collection 'land' has 8 x 8"):
        searcher.search("land", like(made / "a.tif"))
    text = tmp_path / "text.tif"
    text.write_text("no image")
    with pytest.raises(InputError, match=r"text\.tif"):
        searcher.search("land", like(text))
    with pytest.raises(InputError, match="world' has no encoder for images"):
        searcher.search("world", like(made / "one.tif"))
    with pytest.raises(InputError, match="There are 101 images; there may be 100"):
        like(*[made / "one.tif"] * 101)
