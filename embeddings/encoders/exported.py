"""Encoders ``exported:PATH``: models exported to ONNX or by torch.export, with a side-car."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from embeddings.encoders.base import EncoderChoice, EncoderInfo
from embeddings.encoders.exported_interface import Floats, Interface, read_interface, side_car
from embeddings.encoders.exported_torch import load_program
from embeddings.encoders.pretrained import CHIPS_AT_ONCE, PretrainedEncoder, restore
from embeddings.encoders.torch_runtime import Batches, installed, need
from embeddings.encoders.weights import Weights, check_sha256, file_sha256
from embeddings.errors import InputError, SourceError

PREFIX = "exported"
TITLE = "your own models, exported to ONNX or by torch.export, with a JSON side-car"
EXTRA = "onnx"
TORCH = "torch"
"""The extra that runs .pt2 files."""

Shape = tuple[int | None, ...]
"""None where a model takes any size."""


def listing() -> list[EncoderInfo]:
    """Return one line for each kind of file."""
    return [
        EncoderInfo(f"{PREFIX}:PATH{suffix}", TITLE, None, None, None, installed(library))
        for suffix, library in ((".onnx", "onnxruntime"), (".pt2", "torch"))
    ]


def draft(choice: EncoderChoice) -> PretrainedEncoder:
    """Load a model and check that it is what its side-car says, before any pixel is read.

    Raises SourceNotFoundError where a file is missing, SourceError where one is damaged,
    InputError where model and side-car do not agree, ExtraMissingError.
    """
    path = choice.weights or Path(choice.arg).expanduser()
    runners = {".onnx": _onnx, ".pt2": _torch}
    if path.suffix not in runners:
        raise InputError(
            f"'{path}' is no exported model: give a file .onnx or .pt2, as in exported:model.onnx."
        )
    interface = read_interface(path)
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != interface.sha256:
        raise InputError(
            f"'{path}' has the SHA-256 {sha256}, but '{side_car(path).name}' describes a file with "
            f"{interface.sha256}. Restore both files together, or describe this model anew."
        )
    both = check_sha256(_both(path, sha256), choice.weights_sha256, f"'{path}' with its side-car")
    encoder = runners[path.suffix](path, content, interface)
    encoder.name = choice.name
    encoder.weights = Weights(path, both, given=True, origin=str(path))
    _try(encoder, interface, path)
    return encoder


def load(folder: Path, description: Mapping[str, Any], weights: Path | None) -> PretrainedEncoder:
    """Find the model again that ``save`` spoke of. Raises StoreFormatError or InputError."""
    return restore(draft, folder, description, weights)


def _both(path: Path, sha256: str) -> str:
    """Hash model and side-car, whose means and deviations decide the vectors as well.

    The lines that ``sha256sum model model.json`` prints, whatever the files are called.
    """
    lines = f"{sha256}  model\n{file_sha256(side_car(path))}  model.json\n"
    return hashlib.sha256(lines.encode()).hexdigest()


def _encoder(interface: Interface, forward: Any, most: int, path: Path) -> PretrainedEncoder:
    return PretrainedEncoder(
        name=interface.name,
        version=interface.version,
        wants=interface.wants(),
        dim=interface.dim,
        weights=Weights(path, interface.sha256, given=True, origin=str(path)),
        forward=lambda pixels: forward(interface.prepare(pixels)),
        batches=Batches(most),
        licence=interface.licence,
    )


def _onnx(path: Path, content: bytes, interface: Interface) -> PretrainedEncoder:
    runtime = need("onnxruntime", EXTRA)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        # From the bytes whose hash was checked. Tensors in other files are not found that way.
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for each kind of damage
        raise _damaged(path, error) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for kind, said, found in (
        ("input", interface.input, inputs),
        ("output", interface.output, outputs),
    ):
        names = [node.name for node in found]
        if said not in names or (kind == "input" and len(names) != 1):
            raise InputError(
                f"'{path}' has the {kind}s {', '.join(names)}; its side-car names one {kind}, "
                f"'{said}'. Correct the side-car, or export a model with one input."
            )
    output = next(node for node in outputs if node.name == interface.output)
    for node in (inputs[0], output):
        if node.type != "tensor(float)":
            raise InputError(
                f"'{path}': '{node.name}' is {node.type}; it must be tensor(float), 32 bits. "
                "Export the model in float32."
            )
    most = _check_shapes(path, _shape(inputs[0].shape), _shape(output.shape), interface)

    def forward(pixels: Floats) -> Floats:
        out: Floats = session.run([interface.output], {interface.input: pixels})[0]
        return out

    return _encoder(interface, forward, most, path)


def _shape(given: Any) -> Shape:
    """Return a shape with None for sizes that are names or unknown."""
    return tuple(size if isinstance(size, int) else None for size in given)


def _torch(path: Path, content: bytes, interface: Interface) -> PretrainedEncoder:
    need("torch", TORCH)
    program = load_program(path, content)
    try:
        (told,) = program.inputs
        (out,) = program.outputs
    except ValueError:
        raise InputError(
            f"'{path}' has {len(program.inputs)} inputs and {len(program.outputs)} outputs; an "
            "encoder has one of each. Export it as a function of the pixels alone."
        ) from None
    if told.name != interface.input:
        raise InputError(
            f"'{path}' has the input '{told.name}'; its side-car names '{interface.input}'. "
            "Correct the side-car."
        )
    for node in (told, out):
        if node.dtype != "torch.float32":
            raise InputError(
                f"'{path}': '{node.name}' is {node.dtype}; it must be torch.float32. Export the "
                "model in float32."
            )
    most = _check_shapes(path, told.shape, out.shape, interface)
    torch, module = import_module("torch"), program.module

    def forward(pixels: Floats) -> Floats:
        with torch.inference_mode():
            result: Floats = module(torch.from_numpy(pixels)).numpy()
        return result

    return _encoder(interface, forward, most, path)


def _check_shapes(path: Path, given: Shape, out: Shape, interface: Interface) -> int:
    """Compare a model's shapes with its side-car; returns how many chips it takes at once."""
    side, bands = interface.chip_px, len(interface.bands)
    if len(given) != 4 or not _fits(given[1:], (bands, side, side)):
        raise InputError(
            f"'{path}' takes {_text(given)}; its side-car says (n, {bands}, {side}, {side}): "
            f"{bands} bands, chip_px {side}. Correct the side-car, or export the model anew."
        )
    if len(out) != 2 or not _fits(out[1:], (interface.dim,)):
        raise InputError(
            f"'{path}' gives {_text(out)}; its side-car says (n, {interface.dim}). An encoder "
            "gives one vector a chip: pool within the model, or correct dim."
        )
    if given[0] not in (None, 1):
        raise InputError(
            f"'{path}' takes exactly {given[0]} chips at once. Export it with a batch of any size "
            "(a dynamic first axis) or of 1."
        )
    return given[0] or CHIPS_AT_ONCE


def _fits(found: Shape, said: tuple[int, ...]) -> bool:
    return len(found) == len(said) and all(
        a is None or a == b for a, b in zip(found, said, strict=True)
    )


def _text(shape: Shape) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"


def _try(encoder: PretrainedEncoder, interface: Interface, path: Path) -> None:
    """Run one chip, so that a model that cannot run is told of before pixels are read."""
    side = interface.chip_px
    try:
        encoder.encode(np.zeros((1, len(interface.bands), side, side), dtype=np.float32))
    except InputError:
        raise
    except Exception as error:  # a model may fail in any way
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> SourceError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return SourceError(
        f"'{path}' cannot be loaded or run ({reason}). Export the model again, with all of its "
        "tensors in the one file."
    )
