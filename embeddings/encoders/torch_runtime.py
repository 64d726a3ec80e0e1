"""What the encoders that run on torch share: imports, the device, batches that fit in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import ExtraMissingError, InputError

Floats = NDArray[np.float32]

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[Any] = []  # torch forgets the operators of a library object that is gone
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "bad alloc")


def installed(*libraries: str) -> bool:
    """Whether the libraries are there, without importing them."""
    return all(find_spec(name) is not None for name in libraries)


def need(library: str, extra: str) -> Any:
    """Import a library, or raise ExtraMissingError with the line that installs it."""
    if not installed(library.partition(".")[0]):
        raise ExtraMissingError(
            f"This encoder needs {library.partition('.')[0]}, which is not installed. Install it: "
            f"pip install 'terrakin[{extra}]'."
        )
    return import_module(library)


def need_torchvision(extra: str) -> Any:
    """Import torchvision, also where its compiled part does not fit the installed torch.

    Without its compiled part (a torchvision built for another torch) the import fails for want
    of two operators that no encoder uses: they are declared, and the import is tried again.
    """
    torch = need("torch", extra)
    try:
        return need("torchvision", extra)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    if not _kept:
        library = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            library.define(operator)
        _kept.append(library)
    return import_module("torchvision")


def device() -> str:
    """Return the fastest device there is: "cuda", "mps" (Apple) or "cpu"."""
    torch = import_module("torch")
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def on_device(
    module: Any, prepare: Callable[[Any], Any], run: Callable[[Any], Any]
) -> Callable[[Floats], Floats]:
    """Return ``run(prepare(tensor))`` as a function of arrays, without gradients.

    ``prepare`` gives a tensor or a dictionary of tensors. It works on the CPU, so that chips are
    the same to the model on any device; ``run`` works on the fastest there is.
    """
    torch = import_module("torch")
    place = device()
    module.requires_grad_(False).eval().to(place)

    def forward(pixels: Floats) -> Floats:
        with torch.inference_mode():
            # A copy: the libraries' transforms may write into what they are given.
            ready = prepare(torch.from_numpy(np.array(pixels, dtype=np.float32)))
            if isinstance(ready, Mapping):
                ready = {name: tensor.to(place) for name, tensor in ready.items()}
            else:
                ready = ready.to(place)
            out: Floats = run(ready).float().cpu().numpy()
        return out

    return forward


@dataclass
class Batches:
    """Runs chips in batches, and halves these where the memory does not suffice."""

    most: int
    """Chips at once; shrinks when the memory runs out, and stays so."""
    notes: list[str] = field(default_factory=list)
    """What had to be changed, for people."""

    def run(self, forward: Callable[[Floats], Floats], pixels: Floats, name: str) -> list[Floats]:
        """Run all chips ``(n, bands, height, width)``; returns the batches' vectors in order.

        Raises InputError where a single chip does not fit.
        """
        out: list[Floats] = []
        start = 0
        while start < len(pixels):
            batch = pixels[start : start + self.most]
            try:
                out.append(forward(batch))
            except Exception as error:
                if not out_of_memory(error):
                    raise
                self._halve(len(batch), batch.shape, name, error)
            else:
                start += len(batch)
        return out

    def _halve(self, tried: int, shape: tuple[int, ...], name: str, error: Exception) -> None:
        if tried <= 1:
            raise InputError(
                f"The memory does not suffice for one chip of {shape[2]} x {shape[3]} pixels and "
                f"{shape[1]} bands with encoder '{name}'. Take smaller chips, a smaller model, "
                "fewer --workers, or a machine with more memory."
            ) from error
        self.most = tried // 2
        self.notes.append(
            f"The memory did not suffice for {tried} chips at once with '{name}'; going on with "
            f"{self.most}."
        )


def out_of_memory(error: Exception) -> bool:
    """Whether an error of torch, onnxruntime or Python means that the memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)
