"""The options of the random convolutional features, read from the encoder's name."""

from __future__ import annotations

import json

import pytest

from embeddings.encoders.rcf_options import DEFAULT, PRESETS, RcfOptions, parse
from embeddings.errors import InputError


@pytest.mark.parametrize(
    ("options", "height", "width", "levels"),
    [
        ("", 64, 64, [(3, 1), (3, 2), (3, 4)]),
        ("", 63, 80, [(3, 1), (3, 2)]),
        ("", 8, 8, [(3, 1)]),
        ("kernel=3+9", 8, 8, [(3, 1)]),
        ("kernel=3+9,scales=1+2", 32, 32, [(3, 1), (9, 1), (3, 2), (9, 2)]),
        ("scales=2", 8, 8, [(3, 2)]),
    ],
)
def test_scales_and_kernels_that_do_not_fit_are_left_out(
    options: str, height: int, width: int, levels: list[tuple[int, int]]
) -> None:
    assert parse(options).levels(height, width) == levels


def test_options_are_read() -> None:
    assert parse("") == parse("default") == DEFAULT
    assert parse("mosaiks") == PRESETS["mosaiks"]
    text = "features=48,kernel=5+3,scales=1+2,pool=mean,bias=-0.5,turns=4,transform=log"
    expected = RcfOptions(48, (3, 5), (1, 2), "mean", -0.5, 4, "log", "none", 8, 1.0)
    found = parse(f"{text},bands=none,dim=8,whiten=1")
    assert found == expected
    assert RcfOptions.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "no preset 'fast'. There: default, mosaiks"),
        ("size=3", "'size' is no option of rcf"),
        ("bias=1,bias=2", "'bias' is given twice"),
        ("features=10", "features=10 cannot be split over 8 turns .* multiple of 16: 16"),
        ("features=x", "'features=x' is not possible: whole numbers of 2 to 65536"),
        ("kernel=3+3", "no number may come twice"),
        ("kernel=1", "whole numbers of 2 to 31"),
        ("bias=nan", "numbers of -100 to 100"),
        ("pool=max", "mean, mean.std are"),
        ("turns=2", "1, 4, 8 are"),
        ("bias=1,mosaiks", "'mosaiks' is no option"),
        ("dim=", "whole numbers of 0 to 4096"),
    ],
)
def test_wrong_options_are_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)
