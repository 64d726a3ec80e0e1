"""Real spherical harmonics as SatCLIP computes them, exactly and in a numerically stable way.

Conventions of microsoft/satclip at 1ead106 (``harmonics_calculation="analytic"``), which its
weights depend on: phi = radians(lon + 180), theta = radians(lat + 90), so theta is 0 at the South
Pole; features in the order of l = 0 .. L-1, m = -l .. l; sin(abs(m) phi) for m < 0, cos(m phi)
for m > 0; no Condon-Shortley phase; and every m = 0 term pi times the orthonormal value, because
of missing parentheses in the script that generated the code.

The generated code evaluates each harmonic as a polynomial in cos(theta) whose coefficients were
printed with 15 digits. Up to L = 10 that is exact to 1e-12; at L = 40 the coefficients reach 1e14
and the values leave the true harmonics by 5e-5 at 45 degrees latitude and 0.2 at 75. The weights
were trained on those values, so ``legendre_official`` reproduces the 15 digits.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def angles(lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
    """Return (phi, theta) in radians of places in degrees."""
    return np.radians(lon + 180.0), np.radians(lat + 90.0)


def legendre_official(theta: Floats, degrees: int) -> Floats:
    """Return the latitude parts of the official analytic code: ``(n, degrees, degrees)``.

    ``theta`` is ``(n,)`` radians; entry [:, l, m] for m <= l, zero above. float64.
    """
    x = np.cos(theta)
    powers = x[:, None] ** np.arange(degrees)
    # One polynomial after the other: a matrix product would sum in another order, and near the
    # poles the terms cancel to the last digit.
    out = np.zeros((len(x), degrees, degrees))
    sine = 1.0 - x**2
    for l in range(degrees):  # noqa: E741 - the field's name
        for m in range(l + 1):
            factor, exponents, coefficients = official_terms(l, m)
            terms = powers[:, list(exponents)] * coefficients
            value = np.add.accumulate(terms, axis=1)[:, -1]
            out[:, l, m] = factor * sine ** (m / 2) * value
    return out


def legendre_stable(theta: Floats, degrees: int) -> Floats:
    """Return the same functions by the three-term recurrence in l, accurate to rounding.

    ``(n, degrees, degrees)`` float64, like ``legendre_official``. Holmes and Featherstone 2002,
    doi:10.1007/s00190-002-0216-2, forward columns.
    """
    x, sine = np.cos(theta), np.sin(theta)
    out = np.zeros((len(x), degrees, degrees))
    diagonal = np.full(len(x), math.sqrt(1 / (4 * math.pi)))
    for m in range(degrees):
        if m:
            diagonal = diagonal * sine * math.sqrt((2 * m + 1) / (2 * m))
        out[:, m, m] = diagonal
        for l in range(m + 1, degrees):  # noqa: E741
            a = math.sqrt((2 * l - 1) * (2 * l + 1) / ((l - m) * (l + m)))
            out[:, l, m] = a * x * out[:, l - 1, m]
            if l > m + 1:
                b = math.sqrt(
                    (2 * l + 1) * (l + m - 1) * (l - m - 1) / ((l - m) * (l + m) * (2 * l - 3))
                )
                out[:, l, m] -= b * out[:, l - 2, m]
    out[:, :, 0] *= math.pi
    out[:, :, 1:] *= math.sqrt(2.0)
    return out


def trigonometric(phi: Floats, degrees: int) -> Floats:
    """Return ``(n, 2 * degrees - 1)``: sin(m phi) for m = degrees-1 .. 1, 1, then cos(m phi)."""
    order = np.arange(1, degrees)
    turned = phi[:, None] * order
    return np.concatenate([np.sin(turned)[:, ::-1], np.ones((len(phi), 1)), np.cos(turned)], axis=1)


def harmonics(legendre: Floats, trig: Floats) -> Floats:
    """Combine latitude parts ``(n, L, L)`` and longitude parts ``(n, 2L-1)`` to ``(n, L * L)``."""
    degrees = legendre.shape[1]
    l, m = feature_orders(degrees)  # noqa: E741
    return legendre[:, l, np.abs(m)] * trig[:, m + degrees - 1]


@cache
def feature_orders(degrees: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return degree l and order m of each of the L * L features."""
    l = np.repeat(np.arange(degrees), 2 * np.arange(degrees) + 1)  # noqa: E741
    return l, np.arange(degrees**2) - l**2 - l


@cache
def official_terms(l: int, m: int) -> tuple[float, tuple[int, ...], Floats]:  # noqa: E741
    """Return (factor, exponents, coefficients) of one harmonic as the generated code prints it.

    The m-th derivative of the Legendre polynomial P_l, highest power first, by exact arithmetic;
    then every number rounded to 15 digits. Where the polynomial is a single term, and for m = 0,
    the factor was multiplied in before it was printed.
    """
    terms = {}
    for k in range((l - m) // 2 + 1):
        power = l - 2 * k
        coefficient = Fraction((-1) ** k * math.comb(l, k) * math.comb(2 * l - 2 * k, l), 2**l)
        terms[power - m] = coefficient * math.perm(power, m)
    exponents = tuple(terms)
    if m == 0:
        squared = Fraction(2 * l + 1, 4)
        scale = _sqrt(squared) * math.sqrt(math.pi)
        return 1.0, exponents, np.array([_printed(float(c) * scale) for c in terms.values()])
    norm = _sqrt(Fraction(2 * (2 * l + 1) * math.factorial(l - m), 4 * math.factorial(l + m)))
    norm /= math.sqrt(math.pi)
    if len(terms) == 1:
        return _printed(norm * float(terms[exponents[0]])), exponents, np.ones(1)
    return _printed(norm), exponents, np.array([_printed(float(c)) for c in terms.values()])


def _sqrt(value: Fraction) -> float:
    """Return the square root of a fraction whose parts may exceed what a float can hold."""
    scale = 1 << 256
    return math.isqrt(value.numerator * scale * scale // value.denominator) / scale


def _printed(value: float) -> float:
    return float(f"{value:.15g}")
