"""A small network trained here, exported to ONNX and by torch.export, gives the same vectors."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.encoders import exported as family
from embeddings.encoders.base import EncoderChoice
from embeddings.errors import InputError, SourceError, SourceNotFoundError
from tests.embeddings.model_files import EXPORTED, describe, export, need, small_network

KINDS = ["onnx", "pt2"]


def _draft(path: Path, **more: Any) -> Any:
    return family.draft(EncoderChoice(f"exported:{path}", **more))


def _textures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Chips ``(n, 3, 16, 16)`` of four textures, alike in mean and spread, and their kinds."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 4, count)
    rows, cols = np.mgrid[0:16, 0:16][:, None] + rng.integers(0, 4, (2, count))[:, :, None, None]
    waves = np.stack([rows // 2 % 2, cols // 2 % 2, (rows + cols) // 2 % 2, (rows - cols) // 2 % 2])
    pattern = waves[kinds, np.arange(count)] * 2.0 - 1
    chips = 1500 + 300 * pattern[:, None] + rng.normal(0, 450, (count, 3, 16, 16))
    return chips.astype("f4"), kinds


def _normalised(chips: np.ndarray) -> np.ndarray:
    mean, std = (np.array(EXPORTED[key], "f4")[:, None, None] for key in ("mean", "std"))
    return (chips - mean) / std


@pytest.fixture(scope="module")
def trained() -> Any:
    """A network trained for a few seconds to tell the textures."""
    need("torch")
    import torch

    network = small_network()
    head = torch.nn.Linear(8, 4)
    chips, kinds = _textures(1024, seed=1)
    pixels, wanted = torch.from_numpy(_normalised(chips)), torch.from_numpy(kinds)
    everything = [*network.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(everything, lr=5e-3)
    for step in range(150):
        part = slice(step * 64 % 1024, step * 64 % 1024 + 64)
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(head(network(pixels[part])), wanted[part])
        loss.backward()
        optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def model_of(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("exported")

    def find(kind: str) -> Path:
        if kind == "onnx":
            need("onnxruntime", "onnx")
        path = folder / f"model.{kind}"
        return path if path.exists() else describe(export(trained, path))

    return find


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_the_network(
    model_of: Callable[[str], Path], trained: Any, kind: str
) -> None:
    import torch

    chips, _ = _textures(40, seed=2)
    with torch.inference_mode():
        expected = trained(torch.from_numpy(_normalised(chips))).numpy()
    found = _draft(model_of(kind)).encode(chips)
    assert np.abs(found - expected).max() <= 1e-5


def test_a_linear_probe_on_the_vectors_beats_chance(model_of: Callable[[str], Path]) -> None:
    encoder = _draft(model_of("pt2"))
    fit, fit_kinds = _textures(400, seed=3)
    new, new_kinds = _textures(400, seed=4)

    def right(train: np.ndarray, test: np.ndarray) -> float:
        one = np.eye(4)[fit_kinds]
        joined = [np.c_[part, np.ones(len(part))] for part in (train, test)]
        weights, *_ = np.linalg.lstsq(joined[0], one, rcond=None)
        return float(((joined[1] @ weights).argmax(1) == new_kinds).mean())

    means = [chips.mean(axis=(2, 3)) for chips in (fit, new)]
    assert right(encoder.encode(fit), encoder.encode(new)) > 0.9
    assert right(*means) < 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_other_sizes_are_resized_or_refused(model_of: Callable[[str], Path], kind: str) -> None:
    path = model_of(kind)
    chips = np.full((2, 3, 20, 24), 1500, dtype="f4")
    assert np.allclose(_draft(path).encode(chips), _draft(path).encode(chips[:, :, :16, :16]))
    try:
        describe(path, resize=None)
        with pytest.raises(InputError, match=r"takes chips of 16 x 16.*have 24 x 20.*--chip 16"):
            _draft(path).encode(chips)
    finally:
        describe(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bands": EXPORTED["bands"][:2]}, "names 2 bands, 3 means"),
        (
            {"bands": [{"name": "B"}], "mean": [0], "std": [1]},
            r"its side-car says \(n, 1, 16, 16\)",
        ),
        ({"dim": 9}, r"gives \((any|n), 8\).*side-car says \(n, 9\)"),
        ({"chip_px": 32}, r"says \(n, 3, 32, 32\)"),
        ({"input": "image"}, "'image'"),
        ({"sha256": "0" * 64}, "Restore both files together"),
        ({"std": [1, 0, 1]}, "deviations above 0"),
        ({"values": "counts"}, "allowed: any, reflectance-10000"),
        ({"resize": "nearest"}, "allowed: null, bilinear, bicubic"),
        ({"dim": None}, "does not say 'dim'"),
        ({"format_version": 2}, "reads terrakin-exported-encoder version 1"),
        ({"chip_px": "large"}, "cannot be used"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_side_car_that_does_not_fit_is_told_before_any_pixel(
    model_of: Callable[[str], Path], kind: str, changes: dict[str, Any], words: str
) -> None:
    path = model_of(kind)
    try:
        describe(path, **changes)
        with pytest.raises(InputError, match=words):
            _draft(path)
    finally:
        describe(path)


def test_missing_files_are_told_of(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"model\.onnx'.*two files"):
        _draft(tmp_path / "model.onnx")
    (tmp_path / "model.pt2").write_bytes(b"")
    with pytest.raises(SourceNotFoundError, match=r"model\.pt2\.json"):
        _draft(tmp_path / "model.pt2")
    (tmp_path / "model.pt2.json").write_text("[]", encoding="utf-8")
    with pytest.raises(SourceError, match="no side-car"):
        _draft(tmp_path / "model.pt2")
    with pytest.raises(InputError, match=r"\.onnx or \.pt2"):
        _draft(tmp_path / "model.bin")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_models_are_told_of(
    model_of: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    whole = model_of(kind).read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("noise", b"\x00\xff" * 500)):
        path = tmp_path / f"{name}.{kind}"
        path.write_bytes(content)
        describe(path)
        with pytest.raises(SourceError, match=r"cannot be loaded or run|is damaged, or of a ver"):
            _draft(path)


def test_the_side_car_is_part_of_the_hash(model_of: Callable[[str], Path], tmp_path: Path) -> None:
    path = model_of("pt2")
    moved = tmp_path / "moved.pt2"
    moved.write_bytes(path.read_bytes())
    describe(moved)
    assert _draft(moved).sha256 == _draft(path).sha256
    _draft(path).save(tmp_path)
    describe(moved, mean=[0, 0, 0])
    said = json.loads((tmp_path / "encoder.json").read_text(encoding="utf-8"))
    with pytest.raises(InputError, match="with its side-car has the SHA-256"):
        family.load(tmp_path, said, moved)


class _Broken:
    """Networks with the wrong interface."""

    @staticmethod
    def make(fault: str) -> Any:
        import torch

        class Broken(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = torch.nn.Conv2d(3, 8, 3)

            def forward(self, pixels: Any) -> Any:
                maps = self.body(pixels)
                if fault == "map":
                    return maps
                vector = maps.mean((2, 3))
                return vector.double() if fault == "double" else vector

        return Broken()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("map", r"gives \((any|2|n).*one vector a chip"),
        ("double", r"float32|tensor\(float\)"),
        ("batch", "exactly 2 chips at once"),
    ],
)
def test_models_with_another_interface_are_refused(
    tmp_path: Path, kind: str, fault: str, words: str
) -> None:
    need("torch", "onnxruntime", "onnx")
    batch = 2 if fault == "batch" else "n"
    path = describe(export(_Broken.make(fault), tmp_path / f"model.{kind}", batch=batch))
    with pytest.raises(InputError, match=words):
        _draft(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_for_one_chip_at_a_time_is_run_so(
    trained: Any, model_of: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    need("onnxruntime", "onnx")
    chips, _ = _textures(3, seed=5)
    single = describe(export(trained, tmp_path / f"model.{kind}", batch=1))
    assert np.allclose(
        _draft(single).encode(chips), _draft(model_of(kind)).encode(chips), atol=1e-5
    )


def _altered(path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Rewrite every entry of an archive, and describe it."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
    target = path.with_name("altered.pt2")
    target.write_bytes(out.getvalue())
    return describe(target)


@pytest.mark.parametrize(
    ("pattern", "instead", "words"),
    [
        (rb"Symbol\('\w+'[^\"]*\)", b"__import__('os').mkdir('MARK') or 2", "a size is"),
        (rb"torch\.ops\.aten\.relu\.default", b"torch.os.mkdir", "it calls 'torch.os.mkdir'"),
        (rb"torch\.ops\.aten\.relu\.default", b"torch.ops.aten.from_file.default", "it calls"),
        (rb"builtins\.tuple", b"collections.defaultdict", "it takes or gives"),
        (rb'"use_pickle": ?false', b'"use_pickle": true', "is pickled"),
        (rb"weight_0\"", b'../weight_0"', "is pickled"),
    ],
)
def test_a_pt2_that_could_run_code_is_refused(
    model_of: Callable[[str], Path], tmp_path: Path, pattern: bytes, instead: bytes, words: str
) -> None:
    marker = tmp_path / "ran"
    instead = instead.replace(b"MARK", marker.as_posix().encode())
    changed: list[str] = []

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(".json"):
            return content
        new = re.sub(pattern, lambda _: instead, content)
        changed.extend([name] if new != content else [])
        return new

    path = _altered(model_of("pt2"), change)
    assert changed
    with pytest.raises(SourceError, match=f"is refused: .*{words}.*could run code"):
        _draft(path)
    assert not marker.exists()


def test_pickles_and_guards_of_a_pt2_are_never_looked_at(
    model_of: Callable[[str], Path], tmp_path: Path
) -> None:
    import pickle

    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    def change(name: str, content: bytes) -> bytes:
        if name.startswith("data/sample_inputs/"):
            return pickle.dumps(Evil())
        touch = f"__import__('pathlib').Path('{marker.as_posix()}').touch()"
        guard = f'"guards_code": ["{touch}"]'.encode()
        return re.sub(rb'"guards_code": ?\[\]', lambda _: guard, content)

    chips, _ = _textures(3, seed=6)
    path = _altered(model_of("pt2"), change)
    assert np.array_equal(_draft(path).encode(chips), _draft(model_of("pt2")).encode(chips))
    assert not marker.exists()
