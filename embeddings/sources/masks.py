"""Masks that a scene brings: a band whose values, bits or threshold mean that a pixel is missing.

Without values, "SCL" (scene classification of Sentinel-2 level 2A) stands for 0 no data, 1
saturated, 3 cloud shadow, 8 and 9 cloud of medium and high probability, 10 thin cirrus; and
"QA_PIXEL" (Landsat Collection 2) for bits 0 fill, 1 dilated cloud, 2 cirrus, 3 cloud, 4 cloud
shadow. Snow and water are data.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import BandError, InputError
from embeddings.sources.band_names import tokens

_KNOWN = {"SCL": "0,1,3,8,9,10", "QA_PIXEL": "bit0,bit1,bit2,bit3,bit4"}
_COMPARE: dict[str, Callable[[Any, float], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*([^=<>]*[^=<>\s])\s*(?:(>=|<=|=|>|<)\s*(.*\S)\s*)?")
_EXAMPLES = 'SCL, "SCL=0,1,3,8,9,10", "QA_PIXEL=bit3,bit4", "cloud_mask=1", "probability>=40"'


@dataclass(frozen=True, slots=True)
class MaskRule:
    """Which pixels of a mask band mean that the scene's pixel is missing."""

    band: str
    values: tuple[int, ...] = ()
    bits: int = 0
    """The sum of the bits any of which means missing."""
    compare: str | None = None
    limit: float = 0.0

    @classmethod
    def parse(cls, text: str) -> MaskRule:
        """Read "SCL", "SCL=0,1,3", "QA_PIXEL=bit3,bit4", "probability>=40". Raises InputError."""
        form = _FORM.fullmatch(text)
        if form is None:
            raise _no_mask(text)
        band, sign, what = form[1], form[2], form[3]
        if sign is None:
            sign, what = "=", _KNOWN.get(band.upper(), "")
        if not what:
            raise InputError(
                f"The mask '{text}' does not say which values of {band} mean missing; only SCL "
                f"and QA_PIXEL are known. Write for example {_EXAMPLES}."
            )
        if sign != "=":
            try:
                return cls(band, compare=sign, limit=float(what))
            except ValueError:
                raise _no_mask(text) from None
        return cls(band, *_values(text, what))

    @property
    def text(self) -> str:
        """The rule as the user may write it."""
        if self.compare is not None:
            return f"{self.band}{self.compare}{self.limit:g}"
        bits = [f"bit{i}" for i in range(64) if self.bits >> i & 1]
        return f"{self.band}={','.join([*map(str, self.values), *bits])}"

    def missing(self, raw: NDArray[Any]) -> NDArray[np.bool_]:
        """Where numbers of the mask band, of any shape, mean that there is no data."""
        if self.compare is not None:
            return np.asarray(_COMPARE[self.compare](raw, self.limit))
        found = np.isin(raw, self.values)
        if self.bits:
            whole = raw.astype(np.int64, copy=False)
            found |= (whole & self.bits) != 0
        return found

    def locate(self, names: Sequence[str]) -> int | None:
        """Return which band is the mask: of that name, or with its words in its name, or None.

        Raises BandError where several are.
        """
        exact = [i for i, name in enumerate(names) if name.lower() == self.band.lower()]
        words = tokens(self.band)
        found = exact or [i for i, name in enumerate(names) if _within(words, tokens(name))]
        if len(found) > 1:
            raise BandError(
                f"The mask band {self.band} may be any of {', '.join(names[i] for i in found)}. "
                "Give its whole name."
            )
        return found[0] if found else None

    def unknown(self, names: Sequence[str]) -> BandError:
        """Return the error of a scene without the mask band."""
        return BandError(
            f"The scene has no mask band {self.band}; it has {', '.join(names)}. Give its file "
            "with those of the other bands, or name another one with --mask."
        )


def _values(text: str, what: str) -> tuple[tuple[int, ...], int]:
    values, bits = [], 0
    for item in what.split(","):
        number = re.fullmatch(r"\s*(bit)?\s*(-?\d{1,9})\s*", item)
        if number is None or (number[1] and not 0 <= int(number[2]) < 63):
            raise _no_mask(text)
        if number[1]:
            bits |= 1 << int(number[2])
        else:
            values.append(int(number[2]))
    return tuple(values), bits


def _no_mask(text: str) -> InputError:
    return InputError(f"'{text}' is not a mask. Write for example {_EXAMPLES}.")


def _within(words: list[str], name: list[str]) -> bool:
    """Whether words stand in a name, one after the other."""
    return any(name[i : i + len(words)] == words for i in range(len(name) - len(words) + 1))
