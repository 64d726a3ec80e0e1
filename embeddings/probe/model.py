"""A fitted probe as files: MODEL.safetensors (its arrays) and MODEL.json (all the rest)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from embeddings import __version__
from embeddings.analysis.applicability import Applicability
from embeddings.analysis.plain import plain
from embeddings.analysis.probes import Kind, LinearProbe
from embeddings.analysis.samples import TASKS, Task
from embeddings.atomic import atomic_path
from embeddings.errors import InputError, SourceError, SourceNotFoundError, SpecMismatchError
from embeddings.probe.outputs import IF_FULL, check_file
from embeddings.spec import EmbeddingSpec
from embeddings.store.collection import Collection

FORMAT = "terrakin-probe"
FORMAT_VERSION = 1

CHECKSUM = "description_sha256"
"""The key of the hash of all else in the JSON but the provenance; older files lack it."""

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class TrainedOn:
    """A collection that gave the vectors: its name, the state of its rows, its vector space."""

    collection: str
    state: str
    spec: EmbeddingSpec

    @classmethod
    def of(cls, collection: Collection) -> Self:
        """Name a collection as it stands."""
        return cls(collection.id, collection.state, collection.spec)


@dataclass(frozen=True, eq=False)
class ProbeModel:
    """A probe, the vectors it understands, and how it was made and judged.

    ``trained_on`` has one entry, or two for a probe of two collections whose vectors stand side
    by side. ``validation`` and ``labels`` are JSON objects: what was measured, and what became of
    the labels. ``provenance`` says what made the model and when.
    """

    probe: LinearProbe
    trained_on: tuple[TrainedOn, ...]
    validation: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=lambda: _made())

    @property
    def spec(self) -> EmbeddingSpec:
        """The vector space of the first collection."""
        return self.trained_on[0].spec

    @cached_property
    def sha256(self) -> str:
        """A hash of all but the provenance: equal for two models that say the same."""
        kept = {key: value for key, value in _description(self).items() if key != "provenance"}
        content = json.dumps(kept, sort_keys=True).encode() + save_tensors(_tensors(self.probe))
        return hashlib.sha256(content).hexdigest()

    def save(self, path: Path) -> Path:
        """Write MODEL.safetensors and MODEL.json and return the first; existing ones are replaced.

        Each file appears whole or not at all; the JSON holds the hash of the other, so that files
        of two models are never taken for one. Raises InputError or StoreError.
        """
        check_writable(path)
        tensors_file, json_file = model_files(path)
        content = save_tensors(_tensors(self.probe))
        described = _description(self) | {"tensors_sha256": hashlib.sha256(content).hexdigest()}
        described[CHECKSUM] = _checksum(described)
        text = json.dumps(described, indent=1, allow_nan=False) + "\n"
        with atomic_path(tensors_file, IF_FULL) as tensors, atomic_path(json_file, IF_FULL) as side:
            tensors.write_bytes(content)
            side.write_text(text, encoding="utf-8", newline="\n")
        return tensors_file

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote; ``path`` names either file, or both without a suffix.

        Raises SourceNotFoundError, SourceError for damage and other format versions, or
        StoreFormatError for the spec of another release.
        """
        tensors_file, json_file = model_files(path)
        described, content = _read(tensors_file, json_file)
        try:
            if hashlib.sha256(content).hexdigest() != described["tensors_sha256"]:
                raise SourceError(
                    f"'{tensors_file}' does not hold the arrays that {json_file.name} describes: "
                    "one of the two files was changed or replaced. Restore both together."
                )
            trained_on = tuple(
                TrainedOn(
                    str(each["collection"]),
                    str(each["state"]),
                    EmbeddingSpec.from_json(each["spec"]),
                )
                for each in described["trained_on"]
            )
            dim = sum(each.spec.dim for each in trained_on)
            loaded = cls(
                _probe(described["probe"], load_tensors(content), dim),
                trained_on,
                dict(described["validation"]),
                dict(described["labels"]),
                dict(described["provenance"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
            raise SourceError(
                f"'{json_file}' and '{tensors_file.name}' cannot be read as a probe ({error}). "
                "Restore them, or fit the probe again."
            ) from error
        _check_unchanged(json_file, described)
        return loaded

    def check(self, spec: EmbeddingSpec, collection: str = "asked for") -> None:
        """Raise SpecMismatchError, naming each difference, unless the probe understands vectors.

        Everything that changes a vector must agree. Sampling may differ: stride, grid distance,
        least share of valid pixels, mask; and what is about rows only: source, licence,
        attributes, what search takes off.
        """
        self.check_beside([(collection, spec)])

    def check_beside(self, collections: Sequence[tuple[str, EmbeddingSpec]]) -> None:
        """Raise SpecMismatchError unless the probe understands these vectors, side by side.

        ``collections`` are their names and specs, in the order in which it was fitted to them.
        """
        if len(self.trained_on) != len(collections):
            names = " and ".join(f"'{each.collection}'" for each in self.trained_on)
            given = " and ".join(f"'{name}'" for name, _ in collections)
            raise SpecMismatchError(
                f"The probe needs the vectors of {len(self.trained_on)} collections side by side "
                f"({names}); {len(collections)} came ({given}). Name all with --collection and "
                "--with, in that order."
                if len(self.trained_on) > 1
                else f"The probe was fitted to one collection ({names}); {len(collections)} came "
                f"({given}). Leave out --with."
            )
        for known, (name, spec) in zip(self.trained_on, collections, strict=True):
            found = differences(known.spec, spec)
            if found:
                raise SpecMismatchError(
                    f"The probe was fitted to other vectors than those of collection '{name}' "
                    f"(asked: by the probe): {'; '.join(found)}. Fit a probe to this collection, "
                    f"or predict on one made as '{known.collection}' was."
                )
        wanted = [each.collection for each in self.trained_on]
        came = [name for name, _ in collections]
        if came != wanted and sorted(came) == sorted(wanted):
            # Two dates of one product have one spec, but weights of their own.
            raise SpecMismatchError(
                f"The probe was fitted to {', '.join(wanted)}, in that order; {', '.join(came)} "
                "came. Name them in the order of the fit."
            )


def differences(wanted: EmbeddingSpec, spec: EmbeddingSpec) -> list[str]:
    """Name what makes vectors of ``spec`` other than those ``wanted``; both values each."""
    alike = replace(
        wanted,
        grid_km=spec.grid_km,
        source=spec.source,
        licence=spec.licence,
        centre=spec.centre,
        attributes=spec.attributes,
    )
    if wanted.layout and spec.layout:
        stride = spec.layout.stride_asked
        alike = replace(alike, layout=replace(wanted.layout, stride_asked=stride))
    if wanted.preprocessing and spec.preprocessing:
        there = spec.preprocessing
        same = replace(wanted.preprocessing, min_valid=there.min_valid, mask=there.mask)
        alike = replace(alike, preprocessing=same)
    if wanted.scale and spec.scale and len(wanted.scale) == len(spec.scale):
        # Of hundreds of scales, the first that differs says more than the beginning of all.
        alike = replace(alike, scale=spec.scale)
        pairs = enumerate(zip(spec.scale, wanted.scale, strict=True))
        other = [(i, here, asked) for i, (here, asked) in pairs if here != asked]
        if other:
            i, here, asked = other[0]
            first = f"scale of dimension {i} (collection: {here:.9g}, asked: {asked:.9g})"
            return [*spec.differences(alike), f"{first} and {len(other) - 1} others"]
    return spec.differences(alike)


def model_files(path: Path) -> tuple[Path, Path]:
    """Return MODEL.safetensors and MODEL.json for either of them, or for MODEL."""
    bare = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    return bare.with_name(f"{bare.name}.safetensors"), bare.with_name(f"{bare.name}.json")


def check_writable(path: Path) -> None:
    """Raise InputError or StoreError, before a long fit, if a model could not be written there."""
    tensors_file, json_file = model_files(path)
    for file in (tensors_file, json_file):
        check_file(file)
    there = [file for file in (json_file, tensors_file) if file.exists()]
    if there and not _is_model(json_file):
        raise InputError(
            f"'{there[0]}' is there and belongs to no model; it would be overwritten. Choose "
            "another name for the model."
        )


def _is_model(json_file: Path) -> bool:
    """Whether a file is the description of a probe, of whatever version."""
    try:
        described = json.loads(json_file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(described, dict) and described.get("format") == FORMAT


def _made() -> dict[str, str]:
    return {"terrakin": __version__, "made": datetime.now(UTC).isoformat(timespec="seconds")}


def _tensors(probe: LinearProbe) -> Tensors:
    found = {name: getattr(probe, name) for name in ("mean", "scale", "weights", "bias")}
    if probe.applicability is not None:
        for name in ("mean", "scale", "prototypes"):
            found[f"applicability.{name}"] = getattr(probe.applicability, name)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}


def _description(model: ProbeModel) -> dict[str, Any]:
    probe, near = model.probe, model.probe.applicability
    described = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "probe": {
            "task": probe.task,
            "kind": probe.kind,
            "classes": list(probe.classes),
            "strength": probe.strength,
            "temperature": probe.temperature,
            "thresholds": None if probe.thresholds is None else probe.thresholds.tolist(),
            "prevalence": probe.prevalence,
            "applicability": near and {"unit": near.unit, "threshold": near.threshold},
        },
        "trained_on": [
            {"collection": each.collection, "state": each.state, "spec": each.spec.to_json()}
            for each in model.trained_on
        ],
        "validation": model.validation,
        "labels": model.labels,
        "provenance": model.provenance,
    }
    return {name: plain(value) for name, value in described.items()}


def _read(tensors_file: Path, json_file: Path) -> tuple[dict[str, Any], bytes]:
    for file in (tensors_file, json_file):
        if not file.is_file():
            raise SourceNotFoundError(
                f"There is no file '{file}'. A probe is two files, MODEL.safetensors and "
                "MODEL.json, side by side."
            )
    try:
        described = json.loads(json_file.read_text(encoding="utf-8"))
        content = tensors_file.read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(
            f"'{json_file}' and '{tensors_file.name}' cannot be read ({error}). Restore them, or "
            "fit the probe again."
        ) from error
    named = described if isinstance(described, dict) else {}
    known = named.get("format"), named.get("format_version")
    if known[0] != FORMAT:
        raise SourceError(
            f"'{json_file}' describes {known[0] or 'something else'}, not a probe. Name what "
            "'probe fit' wrote: MODEL.safetensors and MODEL.json."
        )
    if known[1] != FORMAT_VERSION:
        raise SourceError(
            f"'{json_file}' describes {known[0]} version {known[1]}; this release reads {FORMAT} "
            f"version {FORMAT_VERSION}. Use the release of Terrakin that wrote it."
        )
    return named, content


def _checksum(described: Mapping[str, Any]) -> str:
    """Return the hash of a description, itself and the provenance left out."""
    kept = {key: value for key, value in described.items() if key not in (CHECKSUM, "provenance")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _check_unchanged(json_file: Path, described: Mapping[str, Any]) -> None:
    """Raise SourceError if a description is not as it was written: its figures prove nothing."""
    if described.get(CHECKSUM, _checksum(described)) != _checksum(described):
        raise SourceError(
            f"'{json_file}' was changed after it was written: it does not match its checksum. "
            "Restore it, or fit the probe again."
        )


def _probe(described: Mapping[str, Any], tensors: Tensors, dim: int) -> LinearProbe:
    """Make the probe. Raises ValueError if a part does not fit the others."""
    task, classes = described["task"], tuple(map(str, described["classes"]))
    _check(task in TASKS, f"'{task}' is no task")
    _check(described["kind"] in get_args(Kind), f"'{described['kind']}' is no kind of probe")
    _check(len(set(classes)) == len(classes), "a class is named twice")
    columns = 1 if task in ("number", "positive") else len(classes)
    _check(columns > 0, "there are no classes")
    shapes: dict[str, tuple[int, ...]] = {
        "mean": (dim,),
        "scale": (dim,),
        "weights": (dim, columns),
        "bias": (columns,),
    }
    near = described["applicability"]
    if near is not None:
        count = len(tensors["applicability.prototypes"])
        shapes["applicability.mean"] = shapes["applicability.scale"] = (dim,)
        shapes["applicability.prototypes"] = (count, dim)
    for name, shape in shapes.items():
        _check_array(name, tensors[name], shape)
        if name.endswith("scale"):
            _check(bool((tensors[name] > 0).all()), f"'{name}' is not above 0")
    thresholds = described["thresholds"]
    if thresholds is not None:
        thresholds = np.array([_or_infinite(each) for each in thresholds])
        _check(thresholds.shape == (columns,), f"{thresholds.shape} thresholds")
    prevalence = described["prevalence"]
    return LinearProbe(
        task=_task(task),
        kind=described["kind"],
        classes=classes,
        mean=tensors["mean"],
        scale=tensors["scale"],
        weights=tensors["weights"],
        bias=tensors["bias"],
        strength=float(described["strength"]),
        temperature=_above_zero("temperature", described["temperature"]),
        thresholds=thresholds,
        applicability=near and _applicability(near, tensors),
        prevalence=None if prevalence is None else float(prevalence),
    )


def _task(name: str) -> Task:
    return next(task for task in TASKS if task == name)


def _applicability(described: Mapping[str, Any], tensors: Tensors) -> Applicability:
    return Applicability(
        mean=tensors["applicability.mean"],
        scale=tensors["applicability.scale"],
        prototypes=tensors["applicability.prototypes"],
        unit=_above_zero("unit", described["unit"]),
        threshold=_or_infinite(described["threshold"]),
    )


def _or_infinite(value: Any) -> float:
    """Read a threshold; one that is never reached is infinite, which JSON cannot hold."""
    return math.inf if value is None else float(value)


def _above_zero(name: str, value: Any) -> float:
    _check(float(value) > 0 and math.isfinite(value), f"the {name} {value} is not above 0")
    return float(value)


def _check_array(name: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    _check(
        values.dtype == np.float32 and values.shape == shape,
        f"'{name}' is {values.shape} {values.dtype} instead of {shape} float32",
    )
    _check(bool(np.isfinite(values).all()), f"'{name}' holds a value that is not a number")


def _check(true: bool, problem: str) -> None:
    if not true:
        raise ValueError(problem)
