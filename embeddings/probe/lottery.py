"""Random draws of units of unequal size, class by class, in one pass and little memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import InputError

MOST_SEED = 2**32 - 1
"""The largest that every generator here takes."""


def check_seed(seed: int) -> None:
    """Raise InputError unless random numbers can be drawn from a seed."""
    if not 0 <= seed <= MOST_SEED:
        raise InputError(f"The seed is {seed}; give a whole number from 0 to {MOST_SEED}.")


class Lottery:
    """Draws a number of units of each class, each with a chance in proportion to its size.

    Without replacement, by Efraimidis and Spirakis (2006, "Weighted random sampling with a
    reservoir"): every unit gets the key log(u) / size with u uniform, and the largest keys win.
    With equal sizes that is a simple random sample; with unequal ones the shares of what is drawn
    are shares of area, as long as few of all units are drawn.
    """

    def __init__(self, sizes: Mapping[str, int], seed: int) -> None:
        self._wanted = dict(sizes)
        self._rng = np.random.default_rng(seed)
        self._keys: dict[str, NDArray[np.float64]] = {}
        self._units: dict[str, NDArray[Any]] = {}

    def offer(self, name: str, units: NDArray[Any], size: NDArray[np.float64] | float) -> None:
        """Let units ``(n, ...)`` of a class and their sizes ``(n,)`` take part."""
        wanted = self._wanted.get(name, 0)
        if not wanted:
            return
        keys = np.log1p(-self._rng.random(len(units))) / size
        if name in self._keys:
            keys = np.concatenate([self._keys[name], keys])
            units = np.concatenate([self._units[name], units])
        # The order of the map is kept, so that a result does not depend on how sorting ties.
        best = np.sort(np.argsort(-keys, kind="stable")[:wanted])
        self._keys[name], self._units[name] = keys[best], units[best]

    def drawn(self) -> tuple[list[str], NDArray[Any]]:
        """Return the classes ``(m,)`` and the units ``(m, ...)`` that won."""
        names = [name for name in self._wanted if name in self._units]
        every = [name for name in names for _ in range(len(self._units[name]))]
        return every, np.concatenate([self._units[name] for name in names])
