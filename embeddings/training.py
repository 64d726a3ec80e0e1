"""Train a location encoder of our own on the vectors of a collection.

A sine network over spherical harmonics (as SatCLIP's) learns to predict, from longitude and
latitude alone, what a collection says of a place. Its prediction is joined with the harmonics of
low degree, which carry what the collection does not say (where on Earth this is, smoothly), and
both are turned together by a random rotation, so that every dimension has about the same variance
and a probe that standardises its features keeps the balance between them.
docs/decisions/0004-location-encoder.md has the measurements.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.encoders import harmonics as sh
from embeddings.encoders.location import Layer, LocationEncoder
from embeddings.encoders.location_file import check_writable, save_location
from embeddings.errors import CancelledError, ExtraMissingError, InputError
from embeddings.report import Progress
from embeddings.store import Collection
from embeddings.store.reader import Reader

Floats = NDArray[np.float64]

DEGREES = 40
WIDTH = 512
DIM = 256
STEPS = 5000
BATCH = 1024
LEARNING_RATE = 2e-3
W0 = 10.0
TARGETS = 64
"""At most so many principal axes of the collection's vectors are learned."""
SKIP_DEGREES = 15
SKIP_DECAY = 1.0
"""A harmonic of degree l is passed on with amplitude l ** -SKIP_DECAY."""
IMAGE_SHARE = 0.5
"""Variance of the prediction, in units of the harmonics' that are passed on."""
HELD_OUT = 0.02
MOST_ROWS = 500_000
LEAST_ROWS = 1000


@dataclass(frozen=True)
class Sample:
    """Places (n,) in degrees and what is to be predicted of them, ``(n, targets) float32``."""

    lon: Floats
    lat: Floats
    targets: NDArray[np.float32]


def train_location(
    collection: Collection,
    out: Path,
    *,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train on a collection and write ``out`` (.safetensors) with its .json side-car.

    Returns what stands in the side-car: collection, steps, seconds, and ``r2_held_out``, the
    share of variance explained on cells drawn at random and left out of training (their
    neighbours were not). Raises InputError, ExtraMissingError or CancelledError.
    """
    if out.suffix != ".safetensors":
        raise InputError(f"'{out.name}' must end in .safetensors, the format of the weights.")
    check_writable(out)
    started = time.perf_counter()
    sample = read_sample(collection, seed)
    encoder, r2 = fit(sample, steps=steps, seed=seed, progress=progress, cancelled=cancelled)
    encoder = replace(encoder, name=out.stem)
    report = {
        "trained_on": collection.id,
        "product": collection.spec.product,
        "spec_weights_sha256": collection.spec.weights_sha256,
        "rows": len(sample.lon),
        "licence": collection.licence,
        "steps": steps,
        "seed": seed,
        "seconds": round(time.perf_counter() - started),
        "r2_held_out": round(r2, 4),
    }
    save_location(encoder, out, report)
    return report


def read_sample(collection: Collection, seed: int) -> Sample:
    """Return up to MOST_ROWS rows, their vectors turned to the main axes and scaled to unit spread.

    Raises InputError if the collection is too small to learn from.
    """
    if collection.count < LEAST_ROWS:
        raise InputError(
            f"Collection '{collection.id}' has {collection.count:,} places; at least "
            f"{LEAST_ROWS:,} are needed to learn from."
        )
    keep = np.random.default_rng(seed).random(collection.count) < MOST_ROWS / collection.count
    places, vectors, start = [], [], 0
    for batch, values in Reader(collection).batches():
        here = keep[start : start + len(values)]
        start += len(values)
        places.append(np.stack([batch.column(axis).to_numpy()[here] for axis in ("lon", "lat")]))
        vectors.append(values[here])
    lon, lat = np.concatenate(places, axis=1)
    matrix = np.concatenate(vectors).astype(np.float64)
    matrix -= matrix.mean(axis=0)
    variance, axes = np.linalg.eigh(matrix.T @ matrix / len(matrix))
    targets = matrix @ axes[:, ::-1][:, :TARGETS]
    spread = float(np.sqrt(variance.sum() / targets.shape[1]))
    return Sample(lon, lat, (targets / max(spread, 1e-12)).astype(np.float32))


def fit(
    sample: Sample,
    *,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[LocationEncoder, float]:
    """Train the network; return the encoder and R squared on the held-out cells."""
    try:
        import torch
    except ImportError:
        raise ExtraMissingError(
            "Training needs PyTorch. Install it: pip install 'terrakin[torch]'."
        ) from None
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = len(sample.lon)
    order = rng.permutation(count)
    held, known = np.split(order, [max(1, int(count * HELD_OUT))])
    width = sample.targets.shape[1]
    first = torch.nn.Linear(DEGREES**2, WIDTH)
    second = torch.nn.Linear(WIDTH, WIDTH)
    last = torch.nn.Linear(WIDTH, width)
    with torch.no_grad():
        # The squares of the harmonics sum to L * L / 4 pi: W0 (Wx + b) starts with unit variance.
        first.weight.normal_(0, np.sqrt(4 * np.pi) / DEGREES / W0)
        first.bias.uniform_(-np.pi / W0, np.pi / W0)
        bound = float(np.sqrt(6 / WIDTH))
        second.weight.uniform_(-bound, bound)
    network = torch.nn.ModuleList([first, second, last]).to(device)
    adam = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)

    def predict(features: NDArray[np.float32]) -> Any:
        x = torch.from_numpy(features).to(device)
        return last(torch.sin(second(torch.sin(W0 * first(x)))))

    def features_of(rows: NDArray[np.intp]) -> NDArray[np.float32]:
        return _features(sample.lon[rows], sample.lat[rows])

    # The next batch's harmonics are computed while the network learns from this one.
    with ThreadPoolExecutor(1) as ahead:
        rows = rng.choice(known, BATCH)
        coming = ahead.submit(features_of, rows)
        for step in range(steps):
            if cancelled():
                raise CancelledError("Stopped as asked; no model was written.")
            goal, features = torch.from_numpy(sample.targets[rows]).to(device), coming.result()
            rows = rng.choice(known, BATCH)
            coming = ahead.submit(features_of, rows)
            warm = min(1.0, (step + 1) / 100)
            for group in adam.param_groups:
                group["lr"] = LEARNING_RATE * warm * (0.505 + 0.495 * np.cos(np.pi * step / steps))
            loss = torch.nn.functional.mse_loss(predict(features), goal)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not declare it
            adam.step()
            progress(Progress(step + 1, steps, f"{step + 1:,} of {steps:,} steps"))
    with torch.no_grad():
        error = np.concatenate(
            [
                (predict(features_of(rows)).cpu().numpy() - sample.targets[rows]) ** 2
                for rows in np.array_split(held, -(-len(held) // BATCH))
            ]
        )
    r2 = 1.0 - float(error.mean() / max(sample.targets[held].var(axis=0).mean(), 1e-12))
    layers = [
        (part.weight.detach().cpu().double().numpy(), part.bias.detach().cpu().double().numpy())
        for part in (first, second, last)
    ]
    return _joined(layers, rng), r2


def _features(lon: Floats, lat: Floats) -> NDArray[np.float32]:
    phi, theta = sh.angles(lon, lat)
    return sh.harmonics(sh.legendre_stable(theta, DEGREES), sh.trigonometric(phi, DEGREES)).astype(
        np.float32
    )


def _joined(layers: list[tuple[Floats, Floats]], rng: np.random.Generator) -> LocationEncoder:
    """Join the prediction and the low harmonics by one rotation into DIM dimensions."""
    (w1, b1), (w2, b2), (w3, b3) = layers
    degree, _ = sh.feature_orders(SKIP_DEGREES)
    amplitude = np.where(degree > 0, np.maximum(degree, 1.0) ** -SKIP_DECAY, 0.0)
    # A harmonic has variance 1 / 4 pi over the sphere, a target has 1.
    amplitude *= np.sqrt(4 * np.pi / np.square(amplitude).sum())
    targets = len(b3)
    image = np.sqrt(IMAGE_SHARE / targets)
    mixed = np.linalg.qr(rng.normal(size=(max(DIM, len(amplitude) + targets), DIM)))[0]
    turn_harmonics, turn_targets = mixed[: len(amplitude)], mixed[len(amplitude) :][:targets]
    skip = turn_harmonics.T * amplitude
    return LocationEncoder(
        "terrakin",
        DEGREES,
        "stable",
        (
            Layer(w1, b1, W0),
            Layer(w2, b2, 1.0),
            Layer(turn_targets.T @ w3 * image, turn_targets.T @ b3 * image, 0.0),
        ),
        skip,
    )
