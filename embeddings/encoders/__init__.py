"""Encoders: pixels to vectors. A registry of families; heavy libraries are imported late."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from embeddings.encoders.base import (
    BandWant,
    Draft,
    Encoder,
    EncoderChoice,
    EncoderInfo,
    Family,
    Wants,
)
from embeddings.errors import InputError, StoreFormatError
from embeddings.store.layout import ENCODER_STEM

__all__ = [
    "BandWant",
    "Draft",
    "Encoder",
    "EncoderChoice",
    "EncoderInfo",
    "Wants",
    "check_family",
    "draft",
    "families",
    "listing",
    "load",
]

_MODULES = {
    "rcf": "embeddings.encoders.rcf",
    "torchgeo": "embeddings.encoders.torchgeo_models",
    "hf": "embeddings.encoders.huggingface",
    "exported": "embeddings.encoders.exported",
}


def families() -> list[Family]:
    """Return every family of encoders, without the libraries that run them."""
    return [_family(name) for name in _MODULES]


def _family(name: str) -> Family:
    return cast(Family, import_module(_MODULES[name]))


def listing() -> list[EncoderInfo]:
    """Return every encoder that can be named, family by family."""
    return [info for family in families() for info in family.listing()]


def draft(choice: EncoderChoice) -> Draft:
    """Return an encoder before it has seen pixels.

    Raises InputError if there is no such encoder, or its weights are not there or not its own;
    ExtraMissingError if the libraries that run it are not installed.
    """
    return _family(check_family(choice.name)).draft(choice)


def check_family(name: str) -> str:
    """Return the family of an encoder's name. Raises InputError if there is none such."""
    family = name.partition(":")[0]
    if family not in _MODULES:
        raise InputError(
            f"There is no encoder '{name}'. There: {', '.join(_MODULES)}; "
            "'terrakin encoders' lists them all."
        )
    return family


def load(folder: Path, weights: Path | None = None) -> Encoder:
    """Restore the encoder stored with a collection.

    ``weights`` is where the weights of a pre-trained one lie, if not where they were. Raises
    StoreFormatError; InputError if the weights are not found.
    """
    description = _description(folder)
    family = str(description["name"]).partition(":")[0]
    if family not in _MODULES:
        raise StoreFormatError(
            f"The collection was made with encoder '{description['name']}', which this release "
            f"does not have. There: {', '.join(_MODULES)}."
        )
    return _family(family).load(folder, description, weights)


def _description(folder: Path) -> Mapping[str, Any]:
    path = folder / f"{ENCODER_STEM}.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        data["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreFormatError(f"{path} cannot be read: {error}.") from error
    return cast(Mapping[str, Any], data)
