"""What is fitted to a pair before it is scored: the shift that is undone, doubts that are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from embeddings.analysis.change.registration import Shift
from embeddings.change import raster_fit
from embeddings.change.raster_fit import PairFit, fit_pair
from embeddings.change.raster_job import RasterChangeJob
from embeddings.change.raster_pair import PairWindow, ScenePair
from embeddings.errors import InputError
from tests.embeddings.change_scenes import write_date

FAR = (3.0, -4.0)
"""Rows and columns: farther than what is measured once."""


def job(folder: Path, **date: Any) -> RasterChangeJob:
    before = write_date(folder / "before", seed=1, **{k: v for k, v in date.items() if k == "size"})
    after = write_date(folder / "after", seed=2, **date)
    return RasterChangeJob(tuple(before), tuple(after), folder / "score.tif")


def fitted(pair: ScenePair) -> PairFit:
    return fit_pair(pair, register=True, check=lambda: None)


def moves(pair: ScenePair, monkeypatch: pytest.MonkeyPatch) -> list[Shift | None]:
    """What the pair is moved by from now on."""
    told: list[Shift | None] = []
    real = pair.move
    monkeypatch.setattr(pair, "move", lambda shift: (told.append(shift), real(shift)))
    return told


def constant(files: Sequence[str]) -> None:
    """Write one value into every pixel of each file, another one in each."""
    for number, file in enumerate(files):
        with rasterio.open(file, "r+") as target:
            target.write(np.full((1, *target.shape), 700 + number, target.dtypes[0]))


def test_a_far_shift_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScenePair.open(job(tmp_path, shift=FAR)) as pair:
        told = moves(pair, monkeypatch)
        fit = fitted(pair)
    assert len(told) == 2
    assert told[-1] == fit.shift
    assert fit.applied
    assert (fit.shift.row, fit.shift.col) == pytest.approx(FAR, abs=0.05)


def test_a_rest_that_few_windows_tell_leaves_the_first_shift(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read now, what a later run reads and what the note says are one shift."""
    real, seen = raster_fit._shift, []

    def torn(sample: Sequence[PairWindow]) -> Shift:
        seen.append(real(sample))
        return seen[-1] if len(seen) == 1 else replace(seen[-1], row=0.9, agreeing=2, found=9)

    monkeypatch.setattr(raster_fit, "_shift", torn)
    asked = job(tmp_path, shift=FAR)
    with ScenePair.open(asked) as pair:
        told = moves(pair, monkeypatch)
        fit = fitted(pair)
        now = pair.read(40, 40, 60, 60).after
    assert len(seen) == 2
    assert told == [seen[0]]
    assert fit.shift == seen[0]
    assert fit.applied
    assert f"{abs(fit.shift.row):.2f} pixels down" in fit.notes[0]
    assert "this was undone" in fit.notes[0]
    kept = PairFit.from_json(fit.to_json())
    with ScenePair.open(asked) as pair:
        pair.move(kept.shift if kept.applied else None)
        np.testing.assert_array_equal(pair.read(40, 40, 60, 60).after, now)


def test_the_note_has_the_figures_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = raster_fit._shift
    monkeypatch.setattr(  # the first look errs by half a pixel
        raster_fit,
        "_shift",
        lambda sample: (
            found if (found := real(sample)).length < 2 else replace(found, row=found.row + 0.5)
        ),
    )
    with ScenePair.open(job(tmp_path, shift=FAR)) as pair:
        fit = fitted(pair)
    assert fit.shift.row == pytest.approx(FAR[0], abs=0.1)
    assert f"{fit.shift.row:.2f} pixels down and {-fit.shift.col:.2f} left" in fit.notes[0]


@pytest.mark.parametrize(("side", "number"), [("before", 1), ("after", 2)])
@pytest.mark.parametrize("origin", [(0.0, 0.0), (3.0, 2.0)])
def test_a_date_of_one_value_is_refused(
    tmp_path: Path, side: str, number: int, origin: tuple[float, float]
) -> None:
    """Also where it is resampled, which rounds."""
    asked = job(tmp_path, origin=origin)
    constant(getattr(asked, side))
    words = f"Date {number} has one value in all pixels.*--nodata"
    with ScenePair.open(asked) as pair, pytest.raises(InputError, match=words):
        fitted(pair)


def test_one_band_of_one_value_is_no_reason(tmp_path: Path) -> None:
    asked = job(tmp_path)
    constant(asked.after[:1])
    with ScenePair.open(asked) as pair:
        fitted(pair)


@pytest.mark.parametrize(("side", "told"), [(44, "Only 1,936 pixels can be compared"), (45, None)])
def test_few_pixels_are_told(tmp_path: Path, side: int, told: str | None) -> None:
    with ScenePair.open(job(tmp_path, size=(side, side))) as pair:
        notes = [note for note in fitted(pair).notes if note.startswith("Only ")]
    assert [note[: len(told or "")] for note in notes] == ([told] if told else [])
