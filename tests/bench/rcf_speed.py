"""Random convolutional features: ours, torchgeo's RCF and the matrix products, in one process."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from embeddings.encoders.rcf import RcfEncoder
from embeddings.encoders.rcf_options import parse
from embeddings.encoders.torch_runtime import need_torchvision

THREADS = os.cpu_count() or 1
ROUNDS = 5

# name: bands, side, kernel, filters, batch, bias
SHAPES = {
    "rgb_64px_k3_512": (3, 64, 3, 512, 64, 0.0),
    "rgb_64px_k3_512_bias": (3, 64, 3, 512, 64, 1.0),
    "rgb_64px_k3_4096": (3, 64, 3, 4096, 16, 0.0),
    "13_bands_64px_k3_512": (13, 64, 3, 512, 32, 0.0),
    "rgb_64px_k5_512": (3, 64, 5, 512, 32, 0.0),
    "rgb_256px_k3_512": (3, 256, 3, 512, 4, 0.0),
    "rgb_16px_k3_512": (3, 16, 3, 512, 512, 0.0),
}


def run() -> dict[str, Any]:
    """Return, for each shape, our chips a second and the ratios to torchgeo's and to sgemm."""
    figures: dict[str, Any] = {"threads": THREADS, "blas": _blas()}
    for name, shape in SHAPES.items():
        for figure, value in _compare(*shape).items():
            figures[f"{name}_{figure}"] = value
    return figures


def _compare(
    bands: int, side: int, kernel: int, filters: int, batch: int, bias: float
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    chips = rng.normal(size=(max(batch, 16), bands, side, side)).astype(np.float32)
    options = parse(f"mosaiks,features={2 * filters},kernel={kernel},bias={bias}")
    encoder = RcfEncoder.fit(chips, options=options)
    chips = chips[:batch]
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: encoder.encode(chips),
        "sgemm": _products(chips, kernel, filters),
    }
    rival = _torchgeo(encoder, chips, kernel, bias)
    if rival is not None:
        features = encoder.encode(chips)
        # torchgeo's second half is relu(-(conv + bias)), so with a bias only the first agrees.
        same = slice(None) if bias == 0 else slice(filters)
        assert np.abs(rival()[:, same] - features[:, same]).max() < 1e-4 * np.abs(features).max()
        runs["torchgeo"] = rival
    taken = _times(runs)
    found = {"chips_per_s": round(batch / taken["ours"])}
    found["to_sgemm"] = round(taken["sgemm"] / taken["ours"], 2)
    found["gflops_of_sgemm"] = round(
        2e-9 * batch * (side - kernel + 1) ** 2 * bands * kernel**2 * filters / taken["sgemm"]
    )
    if "torchgeo" in taken:
        found["to_torchgeo"] = round(taken["torchgeo"] / taken["ours"], 1)
    return found


def _times(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the best seconds of each, run in turn so that all meet the same machine."""
    best = dict.fromkeys(runs, float("inf"))
    for number in range(ROUNDS + 1):
        for name, function in runs.items():
            start = time.perf_counter()
            function()
            if number:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def _products(chips: NDArray[np.float32], kernel: int, filters: int) -> Callable[[], None]:
    """Return the products alone: patches made beforehand, each chip's responses written out."""
    rng = np.random.default_rng(1)
    windows = np.lib.stride_tricks.sliding_window_view(chips, (kernel, kernel), axis=(2, 3))
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(
        len(chips), -1, chips.shape[1] * kernel**2
    )
    weights = rng.normal(size=(patches.shape[2], filters)).astype(np.float32)
    out = np.empty((THREADS, patches.shape[1], filters), dtype=np.float32)

    def work(thread: int) -> None:
        for number in range(thread, len(patches), THREADS):
            np.matmul(patches[number], weights, out=out[thread])

    def products() -> None:
        with threadpool_limits(1), ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(THREADS)))

    return products


def _torchgeo(
    encoder: RcfEncoder, chips: NDArray[np.float32], kernel: int, bias: float
) -> Callable[[], NDArray[np.float32]] | None:
    """Return torchgeo's RCF with our filters, or None if it is not installed."""
    if importlib.util.find_spec("torchgeo") is None:
        return None
    import torch

    need_torchvision("torchgeo")
    from torchgeo.models import RCF

    torch.set_num_threads(THREADS)
    model = RCF(
        in_channels=chips.shape[1], features=encoder.dim, kernel_size=kernel, bias=-bias, seed=1
    ).eval()
    weights = encoder.filters(0).reshape(-1, chips.shape[1], kernel, kernel)
    model.weights = torch.from_numpy(weights.copy())
    pixels = torch.from_numpy(chips)

    def run_model() -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model(pixels).numpy())

    return run_model


def _blas() -> str:
    """Return which matrix library numpy uses, and for which processor."""
    return ", ".join(
        f"{info['internal_api']} {info['version']} {info.get('architecture', '')}"
        for info in threadpool_info()
        if "numpy" in info["filepath"]
    )


if __name__ == "__main__":
    for figure, value in run().items():
        print(f"{figure:<44} {value}")
