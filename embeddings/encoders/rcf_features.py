"""Pooled responses of many filters over a chip, computed in tiles that stay in the cache.

The features are relu(c - b) and relu(-c - b) of the valid convolution c, their means and
deviations over all places. A library writes every response map to memory and reads it again for
each half. Here the responses of one tile of places are reduced before the next is computed, and
one reduction gives both halves: with x = c - b,
    mean relu(x) = (mean abs(x) + mean x) / 2
    mean relu(x)^2 = (mean x^2 + mean x abs(x)) / 2
and the same with minus signs for relu(-x). Mean x needs no convolution: it is the filter on the
mean patch. A bias makes the halves see two different x, c - b and c + b, and costs two reductions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

PLACES = 1024
FILTERS = 512
"""A tile of responses is about 1,024 places of 512 filters, 2 MiB: measured on two cores with
2 MiB of second cache each, a fourth of it took 1.4 to 1.6 times as long, since threads then wait
for each other between many small calls; a larger one gained nothing."""

SMALL_PRODUCT = 1_000_000
SMALLEST_BLOCK = 32
"""OpenBLAS multiplies small matrices (rows * columns * depth up to a million) without copying
them first, a third faster at the depth of a 3 x 3 kernel; tiles are handed over in such blocks,
if they have this many places at least."""

SMALLEST_VARIANCE = 1e-5
"""Variances are lessened by this share of the squared mean: what summing in single precision
may leave. Smooth chips (water) are so not given the texture of rounding errors."""


class Workspace:
    """Arrays that a thread uses again for every tile; fresh ones cost more than the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[str, Floats] = {}

    def array(self, name: str, rows: int, cols: int) -> Floats:
        """Return a ``(rows, cols)`` array with any content, in the memory of the last so named."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < rows * cols:
            buffer = self._buffers[name] = np.empty(rows * cols, dtype=np.float32)
        return buffer[: rows * cols].reshape(rows, cols)


def shrink(chips: Floats, scale: int) -> Floats:
    """Average ``(n, bands, height, width)`` over squares of ``scale`` pixels, the rest cut off."""
    if scale == 1:
        return chips
    number, bands, height, width = chips.shape
    rows, cols = height // scale, width // scale
    squares = chips[:, :, : rows * scale, : cols * scale]
    return np.asarray(
        squares.reshape(number, bands, rows, scale, cols, scale).mean(axis=(3, 5)), np.float32
    )


def split(filters: Floats) -> list[Floats]:
    """Turn filters ``(n, bands * kernel * kernel)`` into contiguous transposed parts."""
    return [
        np.ascontiguousarray(filters[start : start + FILTERS].T, dtype=np.float32)
        for start in range(0, len(filters), FILTERS)
    ]


def pooled(
    chip: Floats,
    filters: list[Floats],
    kernel: int,
    *,
    bias: float,
    deviations: bool,
    workspace: Workspace,
) -> Doubles:
    """Return pooled features of one chip ``(bands, height, width)``.

    ``filters`` are those of ``split``. The result is ``(4, filters)``: means of relu(c - b), of
    relu(-c - b), then the variances of both; ``(2, filters)`` without them.
    """
    shifts = (bias, -bias) if bias else (0.0,)
    ends = np.cumsum([0, *(part.shape[1] for part in filters)])
    sums = np.zeros((len(shifts), 4 if deviations else 1, ends[-1]))
    patch = np.zeros(len(filters[0]))
    places = 0
    for patches in _tiles(chip, kernel, workspace):
        places += patches.shape[1]
        patch += patches @ np.ones(patches.shape[1], dtype=np.float32)
        for start, end, part in zip(ends, ends[1:], filters, strict=False):
            _add_tile(sums[:, :, start:end], patches, part, shifts, workspace)
    sums /= places
    upper, lower = sums[0], sums[-1]
    if deviations:
        # Of the same rounded responses as their squares, or smooth chips would seem to vary.
        x_means = upper[3], lower[3]
    else:
        mean = np.concatenate([(patch / places) @ part for part in filters])
        x_means = mean - bias, mean + bias
    means = np.maximum(np.stack([upper[0] + x_means[0], lower[0] - x_means[1]]) / 2, 0.0)
    if not deviations:
        return means
    squares = np.stack([upper[1] + upper[2], lower[1] - lower[2]]) / 2
    variances = squares - (1.0 + SMALLEST_VARIANCE) * means**2
    return np.concatenate([means, np.maximum(variances, 0.0)])


def _add_tile(
    sums: Doubles,
    patches: Floats,
    filters_t: Floats,
    shifts: tuple[float, ...],
    workspace: Workspace,
) -> None:
    """Add a tile's sums of abs(x), x * x, x * abs(x) and x, for each x = c - shift."""
    places, filters = patches.shape[1], filters_t.shape[1]
    x = workspace.array("responses", places, filters)
    _multiply(patches, filters_t, x)
    scratch = workspace.array("scratch", places, filters)
    ones = np.ones(places, dtype=np.float32)
    at = 0.0
    for shift, into in zip(shifts, sums, strict=True):
        if shift != at:
            np.subtract(x, np.float32(shift - at), out=x)
            at = shift
        if len(into) == 1:
            # The last use of x may spoil it.
            into[0] += ones @ np.abs(x, out=x if shift == shifts[-1] else scratch)
            continue
        into[3] += ones @ x
        into[0] += ones @ np.abs(x, out=scratch)
        into[2] += ones @ np.multiply(x, scratch, out=scratch)
        into[1] += ones @ np.multiply(x, x, out=scratch)


def _multiply(patches: Floats, filters_t: Floats, out: Floats) -> None:
    """Write the responses ``(places, filters)`` of patches ``(depth, places)``."""
    depth, places = patches.shape
    block = SMALL_PRODUCT // filters_t.size // 16 * 16
    count = places // block if block >= SMALLEST_BLOCK else 0
    done = count * block
    if count:
        blocks = patches[:, :done].reshape(depth, count, block).transpose(1, 2, 0)
        np.matmul(blocks, filters_t, out=out[:done].reshape(count, block, -1))
    if done < places:
        np.matmul(patches[:, done:].T, filters_t, out=out[done:])


def _tiles(chip: Floats, kernel: int, workspace: Workspace) -> Iterator[Floats]:
    """Yield the patches of some rows of places at a time: ``(bands * kernel * kernel, places)``."""
    chip = np.ascontiguousarray(chip, dtype=np.float32)
    bands, height, width = chip.shape
    rows, cols = height - kernel + 1, width - kernel + 1
    band, line, pixel = chip.strides
    step = max(1, PLACES // cols)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        # What sliding_window_view gives, at a tenth of its time.
        windows: Floats = np.ndarray(
            (bands, kernel, kernel, count, cols),
            np.float32,
            buffer=chip,
            offset=start * line,
            strides=(band, line, pixel, line, pixel),
        )
        patches = workspace.array("patches", bands * kernel * kernel, count * cols)
        np.copyto(patches.reshape(windows.shape), windows)
        yield patches
