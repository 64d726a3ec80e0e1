"""Options of the random convolutional features, as ``rcf:features=1024,kernel=3+5`` names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, cast

from embeddings.errors import InputError

SMALLEST_SIDE = 16
"""A coarser scale is used only where a chip keeps this many pixels a side there: below it means
and deviations rest on too few places and only add noise (docs/decisions/0006-rcf-preset.md)."""

_CHOICES = {
    "pool": ("mean", "mean+std"),
    "transform": ("none", "sqrt", "log"),
    "bands": ("none", "mean", "mean+std"),
    "turns": (1, 4, 8),
}


@dataclass(frozen=True, slots=True)
class RcfOptions:
    """What is computed; the defaults are the preset ``rcf``."""

    features: int = 1024
    """Features of each kernel and scale before turns are averaged: two a convolution filter."""
    kernel: tuple[int, ...] = (3,)
    """Sides of the filters, pixels."""
    scales: tuple[int, ...] = (1, 2, 4)
    """Factors by which chips are averaged down before the convolution."""
    pool: str = "mean+std"
    """What is kept of a filter's responses over the chip."""
    bias: float = 0.0
    """b in relu(conv - b) and relu(-conv - b)."""
    turns: int = 8
    """Filters are taken at 4 rotations, or also mirrored (8), and averaged; 1: as drawn."""
    transform: str = "sqrt"
    """Applied to every pooled feature; log is log(0.1 + x)."""
    bands: str = "mean+std"
    """What is put beside the features: band means, logarithms of band deviations."""
    dim: int = 384
    """Principal axes kept; 0: no projection."""
    whiten: float = 0.5
    """Axes are divided by their deviation to this power: 0 not at all, 1 whitened."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote. Raises TypeError, ValueError or KeyError."""
        known = {field.name for field in fields(cls)}
        if set(data) != known:
            raise ValueError(f"options {', '.join(sorted(set(data) ^ known))} do not belong")
        lists = {name: tuple(data[name]) for name in ("kernel", "scales")}
        return cls(**{**data, **lists})

    def to_json(self) -> dict[str, Any]:
        """Return all options, as ``encoder.json`` holds them."""
        return asdict(self)

    def levels(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the (kernel, scale) pairs that fit chips of ``height`` x ``width`` pixels.

        Raises InputError if none does.
        """
        side = min(height, width)
        found = [
            (kernel, scale)
            for scale in self.scales
            for kernel in self.kernel
            if side // scale >= kernel
            and (scale == min(self.scales) or side // scale >= SMALLEST_SIDE)
        ]
        if not found:
            kernel = min(self.kernel) * min(self.scales)
            raise InputError(
                f"A chip of {width} x {height} pixels is smaller than the encoder's kernel of "
                f"{kernel} x {kernel}. Choose a larger --chip."
            )
        return found


DEFAULT = RcfOptions()

PRESETS = {
    "default": DEFAULT,
    "mosaiks": RcfOptions(
        features=8192, scales=(1,), pool="mean", turns=1, transform="none", bands="none", dim=0
    ),
}
"""mosaiks: the paper's features (Rolf et al. 2021), 4,096 filters of 3 x 3, unprojected."""

_HELP = (
    "Options: features=1024, kernel=3+5, scales=1+2+4, pool=mean or mean+std, bias=0, "
    "turns=1, 4 or 8, transform=none, sqrt or log, bands=none, mean or mean+std, dim=384, "
    "whiten=0.5; before them may stand the preset 'mosaiks'."
)


def parse(text: str) -> RcfOptions:
    """Return the options that ``[PRESET][,NAME=VALUE ...]`` names. Raises InputError."""
    items = [item.strip() for item in text.split(",")] if text else []
    options = DEFAULT
    if items and "=" not in items[0]:
        preset = items.pop(0)
        if preset not in PRESETS:
            raise InputError(f"rcf has no preset '{preset}'. There: {', '.join(PRESETS)}. {_HELP}")
        options = PRESETS[preset]
    given: dict[str, Any] = {}
    for item in items:
        name, _, value = item.partition("=")
        if name not in _PARSERS or name in given:
            wrong = "is given twice" if name in given else "is no option of rcf"
            raise InputError(f"'{name}' {wrong}. {_HELP}")
        try:
            given[name] = _PARSERS[name](value)
        except ValueError as error:
            raise InputError(f"'{item}' is not possible: {error}. {_HELP}") from error
    return _checked(RcfOptions(**{**options.to_json(), **given}))


def _checked(options: RcfOptions) -> RcfOptions:
    step = 2 * options.turns
    if options.features % step:
        raise InputError(
            f"features={options.features} cannot be split over {options.turns} turns of each "
            f"filter. Choose a multiple of {step}: "
            f"{max(options.features // step, 1) * step}, say."
        )
    return options


def _number(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text) if text.isdecimal() else -1
        if not low <= value <= high:
            raise ValueError(f"whole numbers of {low} to {high} are")
        return value

    return read


def _numbers(low: int, high: int) -> Callable[[str], tuple[int, ...]]:
    one = _number(low, high)

    def read(text: str) -> tuple[int, ...]:
        values = tuple(one(part) for part in text.split("+"))
        if len(set(values)) < len(values):
            raise ValueError("no number may come twice")
        return tuple(sorted(values))

    return read


def _decimal(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = high + 1
        if not low <= value <= high:
            raise ValueError(f"numbers of {low:g} to {high:g} are")
        return value

    return read


def _word(name: str) -> Callable[[str], Any]:
    choices = cast(tuple[Any, ...], _CHOICES[name])

    def read(text: str) -> Any:
        for choice in choices:
            if text == str(choice):
                return choice
        raise ValueError(f"{', '.join(map(str, choices))} are")

    return read


_PARSERS: dict[str, Callable[[str], Any]] = {
    "features": _number(2, 65_536),
    "kernel": _numbers(2, 31),
    "scales": _numbers(1, 64),
    "pool": _word("pool"),
    "bias": _decimal(-100, 100),
    "turns": _word("turns"),
    "transform": _word("transform"),
    "bands": _word("bands"),
    "dim": _number(0, 4096),
    "whiten": _decimal(0, 1),
}
