"""Probes as files: restored as they were, refused when damaged or meant for other vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from embeddings.analysis.applicability import Applicability
from embeddings.analysis.probes import LinearProbe
from embeddings.errors import (
    InputError,
    SourceError,
    SourceNotFoundError,
    SpecMismatchError,
    StorageFullError,
    StoreFormatError,
)
from embeddings.probe.model import CHECKSUM, ProbeModel, TrainedOn, model_files
from embeddings.spec import ChipLayout, EmbeddingSpec, Preprocessing

MakeSpec = Callable[..., EmbeddingSpec]


def probe_of(dim: int = 4, classes: tuple[str, ...] = ("sea", "land"), **more: Any) -> LinearProbe:
    rng = np.random.default_rng(3)
    values = {
        "task": "classes",
        "kind": "logistic",
        "classes": classes,
        "mean": rng.normal(size=dim).astype(np.float32),
        "scale": rng.uniform(0.5, 2, dim).astype(np.float32),
        "weights": rng.normal(size=(dim, len(classes))).astype(np.float32),
        "bias": rng.normal(size=len(classes)).astype(np.float32),
        "strength": 0.5,
        "temperature": 1.25,
        **more,
    }
    return LinearProbe(**values)


@pytest.fixture
def model(make_spec: MakeSpec) -> ProbeModel:
    rng = np.random.default_rng(4)
    near = Applicability(
        mean=rng.normal(size=4).astype(np.float32),
        scale=rng.uniform(0.5, 2, 4).astype(np.float32),
        prototypes=rng.normal(size=(5, 4)).astype(np.float32),
        unit=0.7,
        threshold=np.inf,
    )
    probe = probe_of(applicability=near, thresholds=np.array([0.6, np.inf]), prevalence=None)
    return ProbeModel(
        probe,
        (TrainedOn("carolina", "state", make_spec()),),
        validation={"accuracy": np.float64(0.75), "kappa": float("nan")},
        labels={"used": np.int64(12)},
        provenance={"terrakin": "x", "made": "2026-01-01"},
    )


def test_a_model_comes_back_as_it_was(model: ProbeModel, tmp_path: Path) -> None:
    written = model.save(tmp_path / "m.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.safetensors"]
    for path in (written, tmp_path / "m.json", tmp_path / "m"):
        found = ProbeModel.load(path)
        for name in ("mean", "scale", "weights", "bias", "thresholds"):
            np.testing.assert_array_equal(getattr(found.probe, name), getattr(model.probe, name))
        for name in ("task", "kind", "classes", "strength", "temperature", "prevalence"):
            assert getattr(found.probe, name) == getattr(model.probe, name)
        assert found.probe.applicability is not None
        assert model.probe.applicability is not None
        for name in ("mean", "scale", "prototypes"):
            np.testing.assert_array_equal(
                getattr(found.probe.applicability, name),
                getattr(model.probe.applicability, name),
            )
        assert found.probe.applicability.unit == 0.7
        assert found.probe.applicability.threshold == np.inf
        assert found.trained_on == model.trained_on
        assert found.validation == {"accuracy": 0.75, "kappa": None}
        assert found.labels == {"used": 12}
        assert found.provenance == {"terrakin": "x", "made": "2026-01-01"}
        assert found.sha256 == model.sha256
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    np.testing.assert_array_equal(found.probe.predict(vectors), model.probe.predict(vectors))


def test_equal_models_have_equal_bytes_and_one_hash(model: ProbeModel, tmp_path: Path) -> None:
    model.save(tmp_path / "one")
    later = replace(model, provenance={"made": "later"})
    later.save(tmp_path / "two")
    assert model_files(tmp_path / "one")[0].read_bytes() == (
        model_files(tmp_path / "two")[0].read_bytes()
    )
    assert later.sha256 == model.sha256
    assert replace(model, labels={"used": 13}).sha256 != model.sha256
    other = replace(model.probe, bias=model.probe.bias + 1)
    assert replace(model, probe=other).sha256 != model.sha256


def test_saving_replaces_both_or_neither(
    model: ProbeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save(tmp_path / "m")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = replace(model, probe=replace(model.probe, bias=model.probe.bias + 1))

    def broken(*_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", broken)
    with pytest.raises(StorageFullError):
        other.save(tmp_path / "m")
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_in_no_folder_or_over_a_strange_json_is_refused(
    model: ProbeModel, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="in a folder that exists"):
        model.save(tmp_path / "none" / "m")
    (tmp_path / "package.json").write_text("{}")
    with pytest.raises(InputError, match="belongs to no model"):
        model.save(tmp_path / "package")
    assert (tmp_path / "package.json").read_text() == "{}"


@pytest.mark.parametrize("side", ['{"format": "an adapter"}', "[]", None])
def test_weights_of_something_else_are_never_replaced(
    model: ProbeModel, tmp_path: Path, side: str | None
) -> None:
    (tmp_path / "encoder.safetensors").write_bytes(b"weights")
    if side is not None:
        (tmp_path / "encoder.json").write_text(side)
    with pytest.raises(InputError, match="belongs to no model"):
        model.save(tmp_path / "encoder")
    assert (tmp_path / "encoder.safetensors").read_bytes() == b"weights"


def test_a_description_without_a_checksum_is_still_read(model: ProbeModel, tmp_path: Path) -> None:
    path = model.save(tmp_path / "m")
    edited(tmp_path / "m.json", lambda d: d.pop(CHECKSUM))
    assert ProbeModel.load(path).sha256 == model.sha256


def edited(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda d: d.update(format_version=2), "version 2; this release reads terrakin-probe"),
        (lambda d: d.update(format="terrakin-location-encoder"), "terrakin-location-encoder"),
        (lambda d: d.update(tensors_sha256="0" * 64), "Restore both together"),
        (lambda d: d.pop("labels"), "labels"),
        (lambda d: d["probe"].update(classes=["sea"]), r"'weights' is \(4, 2\)"),
        (lambda d: d["probe"].update(classes=["sea", "sea"]), "named twice"),
        (lambda d: d["probe"].update(classes=[]), "no classes"),
        (lambda d: d["probe"].update(task="guess"), "no task"),
        (lambda d: d["probe"].update(kind="forest"), "no kind"),
        (lambda d: d["probe"].update(temperature=0), "temperature"),
        (lambda d: d["probe"].update(thresholds=[0.5]), "thresholds"),
        (lambda d: d["trained_on"][0]["spec"].update(dim=5), r"instead of \(5,\)"),
        (lambda d: d["trained_on"][0]["spec"].pop("dim"), "dim"),
        (lambda d: d.update(trained_on=7), "cannot be read"),
        (lambda d: d.pop("format"), "describes something else, not a probe"),
        # What fits its arrays but is not what was measured.
        (lambda d: d["probe"].update(classes=["land", "sea"]), "changed after it was written"),
        (lambda d: d["validation"].update(accuracy=0.99), "changed after it was written"),
        (lambda d: d["labels"].update(used=13), "changed after it was written"),
    ],
)
def test_a_damaged_description_is_refused(
    model: ProbeModel, tmp_path: Path, edit: Callable[[dict[str, Any]], None], says: str
) -> None:
    path = model.save(tmp_path / "m")
    edited(tmp_path / "m.json", edit)
    with pytest.raises((SourceError, StoreFormatError), match=says):
        ProbeModel.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 200_000])
def test_a_side_car_that_is_none_is_refused(
    model: ProbeModel, tmp_path: Path, content: bytes
) -> None:
    path = model.save(tmp_path / "m")
    (tmp_path / "m.json").write_bytes(content)
    with pytest.raises(SourceError):
        ProbeModel.load(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weights": np.full((4, 2), np.nan, np.float32)}, "'weights' holds a value"),
        ({"mean": np.zeros(3, np.float32)}, r"'mean' is \(3,\)"),
        ({"bias": np.zeros(2, np.float64)}, "float64 instead"),
        ({"scale": np.zeros(4, np.float32)}, "not above 0"),
        ({"applicability.mean": np.zeros(9, np.float32)}, "applicability.mean"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    model: ProbeModel, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    path = model.save(tmp_path / "m")
    save_file({**load_file(path), **change}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edited(tmp_path / "m.json", lambda d: d.update(tensors_sha256=digest))
    with pytest.raises(SourceError, match=says):
        ProbeModel.load(path)


def test_a_cut_or_missing_file_is_refused(model: ProbeModel, tmp_path: Path) -> None:
    path = model.save(tmp_path / "m")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(SourceError, match="Restore both together"):
        ProbeModel.load(path)
    path.unlink()
    with pytest.raises(SourceNotFoundError, match="two files"):
        ProbeModel.load(path)


def test_another_vector_space_is_refused_and_every_difference_named(
    model: ProbeModel, make_spec: MakeSpec
) -> None:
    model.check(make_spec(), "carolina")
    changes: dict[str, Any] = {
        "product": "rcf on landsat",
        "model": "dino",
        "model_version": "2",
        "weights_sha256": "f" * 64,
        "dim": 8,
        "dtype": "float32",
        "norm": "l2",
        "bands": ("B04", "B03"),
        "gsd_m": 30.0,
        "layout": ChipLayout("160m", "160m", (16, 16), (16, 16)),
        "preprocessing": Preprocessing((1.0, 2.5), (0.5, 0.25), "bilinear", (1.0, 1.0)),
    }
    for name, value in changes.items():
        with pytest.raises(SpecMismatchError, match="carolina"):
            model.check(make_spec(**{name: value}), "carolina")
    with pytest.raises(SpecMismatchError) as caught:
        model.check(make_spec(**changes), "carolina")
    for words in (
        "model (collection: dino, asked: rcf)",
        "dim (collection: 8, asked: 4)",
        "dtype (collection: float32, asked: float16)",
        "chip (collection: 160m, asked: 80m)",
        "mean (collection: (1.0, 2.5), asked: (1.0, 2.0))",
        "gsd_m (collection: 30, asked: 10)",
    ):
        assert words in str(caught.value)


def test_what_changes_no_vector_may_differ(model: ProbeModel, make_spec: MakeSpec) -> None:
    pre = Preprocessing((1.0, 2.0), (0.5, 0.25), "bilinear", (1.0, 1.0), (), 0.5, "SCL")
    model.check(
        make_spec(
            preprocessing=pre,
            layout=ChipLayout("80m", "20m", (8, 8), (2, 2)),
            grid_km=25.0,
            source="elsewhere",
            licence="MIT",
            centre=(1.0, 0.0, 0.0, 0.0),
            attributes=(("name", "string"),),
        )
    )


def test_other_scales_of_int8_are_refused(model: ProbeModel, make_spec: MakeSpec) -> None:
    spec = make_spec(dtype="int8", scale=(0.1, 0.2, 0.3, 0.4))
    model = replace(model, trained_on=(TrainedOn("carolina", "state", spec),))
    model.check(spec)
    with pytest.raises(SpecMismatchError, match=r"dimension 2 \(collection: 0.31, asked: 0.3\)"):
        model.check(replace(spec, scale=(0.1, 0.2, 0.31, 0.4)))


def test_a_probe_of_two_collections_says_so(model: ProbeModel, make_spec: MakeSpec) -> None:
    two = replace(model, trained_on=(*model.trained_on, TrainedOn("other", "s", make_spec())))
    with pytest.raises(SpecMismatchError, match="'carolina' and 'other'"):
        two.check(make_spec(), "carolina")


def test_collections_of_one_product_are_not_taken_in_another_order(
    model: ProbeModel, make_spec: MakeSpec
) -> None:
    two = replace(model, trained_on=(*model.trained_on, TrainedOn("other", "s", make_spec())))
    two.check_beside([("carolina", make_spec()), ("other", make_spec())])
    two.check_beside([("later", make_spec()), ("other", make_spec())])
    with pytest.raises(SpecMismatchError, match="in the order of the fit"):
        two.check_beside([("other", make_spec()), ("carolina", make_spec())])
