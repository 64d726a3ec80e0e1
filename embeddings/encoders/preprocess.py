"""From a scene's values to the grey levels of the pictures that RGB encoders were trained on."""

from __future__ import annotations

from dataclasses import dataclass

from embeddings.encoders.base import Values


@dataclass(frozen=True, slots=True)
class Stretch:
    """How values become grey levels of 0 to 255: ``clip(factor * value, 0, 255)``."""

    name: str
    values: Values
    """What it takes."""
    factor: float | None
    """None: values are grey levels already."""
    step: str
    """For people; empty: nothing is done."""


TCI_SATURATION = 3558
"""Reflectance times 10,000 that is white in ESA's true-colour images of Level-1C products."""

STRETCHES = {
    stretch.name: stretch
    for stretch in (
        Stretch(
            "majortom",
            "reflectance-10000",
            2.5 / 1e4 * 255,
            "255 * clip(2.5 * value / 10000, 0, 1), as Major TOM makes its RGB pictures",
        ),
        Stretch(
            "tci",
            "reflectance-10000",
            255 / TCI_SATURATION,
            f"clip(255 * value / {TCI_SATURATION}, 0, 255), as ESA's Level-1C true-colour images",
        ),
        Stretch("byte", "byte", None, ""),
    )
}
