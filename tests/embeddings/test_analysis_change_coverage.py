"""No data is told apart from no change, and why."""

from __future__ import annotations

import itertools

import numpy as np

from embeddings.analysis.change.coverage import Coverage, coverage_of


def test_every_case_has_its_code() -> None:
    cases = np.array(list(itertools.product([True, False], repeat=4))).T
    codes = coverage_of(*cases)
    assert codes.dtype == np.uint8
    for (one, two, hidden, masked), code in zip(cases.T, codes, strict=True):
        if not one and not two:
            assert code == Coverage.NO_DATA
        elif not one:
            assert code == Coverage.NO_DATA_BEFORE
        elif not two:
            assert code == Coverage.NO_DATA_AFTER
        else:
            assert code == (Coverage.MASKED if hidden or masked else Coverage.COMPARED)


def test_the_codes_are_those_of_the_documentation() -> None:
    told = {int(kind): kind.label for kind in Coverage}
    assert told == {
        0: "compared",
        1: "no data at date 1",
        2: "no data at date 2",
        3: "no data at both dates",
        4: "masked",
    }
