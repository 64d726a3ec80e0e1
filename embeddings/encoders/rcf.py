"""Random convolutional features as in MOSAIKS, made fit for cosine search.

Rolf et al. 2021, "A generalizable and accessible approach to machine learning with global
satellite imagery", doi:10.1038/s41467-021-24638-z: the filters are patches drawn from the imagery
itself, made zero-mean and unit-norm and ZCA-whitened; a chip's features are the means of
relu(conv - b) and relu(-conv - b) over the chip. ``rcf:mosaiks`` gives just these.

The preset ``rcf`` goes on from there (docs/decisions/0006-rcf-preset.md has the measurements):
features are averaged over the eight rotations and mirror images of each filter, taken at several
scales, and their deviations put beside the means. Patches have their mean taken away and do not
see a band's plain level, so the chip's band means and deviations stand beside them. All is
brought to equal variance, centred and projected onto principal axes, each divided by the fourth
root of its variance (half of a full whitening, which would raise noise axes to the rank of the
first).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from threadpoolctl import threadpool_limits

from embeddings.atomic import atomic_path, write_text
from embeddings.encoders.base import EncoderChoice, EncoderInfo, Wants
from embeddings.encoders.rcf_features import Workspace, pooled, shrink, split
from embeddings.encoders.rcf_filters import draw_filters, turned
from embeddings.encoders.rcf_options import DEFAULT, PRESETS, RcfOptions, parse
from embeddings.encoders.rcf_projection import fit_projection, project
from embeddings.errors import InputError, NoDataError, StoreFormatError
from embeddings.store.layout import ENCODER_STEM

PREFIX = "rcf"
TITLE = "Random convolutional features of the imagery itself (MOSAIKS)"
EXTRA = None

VERSION = "2"
FIRST_VERSION = "1"

SMALLEST_SAMPLE = 16

BANDS_WEIGHT = 2.0
"""Of the block of band means against a block of one kernel and scale."""

WANTS = Wants(
    standardised=True,
    steps=("each band less its mean over the first input and divided by its deviation",),
)

_FIRST_OPTIONS = RcfOptions(
    scales=(1,), pool="mean", turns=1, transform="none", bands="mean", dim=256
)
"""What version 1 computed; its files hold the same tensors."""

Level = tuple[int, int]
PerChip = Callable[[NDArray[np.float32], Workspace], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class RcfDraft:
    """Options that await a sample of the imagery."""

    options: RcfOptions
    name: str = PREFIX

    @property
    def wants(self) -> Wants:
        """Any bands, standardised."""
        return WANTS

    def fit(self, chips: NDArray[np.float32], *, seed: int = 0) -> RcfEncoder:
        """Fit filters and projection; see ``RcfEncoder.fit``."""
        return RcfEncoder.fit(chips, seed=seed, options=self.options, name=self.name)


class RcfEncoder:
    """Filters for each kernel and scale, and a projection, fitted on a first input."""

    notes: tuple[str, ...] = ()

    def __init__(
        self,
        tensors: dict[str, NDArray[np.float32]],
        levels: list[Level],
        options: RcfOptions,
        bands: int,
        *,
        name: str = PREFIX,
        version: str = VERSION,
    ) -> None:
        self._tensors = tensors
        self._levels = levels
        self._options = options
        self.bands = bands
        self.name = name
        self.version = version
        self._parts = [split(self.filters(number)) for number in range(len(levels))]

    @classmethod
    def fit(
        cls,
        chips: NDArray[np.float32],
        *,
        seed: int = 0,
        options: RcfOptions = DEFAULT,
        name: str = PREFIX,
    ) -> Self:
        """Fit filters and projection on standardised chips ``(n, bands, height, width)``.

        Raises InputError if the chips are smaller than the kernel, NoDataError if they are fewer
        than SMALLEST_SAMPLE or all alike.
        """
        count, bands, height, width = chips.shape
        levels = options.levels(height, width)
        if count < SMALLEST_SAMPLE:
            raise NoDataError(
                f"Only {count} chips of the scene have data, too few to fit the encoder on "
                f"({SMALLEST_SAMPLE} at least). Give more: a larger scene or table, or a smaller "
                "--chip."
            )
        drawn = options.features // (2 * options.turns)
        with threadpool_limits(1):  # one thread, so that the bytes do not depend on the machine
            tensors = {
                _tensor_name(*level): draw_filters(
                    shrink(chips, level[1]), level[0], drawn, (seed, *level)
                )
                for level in levels
            }
            encoder = cls(tensors, levels, options, bands, name=name)
            if options.dim:
                joined = encoder._each(chips, encoder._features, encoder._width())
                tensors |= fit_projection(joined, encoder._blocks(), options.dim, options.whiten)
        return encoder

    @classmethod
    def load(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        """Restore an encoder. Raises StoreFormatError if a file is damaged or does not fit."""
        try:
            tensors = load_file(folder / f"{ENCODER_STEM}.safetensors")
            version = description["version"]
            options, levels = _FIRST_OPTIONS, [(3, 1)]
            if version != FIRST_VERSION:
                options = RcfOptions.from_json(description["options"])
                levels = [(int(kernel), int(scale)) for kernel, scale in description["levels"]]
            encoder = cls(
                tensors,
                levels,
                options,
                int(description["bands"]),
                name=str(description["name"]),
                version=str(version),
            )
            found = (version in (FIRST_VERSION, VERSION), description["sha256"] == encoder.sha256)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise StoreFormatError(f"The encoder in {folder} cannot be read: {error}.") from error
        if not all(found):
            raise StoreFormatError(
                f"The encoder in {folder} is not the one its encoder.json describes. Restore both "
                "files from a backup, or embed with --replace."
            )
        return encoder

    @property
    def wants(self) -> Wants:
        """Any bands, standardised."""
        return WANTS

    @property
    def options(self) -> RcfOptions:
        """What is computed."""
        return self._options

    @property
    def levels(self) -> list[Level]:
        """The (kernel, scale) pairs that fitted the chips of the first input."""
        return list(self._levels)

    def filters(self, level: int) -> NDArray[np.float32]:
        """Return all filters of one of ``levels``: ``(filters, bands * kernel * kernel)``."""
        kernel = self._levels[level][0]
        drawn = self._tensors[self._tensor(self._levels[level])]
        return turned(drawn, kernel, self._options.turns)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        if not self._options.dim:
            return self._width()
        return int(self._tensors["projection"].shape[1])

    @property
    def sha256(self) -> str:
        """Hash of all weights and, from version 2 on, of the options, hexadecimal."""
        digest = hashlib.sha256()
        if self.version != FIRST_VERSION:
            stated = [self._options.to_json(), self._levels]
            digest.update(json.dumps(stated, sort_keys=True).encode())
        projection = ("block_scale", "centre", "projection") if self._options.dim else ()
        for name in (*map(self._tensor, self._levels), *projection):
            tensor = self._tensors[name]
            digest.update(f"{name}{tensor.shape}".encode())
            digest.update(np.ascontiguousarray(tensor, dtype="<f4").tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``encoder.safetensors`` and ``encoder.json`` into ``folder``, atomically."""
        with atomic_path(folder / f"{ENCODER_STEM}.safetensors") as path:
            path.write_bytes(save(self._tensors))
        description: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "bands": self.bands,
            "sha256": self.sha256,
        }
        if self.version != FIRST_VERSION:
            description["levels"] = self._levels
            description["options"] = self._options.to_json()
        write_text(folder / f"{ENCODER_STEM}.json", json.dumps(description, indent=1) + "\n")

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn standardised chips ``(n, bands, height, width)`` into ``(n, dim) float32``.

        A chip's vector does not depend on the chips beside it or on the number of threads, to
        the last bit. Raises InputError for other bands than fitted or chips too small.
        """
        self._check(pixels)
        with threadpool_limits(1):
            return self._each(pixels, self._vector, self.dim)

    def _check(self, pixels: NDArray[np.float32]) -> None:
        _, bands, height, width = pixels.shape
        if bands != self.bands:
            raise InputError(
                f"The encoder was fitted on {self.bands} bands; these chips have {bands}."
            )
        needed = max(kernel * scale for kernel, scale in self._levels)
        if min(height, width) < needed:
            raise InputError(
                f"A chip of {width} x {height} pixels is smaller than the {needed} pixels a side "
                "that the encoder was fitted for. Choose a larger --chip."
            )

    def _each(
        self, chips: NDArray[np.float32], function: PerChip, width: int
    ) -> NDArray[np.float32]:
        """Return ``function`` of each chip, stacked to ``(n, width)``.

        Threads share out the chips and nothing else, so that their number changes no bit.
        """
        out = np.empty((len(chips), width), dtype=np.float32)
        threads = max(1, min(os.cpu_count() or 1, len(chips)))

        def work(numbers: range) -> None:
            workspace = Workspace()
            for i in numbers:
                out[i] = function(chips[i], workspace)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, [range(t, len(chips), threads) for t in range(threads)]))
        return out

    def _vector(self, chip: NDArray[np.float32], workspace: Workspace) -> NDArray[np.float32]:
        features = self._features(chip, workspace)
        return project(features, self._tensors) if self._options.dim else features

    def _features(self, chip: NDArray[np.float32], workspace: Workspace) -> NDArray[np.float32]:
        """Return the features of one chip before the projection."""
        options = self._options
        blocks = []
        shrunk = {scale: shrink(chip[None], scale)[0] for _, scale in self._levels}
        for (kernel, scale), parts in zip(self._levels, self._parts, strict=True):
            halves = pooled(
                shrunk[scale],
                parts,
                kernel,
                bias=options.bias,
                deviations=options.pool == "mean+std",
                workspace=workspace,
            )
            blocks.append(_transformed(_over_turns(halves, options.turns), options.transform))
        if options.bands != "none":
            blocks.append(chip.mean(axis=(1, 2), dtype=np.float64))
        if options.bands == "mean+std":
            blocks.append(np.log(chip.std(axis=(1, 2), dtype=np.float64) + 0.01))
        return np.concatenate(blocks).astype(np.float32)

    def _blocks(self) -> list[tuple[slice, float]]:
        """Return the parts of the features that get equal variance, each with its weight."""
        level = self._level_width()
        blocks = [(slice(i * level, (i + 1) * level), 1.0) for i in range(len(self._levels))]
        start = len(self._levels) * level
        for _ in range(self._band_blocks()):
            blocks.append((slice(start, start + self.bands), BANDS_WEIGHT))
            start += self.bands
        return blocks

    def _level_width(self) -> int:
        pools = 1 + (self._options.pool == "mean+std")
        return self._options.features // self._options.turns * pools

    def _band_blocks(self) -> int:
        return {"none": 0, "mean": 1, "mean+std": 2}[self._options.bands]

    def _width(self) -> int:
        return len(self._levels) * self._level_width() + self._band_blocks() * self.bands

    def _tensor(self, level: Level) -> str:
        return "filters" if self.version == FIRST_VERSION else _tensor_name(*level)


def listing() -> list[EncoderInfo]:
    """Return the presets."""
    return [
        EncoderInfo(PREFIX, TITLE, None, DEFAULT.dim, None, True),
        EncoderInfo(
            f"{PREFIX}:mosaiks",
            "The features of the MOSAIKS paper, unprojected",
            None,
            PRESETS["mosaiks"].features,
            None,
            True,
        ),
    ]


def draft(choice: EncoderChoice) -> RcfDraft:
    """Return the options that the choice names. Raises InputError."""
    if choice.weights is not None:
        raise InputError(
            "rcf has no weights to load; it is fitted on the first input. Leave the weights out."
        )
    return RcfDraft(parse(choice.arg), choice.name)


def load(folder: Path, description: Mapping[str, Any], weights: Path | None = None) -> RcfEncoder:
    """Restore the encoder that ``save`` wrote; it has no weights elsewhere."""
    del weights
    return RcfEncoder.load(folder, description)


def _tensor_name(kernel: int, scale: int) -> str:
    return f"filters.kernel{kernel}.scale{scale}"


def _over_turns(halves: NDArray[np.float64], turns: int) -> NDArray[np.float64]:
    """Average means and variances ``(2 or 4, turns * n)`` over turns; return deviations last."""
    stacked = halves.reshape(len(halves), turns, -1)
    means = stacked[:2].mean(axis=1)
    if len(halves) == 2:
        return np.asarray(means.ravel())
    variance = stacked[2:].mean(axis=1) + stacked[:2].var(axis=1)
    return np.concatenate([means, np.sqrt(variance)]).ravel()


def _transformed(features: NDArray[np.float64], transform: str) -> NDArray[np.float64]:
    if transform == "none":
        return features
    return np.asarray(np.sqrt(features) if transform == "sqrt" else np.log(features + 0.1))
