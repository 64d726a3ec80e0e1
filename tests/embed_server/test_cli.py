"""The command when all goes well: help, data on standard output, messages on standard error."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import geopandas
import pytest

from embed_server import cli
from embed_server.commands.raster import show_report
from embeddings import __version__
from embeddings.report import EmbedReport, SceneReport
from embeddings.store import Store

Outcome = tuple[int, str, str]
Run = Callable[..., Outcome]


@pytest.fixture
def copy(tmp_path: Path, store: Path) -> Path:
    """A copy of the store, to be changed."""
    return Path(shutil.copytree(store, tmp_path / "copy"))


@pytest.fixture
def centre(store: Path) -> tuple[float, float]:
    west, south, east, north = Store.open(store).collection("valley").scenes[0].bbox
    return (west + east) / 2, (south + north) / 2


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


LEAVES = [
    path
    for path in commands(cli.terrakin)
    if not any(other[: len(path)] == path and other != path for other in commands(cli.terrakin))
]


def test_the_commands_of_the_contract_are_there() -> None:
    wanted = {"collections", "info", "verify", "rename", "delete", "search", "serve", "demo"}
    assert {(name,) for name in wanted} | {("embed", "raster")} <= set(LEAVES)


@pytest.mark.parametrize("path", [(), *commands(cli.terrakin)], ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help(run: Run, path: tuple[str, ...], option: str) -> None:
    code, out, err = run(*path, option)
    assert (code, err) == (0, "")
    assert "Usage: " in out


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_example_is_one_the_command_takes(run: Run, path: tuple[str, ...]) -> None:
    _, out, _ = run(*path, "--help")
    text = re.split("Examples?:", out)[1].split("\n\n")[0].split("Options:")[0]
    examples = text.replace("\\\n", " ").strip().splitlines()
    assert examples
    command: Any = cli.terrakin
    for name in path:
        command = command.commands[name]
    for example in examples:
        words = shlex.split(example)
        assert words[: len(path) + 1] == ["terrakin", *path]
        command.make_context("terrakin", words[len(path) + 1 :])


def test_the_version(run: Run) -> None:
    assert run("--version") == (0, f"terrakin, version {__version__}\n", "")


def test_embedding_and_its_report(run: Run, tmp_path: Path, scene: list[str]) -> None:
    arguments = ("embed", "raster", *scene, "--store", tmp_path / "s", "--collection", "valley")
    code, out, err = run(*arguments, "--chip", "160m")
    assert code == 0
    assert "of 256 chips of scene" in out
    assert "100 %  256 of 256 chips" in err
    code, out, err = run(*arguments, "--chip", "160m", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["embedded"] == report["resumed"] > 100
    assert report["planned"] == report["embedded"] + report["absent"] == 256


def test_listing(run: Run, store: Path, tmp_path: Path) -> None:
    code, out, err = run("collections", "--store", store)
    assert (code, err) == (0, "")
    assert out.split()[0] == "valley"
    code, out, err = run("collections", "--store", store, "--json")
    found, shipped = json.loads(out)
    assert (code, err, found["id"], shipped["id"]) == (0, "", "valley", "world")
    assert found["count"] == Store.open(store).collection("valley").count
    Store.create(tmp_path / "empty")
    code, out, err = run("collections", "--store", tmp_path / "empty")
    assert (code, out.split()[0], len(out.splitlines()), err) == (0, "world", 1, "")


def test_the_store_may_be_named_by_the_environment(
    run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERRAKIN_STORE", str(store))
    assert run("collections")[0] == 0


def test_describing(run: Run, store: Path) -> None:
    code, out, err = run("info", "valley", "--store", store)
    assert (code, err) == (0, "")
    for text in ("B02, B03, B04, B08 at 10", "float16", "first", "2018-10-13", "without data"):
        assert text in out
    code, out, err = run("info", "valley", "--store", store, "--json")
    assert json.loads(out)["type"] == "Collection"


def test_verifying(run: Run, copy: Path) -> None:
    assert run("verify", "--store", copy) == (0, "valley: whole\n", "")
    code, out, _ = run("verify", "valley", "--store", copy, "--json")
    assert (code, json.loads(out)) == (0, {"valley": []})
    Store.open(copy).collection("valley").part_paths[0].write_bytes(b"x")
    code, out, _ = run("verify", "--store", copy)
    assert (code, "has changed since it was written" in out) == (1, True)


def test_renaming_and_deleting(run: Run, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run("rename", "valley", "hills", "--store", copy)
    assert (code, out, err) == (0, "", "'valley' is now 'hills'.\n")
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    code, out, _ = run("delete", "hills", "--store", copy)
    assert (code != 0, out) == (True, "")
    assert Store.open(copy).names() == ["hills"]
    assert run("delete", "hills", "--store", copy, "--yes") == (0, "", "'hills' is deleted.\n")
    assert Store.open(copy).names() == []


def test_one_damaged_collection_hides_no_other_and_can_be_deleted(run: Run, copy: Path) -> None:
    shutil.copytree(copy / "valley", copy / "broken")
    (copy / "broken" / "collection.json").write_text("{")
    code, out, err = run("collections", "--store", copy)
    assert (code, [line.split()[0] for line in out.splitlines()]) == (3, ["valley", "world"])
    assert err.startswith("Error: ")
    assert "is damaged" in err
    code, out, _ = run("verify", "--store", copy)
    assert (code, "valley: whole" in out, "broken: " in out) == (1, True, True)
    assert run("info", "broken", "--store", copy)[0] == 1
    assert run("delete", "broken", "--yes", "--store", copy)[0] == 0
    assert run("collections", "--store", copy)[0] == 0


@pytest.mark.parametrize("form", ["--at {},{}", "--at={},{}", "--at '{}, {}'"])
def test_a_place_is_read_after_a_space_and_after_an_equals_sign(
    run: Run, store: Path, centre: tuple[float, float], form: str
) -> None:
    at = shlex.split(form.format(*centre))
    code, out, err = run("search", "--store", store, "--collection", "valley", *at, "-k", "3")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["rank", "cosine", "lon", "lat", "id"]
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["1", "2", "3"]


@pytest.mark.parametrize("at", [("--at", "-76.6,-34.7"), ("--at=-76.6,-34.7",)])
def test_negative_places_are_places_not_options(run: Run, store: Path, at: tuple) -> None:
    code, out, err = run("search", "--store", store, "--collection", "valley", *at)
    assert (code, out) == (1, "")
    assert "-76.60000, -34.70000 lies outside collection 'valley'" in err


def test_searching_prints_or_writes(
    run: Run, store: Path, tmp_path: Path, centre: tuple[float, float]
) -> None:
    at = f"{centre[0]},{centre[1]}"
    places = tmp_path / "places.gpkg"
    search = ("search", "--store", store, "--collection", "valley", "--at", at)
    code, out, err = run(*search, "-k", 5, "--exclude", "0.3km", "--out", places)
    assert (code, out, err) == (0, "", f"5 places written to {places}.\n")
    code, out, err = run(*search, "-k", 5, "--exclude", "300", "--json")
    answer = json.loads(out)
    assert (code, err, answer["exclude_m"]) == (0, "", 300)
    assert run(*search, "--exclude", "900km", "--out", tmp_path / "none.parquet") == (
        0,
        "",
        "No place was found: all of the collection lie within 900000 m "
        "of the query's own. Choose a smaller --exclude.\n"
        f"0 places written to {tmp_path / 'none.parquet'}.\n",
    )
    code, out, err = run(*search, "--out", tmp_path / "no" / "places.gpkg")
    assert (code, out, "There is no folder" in err) == (1, "", True)
    assert not (tmp_path / "no").exists()
    written = geopandas.read_file(places)
    assert written["id"].tolist() == [feature["id"] for feature in answer["features"]]


def test_the_demo_takes_bands_of_several_resolutions(
    run: Run, tmp_path: Path, land: Any, write_raster: Any
) -> None:
    fine = write_raster(tmp_path / "f10.tif", land(bands=1))
    coarse = write_raster(tmp_path / "f20.tif", land(48, 48, bands=1), res=20)
    code, out, err = run("demo", fine, coarse, "--chip", "80m", "--out", tmp_path / "demo")
    assert (code, "Note: f20.tif was resampled" in out) == (0, True), err
    assert (tmp_path / "demo" / "map.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Usage:"),
        (("fly",), "No such command"),
        (("embed",), "Usage:"),
        (("embed", "raster", "--store", "s", "--collection", "c"), "Missing argument 'SCENE...'"),
        (("embed", "raster", "a.tif", "--collection", "c"), "Missing option '--store'"),
        (("embed", "raster", "a.tif", "--store", "s"), "Missing option '--collection'"),
        (
            (
                "embed",
                "raster",
                "a.tif",
                "--store",
                "s",
                "--collection",
                "c",
                "--dense-stride",
                "4",
            ),
            "--dense-stride goes with --dense",
        ),
        (
            ("embed", "raster", "a.tif", "--store", "s3://b/s", "--collection", "c", "--dense"),
            "--dense writes to a local store",
        ),
        (("search", "--store", "s", "--collection", "c"), "Missing option '--at'"),
        (("search", "--store", "s", "--collection", "c", "--at", "1"), "is not a place"),
        (("search", "--store", "s", "--collection", "c", "--at", "1,95"), "beyond ±90"),
        (("search", "--store", "s", "--collection", "c", "--at", "1,5", "-k", "0"), "-k"),
        (
            ("search", "--store", "s", "--collection", "c", "--at", "1,5", "--exclude", "-5m"),
            "is not a length",
        ),
        (("serve", "--store", "s", "--port", "70000"), "--port"),
        (("embed", "raster", "a", "--store", "s", "--collection", "c", "--dtype", "f8"), "--dtype"),
        (("info", "--store", "s"), "Missing argument 'NAME'"),
        (("rename", "a", "--store", "s"), "Missing argument 'NEW_NAME'"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TERRAKIN_STORE", raising=False)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_many_notes_are_counted_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    notes = tuple(f"note {number}" for number in range(25))
    scene = SceneReport("a", 1, 1, 0, 0, 0, notes)
    show_report(EmbedReport("land", (scene,)), "s3://bucket", as_json=False)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 21
    assert told[-1] == "... and 5 notes more; --json lists them all."
