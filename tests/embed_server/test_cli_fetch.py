"""Remote stores on the command line: ``embed raster --store URL`` and ``fetch``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embeddings.store import Store
from embeddings.store.verify import verify

pytest.importorskip("fsspec", reason="remote stores need fsspec")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(terrakin: Run, tmp_path: Path) -> Run:
    def call(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
        return terrakin(*words, env={"TERRAKIN_CACHE": str(tmp_path / "cache")}, **more)

    return call


@pytest.fixture
def url(tmp_path: Path) -> str:
    return (tmp_path / "remote").as_uri()


def test_embed_there_and_fetch_here(run: Run, scene: list[str], url: str, tmp_path: Path) -> None:
    words = ("embed", "raster", *scene, "--chip", "16", "--collection", "valley")
    planned = run(*words, "--store", url, "--plan", "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["chips"] == 256
    assert not (tmp_path / "remote").exists()
    made = run(*words, "--store", url)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "remote" / "terrakin.json").exists()
    assert list((tmp_path / "remote").rglob(".*")) == []
    result = run("fetch", url, "--store", tmp_path / "here", "--json")
    assert result.returncode == 0, result.stderr
    (told,) = json.loads(result.stdout)
    assert (told["collection"], told["kept"]) == ("valley", 0)
    assert verify(Store.open(tmp_path / "here").collection("valley")) == []
    again = run("fetch", url, "--store", tmp_path / "here", "--collection", "valley")
    assert again.returncode == 0
    assert f"{told['files']} of them here before; 0.0 MB copied" in again.stdout


def test_doing_it_again_changes_nothing_there(
    run: Run, scene: list[str], url: str, tmp_path: Path
) -> None:
    words = ("embed", "raster", *scene, "--chip", "16", "--collection", "valley", "--store", url)
    assert run(*words).returncode == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "remote").rglob("*") if p.is_file()}
    second = run(*words)
    assert second.returncode == 0, second.stderr
    assert "before this run" in second.stdout
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "remote").rglob("*") if p.is_file()}
    assert after == before


@pytest.mark.parametrize(
    "words",
    [
        ("collections",),
        ("verify",),
        ("search", "--collection", "valley", "--at", "1,2"),
        ("serve",),
        ("embed", "locations", "--grid-km", "10", "--collection", "x"),
    ],
)
def test_other_commands_say_to_fetch_first(run: Run, words: tuple[str, ...]) -> None:
    secret = "s3://key:word@bucket/store?signature=abc"  # pragma: allowlist secret
    result = run(*words, "--store", secret)
    assert result.returncode == 2
    assert "Copy it first: terrakin fetch s3://bucket/store --store DIR" in result.stderr
    assert "word" not in result.stderr
    assert "abc" not in result.stderr


def test_fetch_of_nothing(run: Run, url: str, tmp_path: Path) -> None:
    result = run("fetch", url, "--store", tmp_path / "here")
    assert result.returncode == 1
    assert "There is no Terrakin store at" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "here").exists()
    path = run("fetch", tmp_path / "folder", "--store", tmp_path / "here")
    assert path.returncode == 1
    assert "is not the address of a store" in path.stderr


def test_a_protocol_that_is_not_known(run: Run, scene: list[str]) -> None:
    result = run(
        "embed", "raster", *scene, "--collection", "valley", "--store", "nosuch://bucket/a"
    )
    assert result.returncode == 1
    assert "Protocol not known: nosuch" in result.stderr
