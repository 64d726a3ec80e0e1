"""From a sample of a pair: how far the dates lie apart, and what change looks like beside noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.change.coverage import Coverage
from embeddings.analysis.change.features import band_groups
from embeddings.analysis.change.pixels import PixelChange
from embeddings.analysis.change.registration import MIN_VALID, NOT_FOUND, Shift, find_shift
from embeddings.analysis.plain import plain
from embeddings.change.raster_pair import PairWindow, ScenePair
from embeddings.dense import Tile
from embeddings.errors import InputError, NoDataError

SEED = 0
SIDE = 256
"""Pixels of a side of the windows that are sampled."""
MOST_VALUES = 16_000_000
"""Pixels times bands that are fitted to; a pair with fewer is fitted to as a whole."""
MIN_COMPARED = 0.25
"""Of a window: with fewer pixels it is fitted to only where there are no better ones."""
SHIFT_SIDE, SMALLEST_SIDE = 128, 64
SHIFT_WINDOWS, ENOUGH_WINDOWS = 32, 6
"""At most so many windows tell the shift; where fewer than the second fit, they overlap."""
FAR_PX = 2.0
"""After a larger shift the rest is measured again, where the windows show the same places."""
ONE_VALUE = 1e-6
"""Values that differ by so small a part are one: resampling rounds."""
ENOUGH_PIXELS = 2000
"""Of fewer, 2 % to 9 % of unchanged pixels exceeded a stated 5 %; of more, 4 % to 7 %."""

Floats = NDArray[np.float32]
Check = Callable[[], None]


@dataclass(frozen=True)
class PairFit:
    """What is fitted to a pair before any window is scored."""

    shift: Shift
    applied: bool
    model: PixelChange
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        shift = {name: plain(value) for name, value in asdict(self.shift).items()}
        return {
            "shift": shift,
            "applied": self.applied,
            "model": self.model.to_json(),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote down."""
        told: dict[str, Any] = {
            k: float("nan") if v is None else v for k, v in found["shift"].items()
        }
        model = PixelChange.from_json(found["model"])
        return cls(Shift(**told), bool(found["applied"]), model, tuple(found["notes"]))


def fit_pair(pair: ScenePair, *, register: bool, check: Check) -> PairFit:
    """Measure and undo the shift, then fit the model; leaves the pair moved.

    ``check`` is called between windows and may raise. Raises NoDataError or InputError.
    """
    sample = _sampled(pair, check)
    _check_differ(sample)
    _check_varied(sample)
    shift, moved, notes = NOT_FOUND, False, _few_notes(sample)
    if register:
        shift, moved, sample = _registered(pair, sample, check)
        notes.append(shift_note(shift, pair.before.pixel_m, undone=moved))
    groups = band_groups(pair.facts())
    model = PixelChange.fit([(window.before, window.after) for window in sample], groups=groups)
    return PairFit(shift, moved, model, tuple(notes))


def _registered(
    pair: ScenePair, sample: list[PairWindow], check: Check
) -> tuple[Shift, bool, list[PairWindow]]:
    """Measure the shift and move the pair by it, if it is sure; return it and the sample there.

    The shift is what the pair was moved by last, or the one that was not sure enough to move by.
    """
    shift = _shift(sample)
    if not shift.significant:
        return shift, False, sample
    pair.move(shift)
    sample = _sampled(pair, check)
    if shift.length > FAR_PX:
        refined = _refined(shift, _shift(sample))
        # What too few windows tell of the rest does not make the first shift doubtful.
        if refined.significant and refined != shift:
            shift = refined
            pair.move(shift)
            sample = _sampled(pair, check)
    return shift, True, sample


def shift_note(shift: Shift, pixel_m: tuple[float, float], *, undone: bool) -> str:
    """Say in words how far the dates lie apart, and what was done."""
    if not shift.agreeing:
        return (
            f"The co-registration of the dates could not be measured ({shift.tried} windows "
            "tried): nothing was moved."
        )
    down, right = shift.row * pixel_m[0], shift.col * pixel_m[1]
    error = f"+/- {shift.error:.2f} pixels, " if np.isfinite(shift.error) else ""
    where = (
        f"{abs(shift.row):.2f} pixels {'down' if shift.row >= 0 else 'up'} and "
        f"{abs(shift.col):.2f} {'right' if shift.col >= 0 else 'left'} "
        f"({abs(down):.1f} m and {abs(right):.1f} m; {error}"
        f"{shift.agreeing} of {shift.tried} windows agree)"
    )
    if undone:
        return f"Date 2 lies {where}: this was undone."
    return f"Date 2 lies {where}: not enough to be sure of or to matter, so nothing was moved."


def _refined(first: Shift, rest: Shift) -> Shift:
    """Add what is left after a shift, if it is known."""
    if not rest.agreeing:
        return first
    return Shift(
        first.row + rest.row,
        first.col + rest.col,
        rest.error,
        rest.spread,
        rest.agreeing,
        rest.found,
        rest.tried,
    )


def _shift(sample: Sequence[PairWindow]) -> Shift:
    windows = [pair for window in sample for pair in _cut(window)]
    order = np.random.default_rng(SEED).permutation(len(windows))[:SHIFT_WINDOWS]
    return find_shift([windows[i] for i in sorted(order.tolist())]) if windows else NOT_FOUND


def _cut(window: PairWindow) -> Iterator[tuple[Floats, Floats]]:
    """Cut a window into squares for phase correlation; a small one into squares that overlap."""
    height, width = window.coverage.shape
    side = min(SHIFT_SIDE, max(SMALLEST_SIDE, min(height, width) // 2))
    step = side if height * width >= ENOUGH_WINDOWS * side * side else side // 2
    for row in range(0, height - side + 1, step):
        for col in range(0, width - side + 1, step):
            at = np.s_[row : row + side, col : col + side]
            if (window.coverage[at] == Coverage.COMPARED).mean() >= MIN_VALID:
                yield window.before[:, *at], window.after[:, *at]


def _sampled(pair: ScenePair, check: Check) -> list[PairWindow]:
    """Return the whole pair as one window, or windows from all over it. Raises NoDataError."""
    height, width, bands = pair.grid.height, pair.grid.width, len(pair.bands)
    if height * width * bands <= MOST_VALUES:
        tiles, most = [Tile(0, 0, height, width)], 1
    else:
        tiles = list(Tile(0, 0, height, width).split((SIDE, SIDE)))
        most = max(1, MOST_VALUES // (SIDE * SIDE * bands))
    good: list[PairWindow] = []
    poor: list[PairWindow] = []
    seen = [False, False]
    for number in np.random.default_rng(SEED).permutation(len(tiles)).tolist():
        check()
        tile = tiles[number]
        window = pair.read(tile.row, tile.col, tile.height, tile.width)
        share = float((window.coverage == Coverage.COMPARED).mean())
        seen[0] |= bool(np.isfinite(window.before[0]).any())
        seen[1] |= bool(np.isfinite(window.after[0]).any())
        if share >= MIN_COMPARED:
            good.append(window)
        elif share > 0 and len(poor) < most:
            poor.append(window)
        if len(good) == most:
            break
    if not good and not poor:
        raise _nothing(*seen)
    return good or poor


def _nothing(before: bool, after: bool) -> NoDataError:
    if before and after:
        return NoDataError(
            "No pixel has data at both dates. Give dates that show the same place without cloud."
        )
    which = "Neither date has" if not (before or after) else f"Date {2 if before else 1} has no"
    return NoDataError(
        f"{which} {'any ' if not (before or after) else ''}pixel with data: all is nodata or "
        "masked (cloud). Check --nodata and --mask, or give another date."
    )


def _check_differ(sample: Sequence[PairWindow]) -> None:
    if all(np.array_equal(w.before, w.after, equal_nan=True) for w in sample):
        raise InputError(
            "Both dates hold the same values everywhere: it is one image twice. Give files of two "
            "dates."
        )


def _check_varied(sample: Sequence[PairWindow]) -> None:
    """Raise InputError if every band of a date has one value in all that is compared."""
    for date in (1, 2):
        bands = len(sample[0].before)
        low, high = np.full(bands, np.inf), np.full(bands, -np.inf)
        for window in sample:
            scene = window.before if date == 1 else window.after
            values = scene[:, window.coverage == Coverage.COMPARED]
            low = np.fmin(low, np.fmin.reduce(values, axis=1, initial=np.inf))
            high = np.fmax(high, np.fmax.reduce(values, axis=1, initial=-np.inf))
        if (high - low <= ONE_VALUE * np.maximum(np.abs(low), np.abs(high))).all():
            raise InputError(
                f"Date {date} has one value in all pixels that are compared, in every band, so it "
                "shows no ground. If that value stands for missing data, name it with --nodata; "
                "else give another file."
            )


def _few_notes(sample: Sequence[PairWindow]) -> list[str]:
    many = sum(int((window.coverage == Coverage.COMPARED).sum()) for window in sample)
    if many >= ENOUGH_PIXELS:
        return []
    return [
        f"Only {many:,} pixels can be compared. The noise is known well enough from about "
        f"{ENOUGH_PIXELS:,} on, so here the scores are rough: of what did not change, twice as "
        "much as stated may be called change, or none."
    ]
