"""The values of a field become classes, numbers or several classes, and the report says why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from embeddings.errors import InputError
from embeddings.probe.label_classes import FieldOptions, Targets, positives, targets_of


def read(values: list[Any], kind: pa.DataType | None = None, **options: Any) -> Targets:
    return targets_of("f", pa.array(values, kind), FieldOptions(**options))


def said(targets: Targets) -> list[tuple[int, str]]:
    pairs = zip(targets.feature.tolist(), targets.code.tolist(), strict=True)
    return [(feature, targets.classes[code]) for feature, code in pairs]


def test_text_is_trimmed_and_empty_text_is_no_label() -> None:
    found = read(["wood ", None, "", "  ", "water", "wood "])
    assert found.task == "classes"
    assert found.classes == ("water", "wood")
    assert said(found) == [(0, "wood"), (4, "water"), (5, "wood")]
    assert found.null.tolist() == [False, True, True, True, False, False]


def test_integers_are_classes_if_they_are_few_else_a_number() -> None:
    few = read([10, 2, None, 10])
    assert (few.task, few.classes) == ("classes", ("2", "10"))
    assert "2 different values" in few.why
    assert "--task number" in few.why
    many = read(list(range(31)))
    assert many.task == "number"
    assert "31 different values" in many.why
    assert read(list(range(30))).task == "classes"
    assert read([1, 2], task="number").number.tolist() == [1.0, 2.0]  # type: ignore[union-attr]
    assert len(read(list(range(31)), task="classes").classes) == 31


def test_decimal_numbers_are_a_number_and_what_is_not_finite_is_told() -> None:
    found = read([0.5, None, float("nan"), float("-inf"), 2.0])
    assert found.task == "number"
    assert found.feature.tolist() == [0, 4]
    assert found.null.tolist() == [False, True, False, False, False]
    assert found.not_finite.tolist() == [False, False, True, True, False]
    assert read([1.0, 2.0, None], task="classes").classes == ("1", "2")
    with pytest.raises(InputError, match=r"not whole \('0.5'\)"):
        read([1.0, 0.5], task="classes")


def test_numbers_in_text_and_text_among_them() -> None:
    found = read([" 1.5", "2e3", "", None], task="number")
    assert found.number is not None
    np.testing.assert_array_equal(found.number[:2], [1.5, 2000.0])
    assert found.null.tolist() == [False, False, True, True]
    with pytest.raises(InputError, match=r"no number: 'high', 'n/a'\. .*--task classes"):
        read(["1", "high", "n/a", "high"], task="number")


@pytest.mark.parametrize(
    "values",
    [
        ["Sand", "sand"],
        ["Wet Sand", "WetSand"],
        ["Sand", "S and"],
        ["É", "E\u0301"],
        ["Sand", "Sand "],
    ],
)
def test_names_that_differ_in_spaces_or_capitals_only_are_asked_about(values: list[str]) -> None:
    with pytest.raises(InputError, match=r"--merge-classes .*--keep-classes") as caught:
        read([*values, values[1]])
    assert f"'{values[0]}' (1) and '{values[1]}' (2)" in str(caught.value)
    merged = read([*values, values[1]], merge_classes=True)
    assert merged.classes == (values[1].strip(),)
    assert merged.code.tolist() == [0, 0, 0]
    assert set(read(values, merge_classes=False).classes) == set(values)


def test_other_names_are_not_alike() -> None:
    assert read(["Sand", "Sandy", "Band"]).classes == ("Band", "Sand", "Sandy")


def test_several_classes_in_a_text_or_a_list() -> None:
    text = read(["a;b", "b ; ;b", "", None], separator=";")
    assert text.task == "multilabel"
    assert said(text) == [(0, "a"), (0, "b"), (1, "b")]
    assert text.null.tolist() == [False, False, True, True]
    lists = read([["b", "a"], [], None, ["c"]])
    assert said(lists) == [(0, "a"), (0, "b"), (3, "c")]
    numbers = read([[2, 1], [10]])
    assert numbers.classes == ("1", "2", "10")
    with pytest.raises(InputError, match="separator of classes is empty"):
        read(["a"], separator="")


def test_positives_are_of_one_class() -> None:
    assert positives(3, "ponds").classes == ("ponds",)
    assert read(["pond", "pond"], task="positive").classes == ("pond",)
    with pytest.raises(InputError, match="holds 2 classes"):
        read(["pond", "wood"], task="positive")


def test_what_is_neither_class_nor_number_is_refused() -> None:
    with pytest.raises(InputError, match="All 2 values of field 'f' are null"):
        read([None, None], pa.string())
    with pytest.raises(InputError, match="All 2 values of field 'f' are empty"):
        read(["", " "])
    with pytest.raises(InputError, match="--date-field"):
        read([1, 2], pa.date32())
    with pytest.raises(InputError, match="'regression' is not a task"):
        read([1, 2], task="regression")
    with pytest.raises(InputError, match="1,001 different values"):
        read([str(i) for i in range(1001)])


def test_truth_values_are_classes() -> None:
    assert read([True, False, None]).classes == ("false", "true")


@pytest.mark.parametrize("marker", [-3.4028235e38, 1e308])
def test_markers_of_no_data_are_no_numbers(marker: float) -> None:
    with pytest.raises(InputError, match="stands for no data"):
        targets_of("f", pa.array([1.5, marker, 2.5]), FieldOptions())


def test_bytes_that_are_no_text_say_so() -> None:
    with pytest.raises(InputError, match="encoding UTF-8"):
        targets_of("f", pa.array([b"W\xe4lder", b"b"]), FieldOptions())
