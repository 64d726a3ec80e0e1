"""Weights from torch's cache, batches that fit in memory, and torchvision without its operators."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.encoders import torch_runtime as runtime
from embeddings.encoders import weights
from embeddings.errors import ExtraMissingError, InputError, SourceError, SourceNotFoundError
from tests.embeddings.model_files import need

CHIPS = np.arange(10 * 2 * 4 * 4, dtype="f4").reshape(10, 2, 4, 4)


def _mean(pixels: np.ndarray) -> np.ndarray:
    return pixels.mean(axis=(2, 3))


def test_batches_are_halved_until_they_fit_and_stay_so() -> None:
    need("torch")
    import torch

    tried: list[int] = []

    def forward(pixels: np.ndarray) -> np.ndarray:
        tried.append(len(pixels))
        if len(pixels) > 3:
            raise [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()][len(tried) % 2]
        return _mean(pixels)

    batches = runtime.Batches(8)
    out = np.concatenate(batches.run(forward, CHIPS, "big"))
    assert np.array_equal(out, _mean(CHIPS))
    assert tried == [8, 4, 2, 2, 2, 2, 2]
    assert len(batches.notes) == 2
    assert "going on with 2" in batches.notes[-1]
    tried.clear()
    batches.run(forward, CHIPS[:4], "big")
    assert tried == [2, 2]


@pytest.mark.parametrize(
    "text",
    ["[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", "std::bad_alloc"],
)
def test_one_chip_that_does_not_fit_is_one_clear_error(text: str) -> None:
    def forward(_: np.ndarray) -> np.ndarray:
        raise RuntimeError(text)

    with pytest.raises(InputError, match=r"one chip of 4 x 4 pixels and 2 bands with .*'big'"):
        runtime.Batches(4).run(forward, CHIPS, "big")


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")
def test_batches_are_halved_when_the_memory_really_ends() -> None:
    need("torch")
    code = """
import resource, numpy, torch
from pathlib import Path
from embeddings.encoders.torch_runtime import Batches, on_device

def wide(chips):  # 32 MB a chip
    return chips.repeat(1, 2000, 1, 1).mean((2, 3))[:, :4]

forward = on_device(torch.nn.Identity(), lambda chips: chips, wide)
chips = numpy.random.default_rng(0).random((16, 1, 64, 64), dtype="f4")
free, batches = forward(chips), Batches(16)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)
limited = numpy.concatenate(batches.run(forward, chips, "wide"))
print(numpy.abs(limited - free).max() < 1e-6, batches.most in (1, 2, 4, 8), len(batches.notes) > 0)
"""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.split() == ["True"] * 3, done.stderr


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def forward(_: np.ndarray) -> np.ndarray:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        runtime.Batches(4).run(forward, CHIPS, "big")


def test_a_library_that_is_not_there_is_named_with_its_extra() -> None:
    with pytest.raises(ExtraMissingError, match=r"pip install 'terrakin\[torchgeo\]'"):
        runtime.need("no_such_library", "torchgeo")


def test_torchvision_can_be_used_whatever_torch_it_was_built_for() -> None:
    need("torch", "torchvision")
    code = (
        "from embeddings.encoders.torch_runtime import need_torchvision as n; n('hf'); v = n('hf');"
        "import torch; from torchvision.transforms import v2;"
        "print(v2.Resize((2, 2))(torch.ones(1, 4, 4)).sum().item(), v.models.resnet18.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4.0", "resnet18"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    need("torch")
    import torch

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_weights_come_from_the_cache_if_they_are_whole(cache: Path) -> None:
    sha256 = hashlib.sha256(b"weights").hexdigest()
    address = f"https://example.org/m/resolve/abc/model-{sha256[:8]}.pth"
    path = cache / f"model-{sha256[:8]}.pth"
    path.write_bytes(b"weights")
    assert weights.from_hub(address, offline=True, extra="torchgeo") == path
    path.write_bytes(b"weight")
    with pytest.raises(SourceError, match=r"damaged.*Delete it"):
        weights.from_hub(address, offline=True, extra="torchgeo")


@pytest.mark.parametrize("offline", [True, False])
def test_weights_that_cannot_be_had_are_told_of(
    cache: Path, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    reason = "HF_HUB_OFFLINE is set" if offline else "no route to host"
    with pytest.raises(SourceNotFoundError) as told:
        weights.from_hub("https://example.org/model-12345678.pth", offline=offline, extra="x")
    for words in (str(cache / "model-12345678.pth"), "https://example.org", reason, "--weights"):
        assert words in str(told.value)


def test_the_hash_of_a_folder_is_what_sha256sum_gives(tmp_path: Path) -> None:
    lines = ""
    for name in ("b.json", "a.json"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    for name in ("a.json", "b.json"):
        lines += f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n"
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert weights.folder_sha256(tmp_path, ["b.json", "a.json"]) == expected
