"""Logistic regression with an L2 penalty, for a whole path of strengths at once.

L-BFGS (Nocedal and Wright 2006, algorithm 7.4) in the basis of the covariance's eigenvectors,
where the curvature bound of Böhning (1992, "Multinomial logistic regression algorithm") is
diagonal and serves as the first guess of the Hessian. The penalty does not know the basis, so
the answer is that of any other solver; a few dozen steps suffice even with a weak penalty.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Link = Literal["softmax", "sigmoid"]

MEMORY = 8
"""Pairs of steps that L-BFGS remembers."""

MOST_STEPS = 300
HALVINGS = 20

TOLERANCE = 1e-6
"""Nats per sample that one more step would gain, at which a fit ends."""

ROUGH = 1e-4
"""The same where strengths are only compared."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Standardised vectors in the basis of their covariance's eigenvectors.

    ``values (d + 1, n) float32``, the last row 1 for the bias: classes and features come first
    everywhere in this module, since sums over a short last axis are slow. ``turn (d, d) float32``
    takes weights of this basis back to those of the standardised space; ``spread (d + 1,)
    float32`` are the mean squares of the rows.
    """

    values: Floats
    turn: Floats
    spread: Floats

    @classmethod
    def of(cls, standardised: Floats) -> Basis:
        """Turn standardised vectors ``(n, d) float32`` into their own basis."""
        count = max(1, len(standardised))
        spread, turn = np.linalg.eigh((standardised.T @ standardised).astype(np.float64) / count)
        turn = turn.astype(np.float32)
        values = np.ones((standardised.shape[1] + 1, len(standardised)), np.float32)
        np.matmul(turn.T, standardised.T, out=values[:-1])
        return cls(values, turn, np.append(np.maximum(spread, 0.0), 1.0).astype(np.float32))

    def back(self, found: Floats) -> tuple[Floats, Floats]:
        """Return weights ``(d, c)`` and bias ``(c,)`` of the standardised space."""
        return self.turn @ found[:, :-1].T, found[:, -1].copy()


def path(
    basis: Basis,
    wanted: Floats,
    weight: Floats,
    strengths: list[float],
    link: Link,
    tolerance: float = TOLERANCE,
) -> Iterator[Floats]:
    """Yield the weights ``(c, d + 1) float32`` in the basis for each strength, in their order.

    ``wanted (c, n)`` are the shares wanted of each class, ``weight (n,)`` what each sample
    counts, on average 1. A strength multiplies half the sum of squared weights (bias left out)
    beside the summed loss, as 1 / C does in scikit-learn. Each fit starts where the one before
    ended, so strengths are best given from strong to weak.
    """
    found = _empty_model(wanted, weight, link, basis)
    for strength in strengths:
        penalty = np.full(found.shape[1], strength, np.float32)
        penalty[-1] = 0
        objective = _Objective(basis, wanted, weight, penalty, link)
        found = _minimise(objective, found, tolerance)
        yield found


def _empty_model(wanted: Floats, weight: Floats, link: Link, basis: Basis) -> Floats:
    """Return weights of zero with the bias that gives the classes their shares."""
    found = np.zeros((len(wanted), len(basis.values)), np.float32)
    # A product of so small a matrix can raise a false alarm (invalid value) in OpenBLAS.
    mass = (wanted * weight).sum(axis=1)
    share = np.clip(mass / max(float(weight.sum()), 1e-12), 1e-4, 1 - 1e-4)
    odds = np.log(share) if link == "softmax" else np.log(share / (1 - share))
    found[:, -1] = odds - odds.mean() if link == "softmax" else odds
    return found


def softmax(scores: Floats) -> Floats:
    """Return the shares ``(n, c)`` of scores ``(n, c)``."""
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    raised /= raised.sum(axis=1, keepdims=True)
    return np.asarray(raised)


def sigmoid(scores: Floats) -> Floats:
    """Return the logistic function of scores, without overflow."""
    half = np.tanh(scores * np.float32(0.5))
    half += 1
    half *= 0.5
    return np.asarray(half)


@dataclass(frozen=True, eq=False)
class _Objective:
    """The penalised loss of one strength."""

    basis: Basis
    wanted: Floats
    weight: Floats
    penalty: Floats
    link: Link

    def at(self, found: Floats, scores: Floats) -> tuple[float, Floats]:
        """Return the value, and the shares ``(c, n)`` that the gradient needs."""
        if self.link == "softmax":
            shifted = scores - scores.max(axis=0)
            shares = np.exp(shifted)
            total = shares.sum(axis=0)
            shares /= total
            losses = np.log(total) - np.einsum("ij,ij->j", shifted, self.wanted)
        else:
            shares = sigmoid(scores)
            losses = (np.logaddexp(np.float32(0), scores) - scores * self.wanted).sum(axis=0)
        loss = _dot(losses, self.weight) + 0.5 * _dot(self.penalty * found, found)
        return loss, shares

    def gradient(self, found: Floats, shares: Floats) -> Floats:
        """Return the gradient ``(c, d + 1)``; the shares are used up."""
        shares -= self.wanted
        shares *= self.weight
        return np.asarray(shares @ self.basis.values.T + self.penalty * found)

    def curvature(self) -> Floats:
        """Return the inverse of a bound of the Hessian's diagonal, ``(d + 1,)``."""
        bound = 0.5 if self.link == "softmax" else 0.25
        count = self.basis.values.shape[1]
        hessian = bound * count * self.basis.spread + self.penalty
        return np.asarray(1 / (hessian + 1e-6 * count), np.float32)


def _minimise(objective: _Objective, found: Floats, tolerance: float) -> Floats:
    """Return the weights where one more step would gain less than the tolerance."""
    values = objective.basis.values
    enough = tolerance * values.shape[1]
    curvature = objective.curvature()
    pairs: list[tuple[Floats, Floats, float]] = []
    scores = found @ values
    value, shares = objective.at(found, scores)
    gradient = objective.gradient(found, shares)
    for _ in range(MOST_STEPS):
        step = _direction(gradient, pairs, curvature)
        slope = _dot(gradient, step)
        if -slope < enough:
            break
        change = step @ values
        length, lower, shares = _shorten(objective, found, step, scores, change, value, slope)
        if length == 0.0:
            break
        moved = step * np.float32(length)
        found = found + moved
        scores += change * np.float32(length)
        value = lower
        before, gradient = gradient, objective.gradient(found, shares)
        turned = gradient - before
        if (product := _dot(moved, turned)) > 0:
            pairs = [*pairs[1 - MEMORY :], (moved, turned, product)]
    return found


def _shorten(
    objective: _Objective,
    found: Floats,
    step: Floats,
    scores: Floats,
    change: Floats,
    value: float,
    slope: float,
) -> tuple[float, float, Floats]:
    """Halve the step until the value falls enough (Armijo): its length, the value, the shares.

    The length is 0 where float32 shows no fall any more.
    """
    length = 1.0
    for _ in range(HALVINGS):
        part = np.float32(length)
        lower, shares = objective.at(found + part * step, scores + part * change)
        if lower <= value + 1e-4 * length * slope:
            return length, lower, shares
        length /= 2
    return 0.0, value, shares


def _direction(
    gradient: Floats, pairs: list[tuple[Floats, Floats, float]], curvature: Floats
) -> Floats:
    """Return the downward step: the two loops of L-BFGS around the curvature bound."""
    rest = gradient.copy()
    used: list[float] = []
    for moved, turned, product in reversed(pairs):
        used.append(_dot(moved, rest) / product)
        rest -= np.float32(used[-1]) * turned
    if pairs:
        _, turned, product = pairs[-1]
        curvature = curvature * np.float32(product / _dot(turned * curvature, turned))
    rest *= curvature
    for (moved, turned, product), share in zip(pairs, reversed(used), strict=True):
        rest += np.float32(share - _dot(turned, rest) / product) * moved
    return -rest


def _dot(a: Floats, b: Floats) -> float:
    return float(np.multiply(a, b).sum(dtype=np.float64))
