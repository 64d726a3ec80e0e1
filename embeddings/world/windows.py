"""Means of rasters over windows around places, by sums over all pixels north-west of a point."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


class Sums:
    """Sums of a plate carree raster ``(rows, cols)`` of the whole Earth over any box."""

    def __init__(self, raster: npt.NDArray[np.float32]) -> None:
        self.rows, self.cols = raster.shape
        self._sums = np.zeros((self.rows + 1, self.cols + 1))
        np.cumsum(raster, axis=0, out=self._sums[1:, 1:], dtype=np.float64)
        np.cumsum(self._sums, axis=1, out=self._sums)

    def around(self, lon: Floats, lat: Floats, radius: float) -> Floats:
        """Return the sums over windows of ``radius`` degrees to each side of places ``(n,)``.

        A window is about square on the ground: in longitude it widens with the latitude, at most
        to a quarter of the circle on either side. Pixels at its edge count in part; rows beyond
        a pole do not exist.
        """
        half = np.minimum(radius / np.maximum(np.cos(np.radians(lat)), radius / 90.0), 89.9)
        per_degree = self.cols / 360.0
        middle, side = (lon + 180.0) * per_degree, half * per_degree
        total = np.zeros(len(lon))
        for sign in (1.0, -1.0):
            y = np.clip((90.0 - lat + sign * radius) * (self.rows / 180.0), 0.0, self.rows)
            row = np.minimum(y.astype(np.intp), self.rows - 1)
            strip = self._north_west(row, y - row, middle + side)
            total += sign * (strip - self._north_west(row, y - row, middle - side))
        return total

    def _north_west(self, row: Indices, down: Floats, x: Floats) -> Floats:
        """Return the sums north of ``row + down`` and west of ``x``, which may leave the raster."""
        turns = np.floor(x / self.cols)
        x = x - turns * self.cols
        col = np.minimum(x.astype(np.intp), self.cols - 1)
        right = x - col
        flat, width = self._sums.ravel(), self.cols + 1

        def line(start: Indices) -> Floats:
            at = start + col
            part = flat[at] * (1.0 - right) + flat[at + 1] * right
            return np.asarray(part + turns * flat[start + self.cols])

        return np.asarray(line(row * width) * (1.0 - down) + line((row + 1) * width) * down)


class LandWindows:
    """Means over the land of windows of several radii (degrees) around places ``(n,)``."""

    def __init__(
        self, land: npt.NDArray[np.float32], lon: Floats, lat: Floats, radii: tuple[float, ...]
    ) -> None:
        self._land, self._lon, self._lat, self._radii = land, lon, lat, radii
        sums = Sums(land)
        # A small island may have next to no land in its window; then all its pixels count.
        self._shares = [sums.around(lon, lat, radius) for radius in radii]
        everything = Sums(np.ones_like(land))
        self._pixels = [everything.around(lon, lat, radius) for radius in radii]

    def means(self, raster: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return ``(radii, n) float32``."""
        on_land, overall = Sums(raster * self._land), None
        result = np.empty((len(self._radii), len(self._lon)), np.float32)
        for i, radius in enumerate(self._radii):
            share, bare = self._shares[i], self._shares[i] < 0.05 * self._pixels[i]
            mean = on_land.around(self._lon, self._lat, radius) / np.maximum(share, 1e-9)
            if bare.any():
                overall = overall or Sums(raster)
                sums = overall.around(self._lon[bare], self._lat[bare], radius)
                mean[bare] = sums / self._pixels[i][bare]
            result[i] = mean
        return result
