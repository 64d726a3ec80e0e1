"""Official SatCLIP checkpoints (microsoft/satclip), read without running anything in them.

A checkpoint is a PyTorch Lightning zip. Only its tensors and plain values are loaded
(``weights_only=True``); the image tower is ignored. The released models have L = 10 or 40, two
hidden layers of 512 and 256 output dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from embeddings.encoders.location import Layer, LocationEncoder
from embeddings.encoders.weights import load_plain
from embeddings.errors import ExtraMissingError, SourceError, SourceNotFoundError

PREFIX = "model.location.nnet."
W0_FIRST, W0 = 30.0, 1.0

_WANTED = {"le_type": "sphericalharmonics", "pe_type": "siren", "harmonics_calculation": "analytic"}


def load_satclip(path: Path) -> LocationEncoder:
    """Load the location encoder of an official checkpoint.

    Raises SourceNotFoundError; SourceError for a file that is damaged, is of another
    architecture, or would run code; ExtraMissingError without torch.
    """
    checkpoint = _read(path)
    try:
        settings, state = checkpoint["hyper_parameters"], checkpoint["state_dict"]
        for key, value in _WANTED.items():
            if settings[key] != value:
                raise SourceError(
                    f"'{path}' has {key} = {settings[key]!r}; Terrakin reads SatCLIP checkpoints "
                    f"with {value!r}, as all released ones are."
                )
        hidden, degrees = int(settings["num_hidden_layers"]), int(settings["legendre_polys"])
        names = [f"layers.{i}" for i in range(hidden)] + ["last_layer"]
        frequencies = [W0_FIRST, *[W0] * (hidden - 1), 0.0]
        layers = tuple(
            Layer(_tensor(state, f"{name}.weight"), _tensor(state, f"{name}.bias"), w0)
            for name, w0 in zip(names, frequencies, strict=True)
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise SourceError(
            f"'{path}' is not a SatCLIP checkpoint: {error!r} is missing or wrong. Fetch one of "
            "the files satclip-*.ckpt of the official release."
        ) from error
    return LocationEncoder(f"satclip-l{degrees}", degrees, "official", layers)


def _tensor(state: Any, name: str) -> Any:
    return state[PREFIX + name].detach().cpu().numpy().astype(np.float64)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise SourceNotFoundError(f"There is no checkpoint '{path}'. Check the path.")
    try:
        import torch
    except ImportError:
        raise ExtraMissingError(
            "Reading a SatCLIP checkpoint needs PyTorch. Install it: pip install 'terrakin[torch]'."
        ) from None
    return load_plain(
        torch,
        path,
        foreign="is no PyTorch checkpoint of today's format. It was not loaded. Fetch the file "
        "from the official release.",
        safe="Fetch the file from the official release.",
    )
