"""Location encoders: a place to a vector, by spherical harmonics and a sine network (SatCLIP).

Klemmer et al. 2025, "SatCLIP: Global, General-Purpose Location Embeddings with Satellite
Imagery", arXiv:2311.17179: L * L harmonics, then sin(30 (Wx + b)), sin(Wx + b) and a linear layer.
Vectors are not normalised; compare them by cosine.

On a grid all cells of a row share their latitude. The first layer then folds into 2 L - 1 vectors
a row, one for each order m, and a cell costs 2 L - 1 trigonometric terms instead of L * L
harmonics (``encode_row``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from embeddings.encoders import harmonics as sh
from embeddings.errors import InputError
from embeddings.places import checked_places

Mode = Literal["official", "stable"]
Floats = NDArray[np.float64]

POINTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Layer:
    """y = activation(weight @ x + bias); ``weight`` (out, in), ``bias`` (out,), float64.

    ``w0`` is the frequency in sin(w0 y); 0 means no activation.
    """

    weight: Floats
    bias: Floats
    w0: float


@dataclass(frozen=True)
class LocationEncoder:
    """A network over L * L spherical harmonics. ``mode`` chooses how they are evaluated.

    ``skip`` ``(dim, S * S)`` is added times the harmonics of degree below S to the last layer's
    values, past the network; SatCLIP has none.
    """

    name: str
    degrees: int
    mode: Mode
    layers: tuple[Layer, ...]
    skip: Floats | None = None

    def __post_init__(self) -> None:
        if self.degrees < 1 or self.mode not in get_args(Mode) or not self.layers:
            raise InputError(
                f"A location encoder with {self.degrees} degrees, mode '{self.mode}' and "
                f"{len(self.layers)} layers is none. The file belongs to another architecture."
            )
        wanted = self.degrees**2
        for number, layer in enumerate(self.layers):
            if layer.bias.ndim != 1 or layer.weight.shape != (len(layer.bias), wanted):
                raise InputError(
                    f"Layer {number} of the location encoder has weights {layer.weight.shape} and "
                    f"biases {layer.bias.shape}, but gets {wanted} values. The file belongs to "
                    "another architecture."
                )
            _check_finite(f"Layer {number}", layer.weight, layer.bias, np.asarray(layer.w0))
            wanted = len(layer.bias)
        if self.skip is not None:
            if self.skip.ndim != 2 or len(self.skip) != wanted or self._too_wide(self.skip):
                raise InputError(
                    f"The skip of the location encoder has shape {self.skip.shape}; it must be "
                    f"({wanted}, at most {self.degrees**2}). The file belongs to another "
                    "architecture."
                )
            _check_finite("The skip", self.skip)

    def _too_wide(self, skip: Floats) -> bool:
        return bool(skip.shape[1] > self.degrees**2)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return len(self.layers[-1].bias)

    @cached_property
    def sha256(self) -> str:
        """Hash of all weights and of what they mean, hexadecimal."""
        digest = hashlib.sha256(f"{self.degrees},{self.mode}".encode())
        for layer in self.layers:
            digest.update(f"{layer.weight.shape},{layer.w0}".encode())
            digest.update(layer.weight.astype("<f8").tobytes())
            digest.update(layer.bias.astype("<f8").tobytes())
        if self.skip is not None:
            digest.update(self.skip.astype("<f8").tobytes())
        return digest.hexdigest()

    def encode(self, lon: Any, lat: Any) -> Floats:
        """Turn places ``(n,)`` in degrees into ``(n, dim) float64``.

        Longitudes beyond ±180 are wrapped. Raises PlaceError for values that are no places.
        """
        lon, lat = (np.atleast_1d(axis) for axis in checked_places(lon, lat))
        out = np.empty((len(lon), self.dim))
        for start in range(0, len(lon), POINTS_AT_ONCE):
            here = slice(start, start + POINTS_AT_ONCE)
            phi, theta = sh.angles(lon[here], lat[here])
            features = sh.harmonics(
                self._legendre(theta, self.degrees), sh.trigonometric(phi, self.degrees)
            )
            out[here] = self._network(features)
            if self.skip is not None:
                out[here] += features[:, : self.skip.shape[1]] @ self.skip.T
        return out

    def fold(self, lat: Floats) -> NDArray[np.float32]:
        """Fold the first layer for rows at latitudes ``(rows,)``: ``(rows, 2L - 1, width)``.

        The bias is in the middle term (m = 0); the skip follows the first layer's columns.
        float32; summed in float64.
        """
        _, theta = sh.angles(np.zeros_like(lat), lat)
        legendre = self._legendre(theta, self.degrees)
        weight, bias = self._first
        out = np.empty((len(lat), 2 * self.degrees - 1, len(bias)), dtype=np.float32)
        for m in range(-self.degrees + 1, self.degrees):
            columns = weight[:, self._columns[m]]
            out[:, m + self.degrees - 1] = legendre[:, abs(m) :, abs(m)] @ columns.T
        out[:, self.degrees - 1] += bias.astype(np.float32)
        return out

    def encode_row(self, folded: NDArray[np.float32], lon: Floats) -> NDArray[np.float32]:
        """Encode places of one row: ``folded`` is one row of ``fold``, ``lon`` ``(n,)`` degrees.

        Returns ``(n, dim) float32``; float32 arithmetic from the folded layer on.
        """
        terms = longitude_terms(lon, self.degrees)
        width = len(self.layers[0].bias)
        x = terms @ folded[:, :width]
        np.multiply(x, np.float32(self.layers[0].w0), out=x)
        np.sin(x, out=x)
        for layer, (weight_t, bias) in zip(self.layers[1:], self._single, strict=True):
            x = x @ weight_t
            x += bias
            if layer.w0:
                if layer.w0 != 1:
                    x *= np.float32(layer.w0)
                np.sin(x, out=x)
        if self.skip is not None:
            x += terms @ folded[:, width:]
        return x

    @cached_property
    def _first(self) -> tuple[Floats, Floats]:
        """The first layer with the skip's rows below it: all that is linear in the harmonics."""
        first = self.layers[0]
        if self.skip is None:
            return first.weight, first.bias
        skip = np.zeros((len(self.skip), self.degrees**2))
        skip[:, : self.skip.shape[1]] = self.skip
        return np.concatenate([first.weight, skip]), np.concatenate(
            [first.bias, np.zeros(len(skip))]
        )

    @property
    def _legendre(self) -> Callable[[Floats, int], Floats]:
        return sh.legendre_official if self.mode == "official" else sh.legendre_stable

    @cached_property
    def _columns(self) -> dict[int, NDArray[np.intp]]:
        _, order = sh.feature_orders(self.degrees)
        return {m: np.flatnonzero(order == m) for m in range(1 - self.degrees, self.degrees)}

    @cached_property
    def _single(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        return [
            (np.ascontiguousarray(layer.weight.T, dtype=np.float32), layer.bias.astype(np.float32))
            for layer in self.layers[1:]
        ]

    def _network(self, x: Floats) -> Floats:
        for layer in self.layers:
            x = x @ layer.weight.T + layer.bias
            if layer.w0:
                x = np.sin(layer.w0 * x)
        return x


def _check_finite(what: str, *arrays: Floats) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError(f"{what} of the location encoder holds NaN or infinity.")


def longitude_terms(lon: Floats, degrees: int) -> NDArray[np.float32]:
    """Return sin(m phi), 1 and cos(m phi) as ``harmonics.trigonometric`` does, fast, float32.

    Powers of exp(i phi) by repeated multiplication in complex128: the error of the 40th is below
    1e-14.
    """
    phi, _ = sh.angles(lon, np.zeros_like(lon))
    turn = np.exp(1j * phi)
    out = np.empty((len(lon), 2 * degrees - 1), dtype=np.float32)
    middle = degrees - 1
    out[:, middle] = 1.0
    power = turn.copy()
    for m in range(1, degrees):
        out[:, middle + m] = power.real
        out[:, middle - m] = power.imag
        power *= turn
    return out
