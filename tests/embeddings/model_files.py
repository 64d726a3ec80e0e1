"""Files of small models with random weights, for tests: torchgeo, transformers, ONNX, .pt2."""

from __future__ import annotations

import hashlib
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

EXPORTED = {
    "format": "terrakin-exported-encoder",
    "format_version": 1,
    "name": "tiny",
    "version": "1",
    "input": "pixels",
    "output": "embedding",
    "bands": [
        {"name": "B04", "common_name": "red", "wavelength_um": 0.665},
        {"name": "B03", "common_name": "green", "wavelength_um": 0.56},
        {"name": "B02", "common_name": "blue", "wavelength_um": 0.49},
    ],
    "chip_px": 16,
    "gsd_m": 10,
    "values": "reflectance-10000",
    "mean": [1000, 1100, 1200],
    "std": [500, 600, 700],
    "resize": "bilinear",
    "dim": 8,
    "licence": "CC0-1.0",
}


def need(*libraries: str) -> None:
    """Skip where an extra is not installed."""
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def torchgeo_file(path: Path, weights: str) -> Path:
    """Write tensors with the names and shapes that a model of torchgeo's registry has.

    The shapes come from the real model, built without memory; half precision, to be quick.
    """
    import torch

    from embeddings.encoders.torchgeo_catalogue import entries

    entry = entries()[weights]
    with torch.device("meta"):
        state = _shapes(entry)
    torch.manual_seed(0)
    torch.save({name: _values(name, value) for name, value in state.items()}, path)
    return path


def _shapes(entry: Any) -> dict[str, Any]:
    """Return the tensors as the publishers' files hold them, without values."""
    import torch
    import torchgeo.models

    options = dict(entry.adapter.build)
    meta = entry.member.meta
    if entry.model.startswith(("resnet", "vit")):
        options |= {"in_chans": meta["in_chans"]}
        options |= {"img_size": meta["img_size"]} if "img_size" in meta else {}
    if entry.model == "earthloc":
        options["pretrained"] = False
    if entry.model.startswith("croma"):
        options["image_size"] = 8  # its table of distances is slow to make, and in no file
    model = torchgeo.models.get_model(entry.model, **options)
    if entry.model.startswith("swin"):
        first = model.features[0]
        first[0] = torch.nn.Conv2d(meta["in_chans"], first[0].out_channels, 4, 4)
    if entry.model.startswith("croma"):
        return {part: getattr(model, part).state_dict() for part in ("s2_encoder", "s2_GAP_FFN")}
    if entry.model.startswith("panopticon"):
        state = model.model.state_dict()
        width = state["cls_token"].shape[-1]
        return state | {
            "mask_token": torch.empty(1, width),
            "pos_embed": torch.empty(1, 37 * 37 + 1, width),
        }
    return dict(model.state_dict())


def _values(name: str, value: Any) -> Any:
    import torch

    if isinstance(value, dict):
        return {inner: _values(inner, tensor) for inner, tensor in value.items()}
    if not value.is_floating_point():
        # Tables of where each token of a window looks.
        side = round(value.numel() ** 0.25) if value.dim() else 0
        return _swin_index(side) if side else torch.zeros((), dtype=value.dtype)
    if value.dim() == 1 and name.endswith(("weight", "running_var")):
        return torch.ones(value.shape, dtype=torch.half)
    block = (torch.randn(65_537) * 0.05).half()
    return block.repeat(value.numel() // len(block) + 1)[: value.numel()].reshape(value.shape)


def _swin_index(side: int) -> Any:
    import torch

    place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    flat = place.flatten(1)
    apart = flat[:, :, None] - flat[:, None, :] + side - 1
    return (apart[0] * (2 * side - 1) + apart[1]).flatten()


def hf_folder(folder: Path, kind: str) -> Path:
    """Write a small model of a kind that transformers has, and its image processor."""
    from embeddings.encoders.torch_runtime import need_torchvision

    need_torchvision("hf")
    import torch
    import transformers as hf

    hf.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = sizes | {"intermediate_size": 64, "image_size": 56, "patch_size": 14}
    words = {"vocab_size": 99, "max_position_embeddings": 16, "intermediate_size": 64}
    text = sizes | words | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    crop = {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}}
    plain = {"height": 56, "width": 56}
    dino = {name: value for name, value in vision.items() if name != "intermediate_size"}
    patches = {name: value for name, value in vision.items() if name != "image_size"}
    pair = {"text_config": text, "vision_config": vision}
    made = {
        "dinov2": lambda: (
            hf.Dinov2Model(hf.Dinov2Config(**dino)),
            hf.BitImageProcessor(**crop),
        ),
        "dinov2_with_registers": lambda: (
            hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**dino)),
            hf.BitImageProcessor(**crop),
        ),
        "dinov3_vit": lambda: (
            hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**vision, num_register_tokens=4)),
            hf.DINOv3ViTImageProcessor(size=plain),
        ),
        "siglip": lambda: (
            hf.SiglipModel(hf.SiglipConfig(**pair)),
            hf.SiglipImageProcessor(size=plain),
        ),
        "siglip2": lambda: (
            hf.Siglip2Model(
                hf.Siglip2Config(text_config=text, vision_config=patches | {"num_patches": 16})
            ),
            hf.Siglip2ImageProcessor(patch_size=14, max_num_patches=16),
        ),
        "clip": lambda: (
            hf.CLIPModel(hf.CLIPConfig(**pair, projection_dim=24)),
            hf.CLIPImageProcessor(**crop),
        ),
    }
    model, processor = made[kind]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def small_network() -> Any:
    """Make a network of pixels ``(n, 3, height, width)`` to ``(n, 8)``, untrained."""
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            )  # fmt: skip
            self.out = nn.Linear(16, 8)

        def forward(self, pixels: Any) -> Any:
            return self.out(self.body(pixels))

    return Small()


def export(model: Any, path: Path, *, side: int = 16, batch: str | int = "n") -> Path:
    """Export a network by the suffix of the path; ``batch`` is a name (any) or a fixed number."""
    import torch

    model = model.eval()
    sample = torch.zeros(batch if isinstance(batch, int) else 2, 3, side, side)
    free = not isinstance(batch, int)
    if path.suffix == ".pt2":
        shapes = {"pixels": {0: torch.export.Dim("n")}} if free else None
        torch.export.save(torch.export.export(model, (sample,), dynamic_shapes=shapes), path)
        return path
    names = {"input_names": ["pixels"], "output_names": ["embedding"]}
    axes = {"pixels": {0: "n"}, "embedding": {0: "n"}} if free else None
    with warnings.catch_warnings():
        # The newer exporter needs one more package, and writes the same file for such a network.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(model, (sample,), path, **names, dynamic_axes=axes, dynamo=False)
    return path


def describe(path: Path, **changes: Any) -> Path:
    """Write the side-car of an exported model; a change to None leaves the key out."""
    said = EXPORTED | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} | changes
    kept = {key: value for key, value in said.items() if value is not None}
    path.with_name(f"{path.name}.json").write_text(json.dumps(kept), encoding="utf-8")
    return path
