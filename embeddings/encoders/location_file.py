"""Our own location encoders as files: MODEL.safetensors (weights) and MODEL.json (the rest)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from embeddings.atomic import atomic_path, write_text
from embeddings.encoders.location import Layer, LocationEncoder
from embeddings.errors import InputError, SourceError, SourceNotFoundError

FORMAT = "terrakin-location-encoder"
FORMAT_VERSION = 1
SHIPPED = "terrakin"
"""Name of the encoder that comes with the package, trained on the world collection."""


def save_location(
    encoder: LocationEncoder, path: Path, provenance: Mapping[str, Any] | None = None
) -> None:
    """Write ``path`` (.safetensors, float32) and its .json side-car, atomically.

    ``provenance`` says what the encoder was trained on and how well it does.
    """
    tensors = {}
    for number, layer in enumerate(encoder.layers):
        tensors[f"{number}.weight"] = np.ascontiguousarray(layer.weight, dtype=np.float32)
        tensors[f"{number}.bias"] = layer.bias.astype(np.float32)
    if encoder.skip is not None:
        tensors["skip"] = np.ascontiguousarray(encoder.skip, dtype=np.float32)
    weights = save(tensors)
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": encoder.name,
        "degrees": encoder.degrees,
        "mode": encoder.mode,
        "w0": [layer.w0 for layer in encoder.layers],
        "dim": encoder.dim,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "provenance": dict(provenance or {}),
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(weights)
    write_text(path.with_suffix(".json"), json.dumps(description, indent=1) + "\n")


def check_writable(path: Path) -> None:
    """Raise InputError, before a long training, if a model could not be written to ``path``."""
    side_car = path.with_suffix(".json")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"'{path}' cannot be written: name a file in a folder that exists.")
    if side_car.exists() and not path.exists():
        raise InputError(
            f"'{side_car}' is there and belongs to no model; it would be overwritten. Choose "
            "another --out."
        )


def load_location(path: Path) -> LocationEncoder:
    """Read an encoder written by ``save_location``. Raises SourceNotFoundError or SourceError."""
    side_car = path.with_suffix(".json")
    for file in (path, side_car):
        if not file.is_file():
            raise SourceNotFoundError(
                f"There is no file '{file}'. A location encoder is two files, MODEL.safetensors "
                "and MODEL.json, side by side."
            )
    try:
        description = json.loads(side_car.read_text(encoding="utf-8"))
        if (description["format"], description["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise SourceError(
                f"'{side_car}' describes {description['format']} version "
                f"{description['format_version']}; this release reads {FORMAT} version "
                f"{FORMAT_VERSION}. Use the release of Terrakin that wrote it."
            )
        if hashlib.sha256(path.read_bytes()).hexdigest() != description["weights_sha256"]:
            raise SourceError(
                f"'{path}' does not hold the weights that {side_car.name} describes. Restore both "
                "files together."
            )
        tensors = load_file(path)
        layers = tuple(
            Layer(
                tensors[f"{number}.weight"].astype(np.float64),
                tensors[f"{number}.bias"].astype(np.float64),
                float(w0),
            )
            for number, w0 in enumerate(description["w0"])
        )
        return LocationEncoder(
            str(description["name"]),
            int(description["degrees"]),
            description["mode"],
            layers,
            tensors["skip"].astype(np.float64) if "skip" in tensors else None,
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise SourceError(
            f"'{path}' cannot be read as a location encoder ({error}). Make it again with "
            "'terrakin train location'."
        ) from error


def load_shipped() -> LocationEncoder:
    """Load the encoder that comes with the package."""
    return load_location(Path(__file__).parents[1] / "world" / "location.safetensors")
