"""Encoders ``torchgeo:WEIGHTS``: the image encoders of the installed torchgeo."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from embeddings.encoders.base import EncoderChoice, EncoderInfo
from embeddings.encoders.options import split_options
from embeddings.encoders.preprocess import STRETCHES
from embeddings.encoders.pretrained import CHIPS_AT_ONCE, PretrainedEncoder, restore
from embeddings.encoders.torch_runtime import Batches, installed, on_device
from embeddings.encoders.torchgeo_adapters import headless, optional
from embeddings.encoders.torchgeo_catalogue import EXTRA, TRUE_COLOUR, Entry, entries, find
from embeddings.encoders.weights import (
    Weights,
    check_sha256,
    file_sha256,
    from_hub,
    misfit,
    read_state,
    tensor_names,
)
from embeddings.errors import InputError

PREFIX = "torchgeo"
TITLE = "Earth observation models of torchgeo (SSL4EO, Satlas, SoftCon, DeCUR, CROMA, DOFA ...)"
_HALF = {"torch.float16", "torch.bfloat16"}
OPTIONS: dict[str, tuple[str, ...]] = {"bands": (), "res": (), "stretch": tuple(STRETCHES)}


def listing() -> list[EncoderInfo]:
    """Return every image encoder of the registry; one line where torchgeo is not installed."""
    if not installed("torch", "torchvision", "torchgeo"):
        return [EncoderInfo(f"{PREFIX}:WEIGHTS", TITLE, None, None, None, available=False)]
    return [
        EncoderInfo(
            f"{PREFIX}:{name}",
            f"{entry.model}, {entry.member.meta.get('dataset', 'not stated')}",
            len(entry.bands),
            entry.adapter.dim,
            entry.wants().chip_px,
            available=True,
        )
        for name, entry in entries().items()
    ]


def draft(choice: EncoderChoice) -> PretrainedEncoder:
    """Build the model and load its weights.

    Raises InputError for an unknown name or weights that do not fit, SourceNotFoundError where
    the weights are neither given, cached nor fetched, ExtraMissingError without torchgeo.
    """
    name, options = split_options(choice.arg, OPTIONS, PREFIX)
    entry = find(name, options)
    weights = _weights(entry, choice)
    model = _build(entry, weights.path)
    run, inputs = entry.adapter.run, entry.inputs
    return PretrainedEncoder(
        name=choice.name,
        version=weights.sha256[:8],
        wants=entry.wants(),
        dim=entry.adapter.dim,
        weights=weights,
        forward=on_device(
            model, lambda chips: prepare(entry, chips), lambda chips: run(model, chips, inputs)
        ),
        batches=Batches(CHIPS_AT_ONCE),
        licence=str(entry.member.meta.get("license") or ""),
        module=model,
    )


def load(folder: Path, description: Mapping[str, Any], weights: Path | None) -> PretrainedEncoder:
    """Find the weights again that ``save`` spoke of. Raises StoreFormatError or InputError."""
    return restore(draft, folder, description, weights)


def prepare(entry: Entry, chips: Any) -> Any:
    """Bring values ``(n, bands, height, width)`` to what the model takes, as torchgeo does.

    ``chips`` is a float32 tensor and may be written into.
    """
    if entry.stretch is not None and entry.stretch.factor is not None:
        chips = (chips * entry.stretch.factor).clamp(0, 255)
    if entry.ranges is not None:
        low, high = chips.new_tensor(entry.ranges).T[:, :, None, None]
        chips = (255 * (chips - low) / (high - low)).clamp(0, 255)
    if entry.mixed:
        factor = STRETCHES["tci"].factor or 1.0
        chips[:, :TRUE_COLOUR] = (chips[:, :TRUE_COLOUR] * factor).clamp(0, 255)
    if entry.crop is not None and min(chips.shape[-2:]) < entry.crop:
        chips = _resize(chips, entry.crop)
    chips = entry.member.transforms(chips)
    size = entry.adapter.size
    return chips if size is None else _resize(chips, size)


def _resize(chips: Any, side: int) -> Any:
    if tuple(chips.shape[-2:]) == (side, side):
        return chips
    resize = import_module("torch").nn.functional.interpolate
    return resize(chips, (side, side), mode="bilinear", antialias=True)


def _weights(entry: Entry, choice: EncoderChoice) -> Weights:
    address = str(entry.member.url)
    path = choice.weights
    if path is None:
        path = from_hub(address, offline=bool(os.environ.get("HF_HUB_OFFLINE")), extra=EXTRA)
    elif not path.is_file():
        raise InputError(
            f"There is no file '{path}' with weights. Give the file of {address}, or leave "
            "--weights out to have it fetched."
        )
    sha256 = check_sha256(file_sha256(path), choice.weights_sha256, f"'{path}'")
    given = choice.weights is not None
    return Weights(path, sha256, given, str(path) if given else address)


class _Given:
    """Tensors of a file in the place of the registry's entry, for torchgeo's own builders."""

    def __init__(self, member: Any, state: dict[str, Any]) -> None:
        self.meta = member.meta
        self._state = state

    def get_state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Return the tensors instead of fetching them."""
        return _single(self._state)


def _single(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors of half precision in single precision, and all others as they are."""
    return {
        name: _single(value)
        if isinstance(value, Mapping)
        else value.float()
        if str(getattr(value, "dtype", "")) in _HALF
        else value
        for name, value in state.items()
    }


def _build(entry: Entry, path: Path) -> Any:
    """Let torchgeo build the model with the tensors of a file; all of them must be there."""
    builder = import_module("torchgeo.models").get_model
    state = read_state(path, EXTRA)
    found = {entry.adapter.prefix + name for name in tensor_names(state) if not optional(name)}
    try:
        model = builder(entry.model, weights=_Given(entry.member, state), **entry.adapter.build)
    except (AssertionError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        model = builder(entry.model, **_untrained(entry))
        reason = str(error).strip().rpartition("\n")[2].strip() or type(error).__name__
        raise misfit(path, entry.name, _names(model, entry), found, reason) from error
    wanted = _names(model, entry)
    if not wanted <= found:
        raise misfit(path, entry.name, wanted, found, "")
    return headless(entry.model, model)


def _untrained(entry: Entry) -> dict[str, Any]:
    """Arguments that build the model as for these weights, but without them."""
    options = dict(entry.adapter.build)
    if entry.model == "earthloc":
        options["pretrained"] = False
    return options


def _names(model: Any, entry: Entry) -> set[str]:
    prefix = entry.adapter.prefix
    return {name for name in model.state_dict() if not optional(name.removeprefix(prefix))}
