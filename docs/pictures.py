"""Pictures for the docs: true colours, small files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image

MAX_BYTES = 700 * 1024
STEP = 0.95


def save_small(image: Image.Image, path: Path) -> None:
    """Write an RGB PNG, scaled down until it has at most MAX_BYTES.

    No palette: 256 colours are too few for imagery below a colour ramp.
    """
    image = image.convert("RGB")
    scale, data = 1.0, _png(image)
    while len(data) > MAX_BYTES:
        scale *= STEP
        size = (round(image.width * scale), round(image.height * scale))
        data = _png(image.resize(size, Image.Resampling.LANCZOS))
    path.write_bytes(data)


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
