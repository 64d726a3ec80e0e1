"""What every opened scene offers to those who cut it into chips: its place and its pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embeddings.sources.grids import TargetGrid


class PlacedScene(ABC):
    """Bands on a grid of pixels. Use as a context manager; not thread-safe.

    Attributes: ``bands`` names in order; ``height`` and ``width`` pixels; ``transform`` (affine,
    column and row to x and y) and ``crs`` of the grid; ``pixel_m`` (row, column) size of a pixel
    in metres at the centre; ``first_px`` (row, column) of the first pixel in the scene it was cut
    from; ``notes`` what the reader decided by itself; ``files`` those that hold the pixels and
    masks.
    """

    bands: tuple[str, ...]
    notes: list[str]
    files: tuple[str, ...]
    first_px: tuple[int, int]

    def __init__(self, grid: TargetGrid) -> None:
        self.grid = grid
        self.height, self.width = grid.height, grid.width
        self.transform = grid.transform
        self.crs = grid.crs
        self.to_lonlat = grid.to_lonlat
        self.pixel_m = grid.pixel_m

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Close the files."""

    @abstractmethod
    def read(
        self, row: int, col: int, height: int, width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a window: values ``(bands, height, width) float32``, validity ``(height, width)``.

        Raises SourceError if a file is damaged there.
        """

    @abstractmethod
    def onto(self, grid: TargetGrid) -> PlacedScene:
        """Return the scene, whole, on another grid. Close it before this one."""

    @property
    def gsd_m(self) -> float:
        """Ground sampling distance in metres: geometric mean of both pixel sides."""
        return float(np.sqrt(self.pixel_m[0] * self.pixel_m[1]))

    def xy(self, col: NDArray[np.float64], row: NDArray[np.float64]) -> tuple[Any, Any]:
        """Turn pixel coordinates (column, row; 0, 0 is the first corner) into lon, lat degrees.

        Raises SourceError where a point has no longitude and latitude.
        """
        return self.grid.xy(col, row)

    def outline(self, points: int = 16) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the scene's edge as lon, lat ``(4 * points,)``, going round once."""
        return self.xy(*self.grid.edge(points))
