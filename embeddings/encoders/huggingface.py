"""Encoders ``hf:MODEL[@REVISION]``: DINOv2, DINOv3, SigLIP and CLIP through transformers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embeddings.encoders.base import EncoderChoice, EncoderInfo, Wants
from embeddings.encoders.options import split_options
from embeddings.encoders.preprocess import STRETCHES, Stretch
from embeddings.encoders.pretrained import CHIPS_AT_ONCE, PretrainedEncoder, restore
from embeddings.encoders.sensors import (
    PICTURE,
    RGB,
    SENTINEL2,
    SENTINEL2_RGB,
    Sensor,
    band_wants,
)
from embeddings.encoders.torch_runtime import (
    Batches,
    installed,
    need,
    need_torchvision,
    on_device,
)
from embeddings.encoders.weights import Weights, check_sha256, folder_sha256, misfit
from embeddings.errors import InputError, SourceError, SourceNotFoundError

PREFIX = "hf"
TITLE = "picture models of the Hugging Face hub: DINOv2, DINOv3, SigLIP, SigLIP 2, CLIP"
EXTRA = "hf"

TOKENS = ("dinov2", "dinov2_with_registers", "dinov3_vit")
"""Models that give tokens; the vector is the class token or the mean of the others."""
PAIRS = ("siglip", "siglip2", "clip")
"""Models of pictures and texts; the vector is the picture's, in the space both share."""
POOLS = ("cls", "mean")
OPTIONS = {"stretch": tuple(STRETCHES), "pool": POOLS}
EXAMPLES = (
    ("facebook/dinov2-base", "DINOv2 ViT-B/14", 768),
    ("google/siglip-so400m-patch14-384", "SigLIP SO400M", 1152),
    ("openai/clip-vit-base-patch32", "CLIP ViT-B/32", 512),
)
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt"]

Floats = NDArray[np.float32]


def listing() -> list[EncoderInfo]:
    """Return some models that are known to work; any other of these kinds does too."""
    there = installed("torch", "torchvision", "transformers")
    return [
        EncoderInfo(f"{PREFIX}:{model}@REVISION", title, 3, dim, None, there)
        for model, title, dim in EXAMPLES
    ]


def draft(choice: EncoderChoice) -> PretrainedEncoder:
    """Load a model and its image processor.

    Raises InputError for a model of another kind or not pinned, SourceNotFoundError where it is
    neither given, cached nor fetched, SourceError where files are missing or damaged.
    """
    model_name, options = split_options(choice.arg, OPTIONS, PREFIX)
    stretch = STRETCHES[options.get("stretch", "majortom")]
    need_torchvision(EXTRA)
    need("transformers", EXTRA)
    weights = _weights(model_name, choice)
    kind = _kind(weights.path)
    if kind in PAIRS and "pool" in options:
        raise InputError(
            f"'{choice.name}': pool is for DINO; {kind} has a picture vector of its own."
        )
    tower = _Tower(*_load(weights.path), kind, options.get("pool", "cls"))
    forward = tower.forward(stretch)
    dim = forward(np.zeros((1, 3, 32, 32), dtype=np.float32)).shape[1]
    return PretrainedEncoder(
        name=choice.name,
        version=weights.sha256[:8],
        wants=_wants(stretch, tower),
        dim=dim,
        weights=weights,
        forward=forward,
        batches=Batches(CHIPS_AT_ONCE),
        module=tower.model,
    )


def load(folder: Path, description: Mapping[str, Any], weights: Path | None) -> PretrainedEncoder:
    """Find the model again that ``save`` spoke of. Raises StoreFormatError or InputError."""
    return restore(draft, folder, description, weights)


@dataclass(frozen=True, slots=True)
class _Tower:
    model: Any
    processor: Any
    kind: str
    pool: str

    def forward(self, stretch: Stretch) -> Callable[[Floats], Floats]:
        """Return a function from values ``(n, 3, height, width)`` to vectors."""
        return on_device(self.model, lambda chips: self.prepare(stretch, chips), self._vectors)

    def prepare(self, stretch: Stretch, chips: Any) -> Mapping[str, Any]:
        """Bring values to what the model takes, by its own image processor."""
        # Whole levels, as a picture file has: the processor then does exactly what it does to one.
        levels = chips if stretch.factor is None else chips * stretch.factor
        pictures = levels.round().clamp(0, 255).byte()
        inputs: Mapping[str, Any] = self.processor(
            list(pictures), return_tensors="pt", input_data_format="channels_first"
        )
        return inputs

    def _vectors(self, inputs: Mapping[str, Any]) -> Any:
        if self.kind in PAIRS:
            out = self.model.get_image_features(**inputs)
            return getattr(out, "pooler_output", out)
        tokens = self.model(**inputs).last_hidden_state
        if self.pool == "cls":
            return tokens[:, 0]
        return tokens[:, 1 + self.registers :].mean(dim=1)

    @property
    def registers(self) -> int:
        """How many tokens stand between the class token and the patches'."""
        return int(getattr(self.model.config, "num_register_tokens", 0) or 0)


def _wants(stretch: Stretch, tower: _Tower) -> Wants:
    processor = tower.processor
    byte = stretch.factor is None
    bands = band_wants(Sensor(PICTURE, None), RGB) if byte else _SENTINEL2_RGB
    steps = [*([stretch.step] if stretch.step else []), "rounded to whole levels of 0 to 255"]
    if getattr(processor, "do_resize", False):
        mode = Image.Resampling(int(processor.resample)).name.lower()
        size = _sizes(processor.size) or f"at most {processor.max_num_patches} patches"
        steps.append(f"resized to {size} ({mode}, antialiased)")
    if getattr(processor, "do_center_crop", False):
        steps.append(f"middle {_sizes(processor.crop_size)} cut out")
    if getattr(processor, "do_rescale", False):
        steps.append(f"times {processor.rescale_factor:.9g}")
    if getattr(processor, "do_normalize", False):
        steps.append(f"minus {processor.image_mean}, divided by {processor.image_std}")
    vector = "its picture vector" if tower.kind in PAIRS else f"pool={tower.pool}"
    steps.append(f"{tower.kind}: {vector}")
    return Wants(bands, _side(processor), None, stretch.values, steps=tuple(steps))


_SENTINEL2_RGB = band_wants(Sensor(SENTINEL2, 10.0), SENTINEL2_RGB)


def _plain(size: Any) -> dict[str, int]:
    return {name: int(value) for name, value in dict(size or {}).items() if value is not None}


def _sizes(size: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in _plain(size).items())


def _side(processor: Any) -> int | None:
    """Side of the pictures that the model is given, pixels; None: any."""
    crops = getattr(processor, "do_center_crop", False)
    size = _plain(processor.crop_size if crops else getattr(processor, "size", None))
    return size.get("height") or size.get("shortest_edge")


def _weights(model: str, choice: EncoderChoice) -> Weights:
    named = Path(model).expanduser()
    path = choice.weights or (named if named.is_dir() else None)
    given = path is not None
    if path is None:
        path = _from_hub(model)
    elif not path.is_dir():
        raise InputError(
            f"'{path}' is no folder. Give the folder of a model ({CONFIG}, {PROCESSOR}, {SINGLE})."
        )
    sha256 = check_sha256(
        folder_sha256(path, _files(path)), choice.weights_sha256, f"The model in '{path}'"
    )
    return Weights(path, sha256, given, str(path) if given else model)


def _files(folder: Path) -> list[str]:
    """Names of the files that decide the vectors. Raises SourceError where one is missing."""
    names = [CONFIG, PROCESSOR]
    if (folder / INDEX).is_file():
        try:
            shards = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            names += [INDEX, *sorted(set(shards.values()))]
        except (ValueError, KeyError, AttributeError) as error:
            raise SourceError(f"'{folder / INDEX}' cannot be read ({error!r}).") from error
    else:
        names.append(SINGLE)
    for name in names:
        if not (folder / name).is_file():
            raise SourceError(
                f"The model in '{folder}' has no {name}. Fetch its configuration, its image "
                "processor and its weights as .safetensors; other weights are not read, since "
                "loading them could run code."
            )
    return names


def _from_hub(model: str) -> Path:
    name, _, revision = model.partition("@")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise SourceNotFoundError(
            f"There is no folder '{model}', and it is no name of the hub (OWNER/MODEL@REVISION)."
        )
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise InputError(
            f"'{PREFIX}:{model}' is not pinned: what the hub serves under a name may change. Look "
            f"up the commit at https://huggingface.co/{name}/commits/main and name all its 40 "
            f"digits: '{PREFIX}:{name}@COMMIT'. Or give a folder with --weights."
        )
    hub = need("huggingface_hub", EXTRA)
    failed: Exception | None = None
    for local in (True, False):
        if not local and os.environ.get("HF_HUB_OFFLINE"):
            break
        try:
            found = Path(
                hub.snapshot_download(
                    name, revision=revision, allow_patterns=_PATTERNS, local_files_only=local
                )
            )
        except (OSError, ValueError, RuntimeError) as error:
            failed = error
        else:
            if not local or (found / CONFIG).is_file():
                return found
    raise SourceNotFoundError(
        f"The model {name} at {revision} is not in the cache ({hub.constants.HF_HUB_CACHE}) and "
        f"could not be fetched ({str(failed).partition(chr(10))[0]}). Fetch it on a machine with "
        f"a network ('hf download {name} --revision {revision}'), copy the folder here, and add "
        "--weights FOLDER."
    )


def _kind(folder: Path) -> str:
    try:
        kind = str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"'{folder / CONFIG}' cannot be read ({error!r}).") from error
    if kind not in TOKENS + PAIRS:
        raise InputError(
            f"The model in '{folder}' is of type '{kind}'; {PREFIX} takes "
            f"{', '.join(TOKENS + PAIRS)}. Export it and use 'exported:PATH' instead."
        )
    return kind


def _load(folder: Path) -> tuple[Any, Any]:
    """Load the model and its image processor from a folder; nothing in it is run."""
    transformers = need("transformers", EXTRA)
    torch = need("torch", EXTRA)
    transformers.utils.logging.disable_progress_bar()
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        model, told = transformers.AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # transformers fails on damaged files in any way
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SourceError(
            f"The model in '{folder}' cannot be loaded ({reason}). Fetch it again."
        ) from error
    if told["missing_keys"]:
        raise misfit(folder / SINGLE, "its config.json", set(told["missing_keys"]), set(), "")
    return model, processor
