"""The rows of an SQL query -> JSON as it is sent, and no more of it than may be sent."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from embeddings.errors import InputError

PIECE_BYTES = 2**22
"""So much, or one row, becomes Python's objects at once, which take many times as much."""
MOST_VALUES = 4_000_000
"""In one row: orjson sets 277 bytes of address space aside for each, and ends if it gets none."""
VALUE_BYTES = 16
"""Arrow needs no more for one value, but for the characters of a text."""


def encoded(
    batches: Iterable[pa.RecordBatch], columns: Sequence[str], most_rows: int, most_bytes: int
) -> tuple[list[bytes], bool]:
    """Return rows, each a JSON array, up to both limits; and whether there were more.

    Names of columns count too. Times are ISO 8601, bytes base64, and what is not finite is null.
    Raises InputError if not even one row is small enough.
    """
    kept: list[bytes] = []
    left = most_bytes - len(orjson.dumps(columns))
    for row in chain.from_iterable(_rows(batch, most_bytes) for batch in batches):
        if len(kept) == most_rows:
            return kept, True
        left -= most_bytes if row is None else len(row) + 1
        if row is not None and left >= 0:
            kept.append(row)
        elif kept:
            return kept, True
        else:
            raise InputError(
                f"One row of the answer is larger than all may be ({most_bytes:,} bytes of JSON, "
                f"{MOST_VALUES:,} values a row). Ask for fewer or shorter values, or for parts."
            )
    return kept, False


def _rows(batch: pa.RecordBatch, most_bytes: int) -> Iterator[bytes | None]:
    """Yield rows as JSON; None instead of a row that is too large for sure."""
    values = sum(map(_count, batch.columns))
    half = batch.num_rows // 2
    if half and max(batch.nbytes, values * VALUE_BYTES) > PIECE_BYTES:
        yield from _rows(batch.slice(0, half), most_bytes)
        yield from _rows(batch.slice(half), most_bytes)
    elif not half and (values > MOST_VALUES or batch.nbytes - values * VALUE_BYTES > most_bytes):
        yield None
    else:
        for row in zip(*map(_values, batch.columns), strict=True):
            yield orjson.dumps(row, default=_plain)


def _count(array: pa.Array) -> int:
    """Return how many values and lists of them there are."""
    if isinstance(array, pa.ListArray | pa.LargeListArray) and len(array):  # also a MapArray
        start, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return len(array) + _count(array.values.slice(start, end - start))
    if isinstance(array, pa.FixedSizeListArray):
        return len(array) + _count(array.flatten())
    if isinstance(array, pa.StructArray):
        return len(array) + sum(map(_count, array.flatten()))
    return len(array)


def _values(column: pa.Array) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        return [_value(scalar) for scalar in column]
    return values


def _value(scalar: pa.Scalar) -> Any:
    """Return one value of a column that holds times which Python's types do not."""
    if not scalar.is_valid:
        return None
    match scalar:
        case pa.MapScalar():
            return [[_value(each["key"]), _value(each["value"])] for each in scalar.values]
        case pa.ListScalar() | pa.LargeListScalar() | pa.FixedSizeListScalar():
            return [_value(each) for each in scalar.values]
        case pa.StructScalar():
            return {name: _value(each) for name, each in scalar.items()}
        case pa.UnionScalar():
            return _value(scalar.value)
        case pa.Date32Scalar() | pa.TimestampScalar():
            return _time(scalar)
    return scalar.as_py()


def _time(scalar: pa.Scalar) -> Any:
    """Return a time, as text where it lies outside the years 1 to 9999 or has nanoseconds."""
    is_date = isinstance(scalar, pa.Date32Scalar)
    if abs(scalar.value) == 2 ** (31 if is_date else 63) - 1:  # as DuckDB stores the ends of time
        return "infinity" if scalar.value > 0 else "-infinity"
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        text = str(np.datetime64(scalar.value, "D" if is_date else scalar.type.unit))
        if text.startswith("-"):  # years before 0, which numpy writes with three digits
            year, rest = text[1:].split("-", maxsplit=1)
            text = f"-{year:0>4}-{rest}"
        zone = "" if is_date or scalar.type.tz is None else "+00:00"
        return text.removesuffix(".000000") + zone


def _plain(value: Any) -> Any:
    """Return what JSON has for a value that it has no type for."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Decimal):
        whole = value == value.to_integral_value()
        return orjson.Fragment(str(int(value))) if whole else float(value)
    if isinstance(value, tuple):  # an interval: months, days, nanoseconds
        return list(value)
    if isinstance(value, dt.datetime):  # of pandas, where it is installed
        return value.isoformat()
    return str(value)
