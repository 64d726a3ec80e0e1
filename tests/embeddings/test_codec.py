"""The stated error bounds hold for every value that can be stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embeddings import codec
from embeddings.errors import InputError

SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 8))


def floats(limit: float) -> st.SearchStrategy[float]:
    return st.floats(-limit, limit, width=32, allow_subnormal=True)


@given(hnp.arrays(np.float32, SHAPES, elements=floats(3.0000000054977558e38)))
def test_float32_is_exact(vectors: np.ndarray) -> None:
    stored = codec.encode(vectors, "float32")
    assert stored.dtype == np.float32
    assert (codec.decode(stored, "float32") == vectors).all()


@given(hnp.arrays(np.float32, SHAPES, elements=floats(65504)))
def test_float16_keeps_its_bound(vectors: np.ndarray) -> None:
    stored = codec.encode(vectors, "float16")
    assert stored.dtype == np.float16
    error = np.abs(codec.decode(stored, "float16").astype(np.float64) - vectors)
    assert (error <= np.abs(vectors) / 2048 + 2.0**-25).all()


@given(hnp.arrays(np.float32, SHAPES, elements=floats(2.0**20)))
def test_int8_keeps_its_bound_on_the_sample_it_was_fitted_on(vectors: np.ndarray) -> None:
    scale = codec.fit_scale(vectors)
    stored = codec.encode(vectors, "int8", scale)
    assert stored.dtype == np.int8
    assert len(scale) == vectors.shape[1]
    error = np.abs(codec.decode(stored, "int8", scale).astype(np.float64) - vectors)
    # Half a step, and the rounding of float32 in dividing and multiplying.
    assert (error <= np.asarray(scale) * 0.5 * (1 + 1e-4)).all()


def test_int8_scales_are_per_dimension_with_headroom() -> None:
    sample = np.array([[1.0, -100.0], [-2.0, 50.0]], dtype=np.float32)
    assert codec.fit_scale(sample) == pytest.approx((2.5 / 127, 125 / 127))
    stored = codec.encode(np.array([[2.0, 100.0]], np.float32), "int8", codec.fit_scale(sample))
    assert stored.tolist() == [[102, 102]]


def test_values_beyond_the_range_are_clipped_not_wrapped() -> None:
    far = np.array([[1e6, -1e6]], dtype=np.float32)
    assert codec.encode(far, "int8", (1.0, 1.0)).tolist() == [[127, -127]]
    assert codec.decode(codec.encode(far, "float16"), "float16").tolist() == [[65504, -65504]]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_stored(dtype: str, value: float) -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        codec.encode(np.array([[1.0, value]], np.float32), dtype, (1.0, 1.0))


@pytest.mark.parametrize("scale", [None, (1.0,)])
def test_int8_without_its_scales_is_refused(scale: tuple[float, ...] | None) -> None:
    with pytest.raises(InputError, match="need 2 scales"):
        codec.encode(np.ones((1, 2), np.float32), "int8", scale)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_no_rows_are_no_problem(dtype: str) -> None:
    none = np.empty((0, 3), np.float32)
    stored = codec.encode(none, dtype, (1.0,) * 3)
    assert codec.decode(stored, dtype, (1.0,) * 3).shape == (0, 3)
    assert codec.fit_scale(none)[0] > 0
