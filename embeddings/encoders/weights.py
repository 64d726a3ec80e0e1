"""Weights of pre-trained encoders: found, read without running anything in them, checked."""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embeddings.encoders.torch_runtime import need
from embeddings.errors import InputError, SourceError, SourceNotFoundError

PREFIX_OF_HASH = re.compile(r"-([a-f0-9]{8,64})\.")
"""How a file's name carries the start of its own hash, as torch's hub does."""
NAMES_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Weights:
    """Where an encoder's weights lie and what they hash to."""

    path: Path
    """A file, or a folder."""
    sha256: str
    """Of the file; of a folder, of its files' names and hashes."""
    given: bool
    """Whether the user named the path; False: it comes from a cache."""
    origin: str
    """Where a cache has it from: an address, or MODEL@REVISION; else the path."""


def file_sha256(path: Path) -> str:
    """Return the hash of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: Path, names: Iterable[str]) -> str:
    """Hash the lines ``<sha256>  <name>`` of some files, in the order of their names.

    ``sha256sum NAMES | sha256sum`` gives the same.
    """
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in sorted(names)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_sha256(found: str, wanted: str | None, what: str) -> str:
    """Return the hash, or raise InputError where it is not the one asked for."""
    if wanted is not None and found != wanted.strip().lower():
        raise InputError(
            f"{what} has the SHA-256 {found}, but {wanted} was asked for. These are other weights: "
            "fetch the right ones, or ask for the hash of these."
        )
    return found


def read_state(path: Path, extra: str) -> dict[str, Any]:
    """Read the tensors of a ``.safetensors`` or PyTorch file; nothing in it is run.

    Raises SourceNotFoundError; SourceError for a file that is damaged or would run code.
    """
    if not path.is_file():
        raise SourceNotFoundError(f"There is no file '{path}' with weights. Check --weights.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    state = load_plain(
        need("torch", extra),
        path,
        foreign="is no file of PyTorch or safetensors weights. Fetch it again.",
        safe="Fetch a file of tensors only, best as .safetensors.",
    )
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise SourceError(
            f"'{path}' holds a {type(state).__name__}, not named tensors (a 'state dict'). Save "
            "model.state_dict() into it."
        )
    return dict(state)


def load_plain(torch: Any, path: Path, *, foreign: str, safe: str) -> Any:
    """Load a PyTorch file that holds tensors and plain values only; nothing in it is run.

    ``foreign`` says what a file of another kind is not, ``safe`` what to fetch in place of one
    that would run code. Raises SourceError.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(path):
            raise SourceError(f"'{path}' {foreign}") from error
        raise SourceError(
            f"'{path}' is refused: it holds more than tensors and plain values, and loading it "
            f"could run code. {safe}"
        ) from error
    except Exception as error:  # torch fails on damaged files in any way
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise SourceError(
            f"'{path}' is truncated or damaged ({reason}). Fetch it again."
        ) from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise SourceError(
            f"'{path}' is truncated, damaged or no safetensors file ({error}). Fetch it again."
        ) from error


def from_hub(address: str, *, offline: bool, extra: str) -> Path:
    """Return the file of an address from torch's cache, fetching it where it is not there yet.

    The start of the hash that the file's name carries is checked. Raises SourceNotFoundError
    where it can neither be found nor fetched.
    """
    torch = need("torch", extra)
    name = address.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    match = PREFIX_OF_HASH.search(name)
    wanted = match[1] if match else None
    if not path.is_file():
        if offline:
            raise _unreachable(address, path, "HF_HUB_OFFLINE is set")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path), wanted, progress=False)
        except (OSError, RuntimeError) as error:
            raise _unreachable(address, path, str(error)) from error
    if wanted and not file_sha256(path).startswith(wanted):
        raise SourceError(
            f"'{path}' is damaged: its SHA-256 does not start with {wanted}, as its name says. "
            "Delete it and run the same command again."
        )
    return path


def _unreachable(address: str, path: Path, reason: str) -> SourceNotFoundError:
    return SourceNotFoundError(
        f"The weights are not in the cache ('{path}'), and {address} could not be fetched "
        f"({reason}). Fetch this address on a machine with a network, copy the file here, and add "
        "--weights FILE."
    )


def tensor_names(state: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """All names of tensors, those of nested dictionaries joined by dots."""
    for key, value in state.items():
        name = f"{within}.{key}" if within else key
        if isinstance(value, Mapping):
            yield from tensor_names(value, name)
        else:
            yield name


def misfit(path: Path, what: str, wanted: set[str], found: set[str], reason: str) -> InputError:
    """Say that tensors do not fit a model: which are missing, which nobody asked for."""
    told = [
        f"{len(names)} {kind} ({', '.join(sorted(names)[:NAMES_SHOWN])}"
        f"{', ...' if len(names) > NAMES_SHOWN else ''})"
        for kind, names in (("missing", wanted - found), ("unexpected", found - wanted))
        if names
    ]
    return InputError(
        f"'{path}' does not hold the weights of {what}: {'; '.join(told) or reason}. Give the file "
        "that belongs to this encoder, or choose the encoder that belongs to this file."
    )
