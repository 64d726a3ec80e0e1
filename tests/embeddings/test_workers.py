"""Encoding in processes and on a Dask cluster: the same rows, whoever works."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from embeddings import workers
from embeddings.encoding import SceneTask
from embeddings.errors import InputError, SourceError
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.sources.reading import Reading, SceneFile, SceneRef
from embeddings.store import Collection, Store
from embeddings.store.verify import verify
from tests.embeddings.hashes import contents

Embed = Callable[..., Collection]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, land: Any, write_raster: Any) -> Path:
    """Land of 38 x 38 chips of 8 pixels, with a corner that has no data."""
    values = land(304, 304, seed=3)
    values[:, :40, :40] = 0
    return write_raster(tmp_path_factory.mktemp("scene") / "scene.tif", values)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, scene: Path, embed: Embed) -> Collection:
    """The collection that this process makes alone."""
    return embed(tmp_path_factory.mktemp("local") / "store", scene)


def test_processes_make_the_same_bytes(tmp_path: Path, scene: Path, local: Collection) -> None:
    job = RasterJob(tmp_path / "store", "land", (str(scene),), chip="8", workers=2)
    report = embed_raster(job)
    made = Store.open(tmp_path / "store").collection("land")
    assert report.embedded == local.count
    assert contents(made.path) == contents(local.path)
    assert verify(made) == []


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Dask cluster of two worker processes on this machine."""
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as made:
        yield made


def test_a_dask_cluster_makes_the_same_bytes(
    tmp_path: Path, scene: Path, local: Collection, cluster: Any
) -> None:
    job = RasterJob(
        tmp_path / "store", "land", (str(scene),), chip="8", scheduler=cluster.scheduler_address
    )
    embed_raster(job)
    made = Store.open(tmp_path / "store").collection("land")
    assert contents(made.path) == contents(local.path)


def test_a_lost_worker_takes_nothing_with_it(
    tmp_path: Path, scene: Path, local: Collection, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings.sources.chips.BATCH_CHIPS", 24)
    killed: list[int] = []

    def kill_one(_: Any) -> None:
        if not killed:
            victim = next(iter(cluster.workers.values()))
            killed.append(victim.pid)
            os.kill(victim.pid, getattr(signal, "SIGKILL", signal.SIGTERM))

    job = RasterJob(
        tmp_path / "store", "land", (str(scene),), chip="8", scheduler=cluster.scheduler_address
    )
    report = embed_raster(job, lambda step: kill_one(step) if step.done else None)
    made = Store.open(tmp_path / "store").collection("land")
    assert killed
    assert report.missing == 0
    assert contents(made.path) == contents(local.path)


def test_no_scheduler_is_one_clear_error(
    tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="needs the extra dask")
    monkeypatch.setattr("embeddings.workers.CONNECT_S", 2.0)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{held.getsockname()[1]}"
        job = RasterJob(tmp_path / "s", "land", (str(scene),), chip="8", scheduler=address)
        started = time.monotonic()
        with pytest.raises(InputError, match=r"No Dask scheduler answers at tcp://127"):
            embed_raster(job)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("address", ["banana", "tcp://", "tcp://here", "", "http:// x:1"])
def test_what_is_no_address_is_refused_at_once(tmp_path: Path, scene: Path, address: str) -> None:
    pytest.importorskip("distributed", reason="needs the extra dask")
    job = RasterJob(tmp_path / "s", "land", (str(scene),), chip="8", scheduler=address)
    with pytest.raises(InputError, match=f"'{address}' is no address of a Dask scheduler"):
        embed_raster(job)


@pytest.mark.parametrize("workers", [0, 257])
def test_the_number_of_workers_has_bounds(tmp_path: Path, scene: Path, workers: int) -> None:
    with pytest.raises(InputError, match=r"--workers is \d+; it may be 1 to 256"):
        embed_raster(RasterJob(tmp_path / "s", "land", (str(scene),), workers=workers))


def test_every_thread_of_a_worker_has_the_scene_open_for_itself(
    scene: Path, local: Collection
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    file = SceneFile(str(scene))
    task = SceneTask(
        SceneRef("scene", (file,)), Reading(), "8", None, "scene", None,
        json.dumps(local.spec.to_json()), str(local.path), None,
    )  # fmt: skip
    together = threading.Barrier(2)

    def opened(_: int) -> Any:
        found = workers._opened(task)
        together.wait(30)
        assert workers._opened(task) is found
        return found

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(opened, range(2))
    assert first.scene is not second.scene


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    code = (
        "import os, time\n"
        "from embeddings.workers import Processes\n"
        "if __name__ == '__main__':\n"
        "    pool = Processes(1)._pool\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    script = tmp_path / "start.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(worker)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def test_workers_that_do_not_see_the_files_say_so(
    tmp_path: Path, land: Any, write_raster: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = write_raster(tmp_path / "gone.tif", land(seed=3))
    encode = workers.DaskWorkers.encode

    def hidden(self: Any, work: Any, batches: Any) -> Any:
        gone.unlink()
        return encode(self, work, batches)

    monkeypatch.setattr(workers.DaskWorkers, "encode", hidden)
    job = RasterJob(
        tmp_path / "store", "land", (str(gone),), chip="8", scheduler=cluster.scheduler_address
    )
    with pytest.raises(SourceError, match=r"worker of the Dask cluster.*no file.*under"):
        embed_raster(job)
