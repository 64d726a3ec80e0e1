"""The command killed, interrupted and run twice at once; then run again."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from embeddings.store import Collection, Store

Terrakin = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

CHIPS = 128 * 128


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory, land: Any, write_raster: Any) -> list[str]:
    """A command that takes seconds: 16,384 chips in 16 batches."""
    scene = write_raster(tmp_path_factory.mktemp("scene") / "scene.tif", land(1024, 1024, seed=4))
    return ["embed", "raster", str(scene), "--chip", "8", "--collection", "land", "--store"]


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, terrakin: Terrakin, arguments: list[str]
) -> dict[str, str]:
    store = tmp_path_factory.mktemp("whole") / "store"
    assert terrakin(*arguments, store).returncode == 0
    return contents(store)


def contents(store: Path) -> dict[str, str]:
    """Hashes of all that is in a store but times of running and the lock."""
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.rglob("*")
        if path.is_file() and path.name not in ("collection.json", ".lock")
    }


def staged(store: Path) -> list[Path]:
    return list(store.glob("land/.staging/scene/[0-9]*.arrow"))


@contextmanager
def midway(arguments: list[str], store: Path) -> Iterator[subprocess.Popen[str]]:
    """Start the command and hand it over when at least two batches are staged."""
    with subprocess.Popen(
        [sys.executable, "-m", "embed_server.cli", *arguments, str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while len(staged(store)) < 2:
                assert process.poll() is None, "the command ended before it could be stopped"
                assert time.monotonic() < deadline, "no batch was staged within a minute"
                time.sleep(0.005)
            yield process
        finally:
            process.kill()


def collection(store: Path) -> Collection:
    return Store.open(store).collection("land")


def test_kill_9_midway_and_again_gives_the_same_bytes(
    tmp_path: Path, terrakin: Terrakin, arguments: list[str], uninterrupted: dict[str, str]
) -> None:
    store = tmp_path / "store"
    for again in (False, True):
        with midway(arguments, store) as process:
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGKILL
        left = staged(store)
        assert 2 <= len(left) < 16
        assert (collection(store).count, collection(store).scenes[0].complete) == (0, False)
        if not again:
            for path in left[1:]:
                path.unlink()  # so that the second kill lands midway too
    done = terrakin(*arguments, store)
    assert done.returncode == 0
    assert f"{CHIPS:,} of {CHIPS:,} chips" in done.stdout
    assert f"{len(left) * CHIPS // 16:,} of them before this run" in done.stdout
    assert contents(store) == uninterrupted
    assert collection(store).scenes[0].complete
    assert terrakin("verify", "--store", store).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_softly_and_can_be_resumed(
    tmp_path: Path,
    terrakin: Terrakin,
    arguments: list[str],
    uninterrupted: dict[str, str],
    number: signal.Signals,
) -> None:
    store = tmp_path / "store"
    with midway(arguments, store) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Stopping after this batch" in err
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert list(store.rglob(".*.tmp*")) == []
    assert 2 <= len(staged(store)) < 16
    assert terrakin(*arguments, store).returncode == 0
    assert contents(store) == uninterrupted


def test_two_writers_at_once(
    tmp_path: Path, terrakin: Terrakin, arguments: list[str], uninterrupted: dict[str, str]
) -> None:
    store = tmp_path / "store"
    with midway(arguments, store) as process:
        # Stopped, so that it holds the lock however slow this machine is.
        process.send_signal(signal.SIGSTOP)
        second = terrakin(*arguments, store)
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr.startswith("Error: Another process is writing to the store")
        assert len(second.stderr.splitlines()) == 1
        assert terrakin("delete", "land", "--yes", "--store", store).returncode == 1
        assert terrakin("collections", "--store", store).returncode == 0
        process.kill()
    assert terrakin(*arguments, store).returncode == 0
    assert contents(store) == uninterrupted


def test_a_search_of_an_unfinished_collection_says_so(
    tmp_path: Path, terrakin: Terrakin, arguments: list[str]
) -> None:
    store = tmp_path / "store"
    with midway(arguments, store) as process:
        process.kill()
        process.wait()
    done = terrakin("search", "--store", store, "--collection", "land", "--at", "15.01,46.93")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Collection 'land' is still empty" in done.stderr
    assert (
        "not finished: run its embed command again"
        in terrakin("info", "land", "--store", store).stdout
    )
    assert terrakin("verify", "--store", store).returncode == 1
