"""What each pixel or place of a change map rests on; no data is never shown as no change."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Booleans = NDArray[np.bool_]


class Coverage(IntEnum):
    """Whether both dates could be compared, and if not, why."""

    COMPARED = 0
    NO_DATA_BEFORE = 1
    NO_DATA_AFTER = 2
    NO_DATA = 3
    MASKED = 4

    @property
    def label(self) -> str:
        """The name in legends and reports."""
        return _LABELS[self]


_LABELS = {
    Coverage.COMPARED: "compared",
    Coverage.NO_DATA_BEFORE: "no data at date 1",
    Coverage.NO_DATA_AFTER: "no data at date 2",
    Coverage.NO_DATA: "no data at both dates",
    Coverage.MASKED: "masked",
}


def coverage_of(
    before: Booleans, after: Booleans, before_masked: Booleans, after_masked: Booleans
) -> NDArray[np.uint8]:
    """Return codes of `Coverage`, uint8, for arrays of one shape.

    ``before`` and ``after`` say where there is data, masked or not; the others where a mask
    (cloud) hides it. Where a date has no data, that counts before any mask.
    """
    codes = np.full(before.shape, Coverage.COMPARED, np.uint8)
    codes[before_masked | after_masked] = Coverage.MASKED
    codes[~before] = Coverage.NO_DATA_BEFORE
    codes[~after] = Coverage.NO_DATA_AFTER
    codes[~before & ~after] = Coverage.NO_DATA
    return codes
