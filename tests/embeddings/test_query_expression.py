"""Filter expressions mean what SQL says, against an evaluator of our own; all else is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embeddings.errors import InputError
from embeddings.query.expression import MAX_DEPTH, MAX_VALUES, parse
from embeddings.spec import EmbeddingSpec
from embeddings.store import Scene
from embeddings.store.reader import Reader
from embeddings.store.schema import embedding_array
from embeddings.store.writer import CollectionWriter, batch_table

KINDS = (
    ("class", "string"),
    ("cloud", "float64"),
    ("year", "int64"),
    ("sharp", "bool"),
    ("taken", "timestamp"),
    ('od"d; name', "int64"),
)
ROWS: dict[str, list[Any]] = {
    "class": ["field", "forest", None, "o'hare", "FIELD", "f%"],
    "cloud": [0.5, None, 20.0, -3.25, float("nan"), 100.0],
    "year": [2018, 2019, None, 2020, 2018, 2**62],
    "sharp": [True, False, None, True, False, True],
    "taken": [datetime(2018, 10, day, tzinfo=UTC) for day in range(1, 6)] + [None],
    'od"d; name': [1, None, 3, 4, 5, 6],
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Six rows in two parts, as in ROWS."""
    spec = EmbeddingSpec(
        "p", "m", "1", "0" * 64, 4, "float16", None, "none", (), 10.0, None, 10.0, None, "tests",
        "CC0-1.0", attributes=KINDS,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("expressions") / "named"
    writer = CollectionWriter.begin(folder, spec, "CC0-1.0", lambda _: None)
    writer.begin_scene(Scene("a", "", (), None, {}, (0, 0, 1, 1), 6, 0, False, (), ()))
    for part, some in enumerate((slice(0, 4), slice(4, 6))):
        count = len(ROWS["class"][some])
        box = shapely.box(0, 0, 1, 1)
        rows = {
            "id": [f"a{i}" for i in range(6)][some],
            "grid_cell": [None] * count,
            "datetime": ROWS["taken"][some],
            "lon": np.full(count, 0.5),
            "lat": np.full(count, 0.5),
            "bbox": [{"xmin": 0.0, "ymin": 0.0, "xmax": 1.0, "ymax": 1.0}] * count,
            "geometry": [shapely.to_wkb(box)] * count,
            "embedding": embedding_array(np.eye(count, 4, dtype=np.float16)),
            "order": list(range(count)),
        }
        rows |= {name: values[some] for name, values in ROWS.items()}
        writer.stage("a", part, batch_table(rows, spec))
        writer.publish("a", part, [part], count)
    writer.finish_scene("a")
    return Reader(writer.collection)


def found(reader: Reader, text: str) -> list[int]:
    condition = parse(text, reader.collection.spec)
    return reader.matching(condition.sql, condition.values).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("cloud < 20", [0, 3]),
        ("cloud<=20 and not class='field'", [3]),
        ("CLOUD > 1e1", [2, 5]),
        ("NOT cloud > 10", [0, 3]),
        ("NOT NOT cloud > 10", [2, 5]),
        ("cloud IS NULL", [1, 4]),
        ("cloud IS NOT NULL AND year IS NULL", [2]),
        ("class = 'o''hare'", [3]),
        ("class <> 'field'", [1, 3, 4, 5]),
        ("class != 'field'", [1, 3, 4, 5]),
        ("class LIKE 'f%'", [0, 1, 5]),
        ("class NOT LIKE '%e%'", [4, 5]),
        ("class IN ('field', 'forest')", [0, 1]),
        ("class NOT IN ('field')", [1, 3, 4, 5]),
        ("year BETWEEN 2019 AND 2020 OR cloud = 100", [1, 3, 5]),
        ("year NOT BETWEEN 2019 AND 2020", [0, 4, 5]),
        ("2018 = year", [0, 4]),
        ("year = 4611686018427387904", [5]),
        ("year < 99999999999999999999999", [0, 1, 3, 4, 5]),
        ("sharp", [0, 3, 5]),
        ("NOT sharp AND TRUE = TRUE IS NULL", None),
        ("sharp = FALSE", [1, 4]),
        ("taken < '2018-10-03'", [0, 1]),
        ("taken >= DATE '2018-10-04'", [3, 4]),
        ("taken = TIMESTAMP('2018-10-02T02:00:00+02:00')", [1]),
        ("taken BETWEEN '2018-10-02' AND '2018-10-03'", [1, 2]),
        ("taken IN ('2018-10-02')", [1]),
        ("datetime = taken", [0, 1, 2, 3, 4]),
        ("'2018-10-02' > datetime", [0]),
        ('"od""d; name" >= 5', [4, 5]),
        ("id = 'a3' OR id = 'a9'", [3]),
        ("year > lon", [0, 1, 3, 4, 5]),
        ("sharp OR year = 2019 AND cloud IS NULL", [0, 1, 3, 5]),
        ("(sharp OR year = 2019) AND cloud IS NULL", [1]),
        ("class = 'nowhere'", []),
    ],
)
def test_expressions_select_rows(reader: Reader, text: str, rows: list[int] | None) -> None:
    if rows is None:
        with pytest.raises(InputError):
            found(reader, text)
    else:
        assert found(reader, text) == rows


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "at its end: a column or a value was expected"),
        ("cloud", "a comparison was expected after a column"),
        ("cloud <", "at its end"),
        ("cloud < 'clear'", "a number is compared with a text here"),
        ("class = 5", "a text is compared with a number here"),
        ("class = taken", "compared"),
        ("year LIKE '2%'", "LIKE compares texts"),
        ("nowhere = 1", "there is no column 'nowhere'; there are id, grid_cell"),
        ("embedding = 1", "there is no column"),
        ("1 = 1", "two values are compared"),
        ("1", "a comparison was expected after a value"),
        ("cloud = 1e999", "too large"),
        ("taken > 'soon'", "'soon' is not a date"),
        ("(cloud = 1", r"\) was expected"),
        ("cloud = 1)", "AND, OR or the end was expected"),
        ("cloud IN ()", "a column or a value"),
        ("class IN (class)", "a value was expected, not a column"),
        ("cloud = 1; DROP TABLE x", r"at character 10 \('; DROP TABLE x'\)"),
        ("cloud = 1 -- x", "this cannot be read"),
        ("cloud = 1 /* x */", "this cannot be read"),
        ("class = 'a' UNION SELECT 1", "AND, OR or the end was expected"),
        ("lower(class) = 'a'", "there is no column 'lower'"),
        ("cloud = (SELECT 1)", "a column or a value was expected"),
        ("class = $files", "this cannot be read"),
        ("class = 'open", "this cannot be read"),
        ('"class = 1', "this cannot be read"),
        ("year = 1 + 1", "this cannot be read"),
        ("year = 0x10", "this cannot be read"),
        ("(" * (MAX_DEPTH + 1) + "sharp", "parentheses stand in each other"),
        (f"year IN ({','.join(['1'] * (MAX_VALUES + 1))})", "more than 1,000 values"),
        ("sharp OR " * 2000 + "sharp", "10,000"),
    ],
)
def test_what_is_not_allowed_is_told_with_its_place(reader: Reader, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        found(reader, text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("abc clas=<>!'\"();-+*/.,%_$01eE\n") | st.characters(), max_size=40))
def test_any_text_is_read_or_refused(make: str) -> None:
    spec = EmbeddingSpec(
        "p", "m", "1", "0", 4, "float16", None, "none", (), 10.0, None, 10.0, None, "t", "CC0-1.0",
        attributes=KINDS,
    )  # fmt: skip
    for text in (make, f"class = {make}", f"class = '{make}'", f"{make} OR sharp"):
        try:
            condition = parse(text, spec)
        except InputError:
            continue
        assert "'" not in condition.sql
        assert ";" not in condition.sql.replace('"od""d; name"', "")


Answer = bool | None
Rule = tuple[str, Callable[[int], Answer]]
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def value_of(column: str, row: int) -> Any:
    value = ROWS[column][row]
    return None if value is None or value != value else value


def compared(column: str, sign: str, literal: str, other: Any) -> Rule:
    def answer(row: int) -> Answer:
        value = value_of(column, row)
        return None if value is None else _SIGNS[sign](value, other)

    return f"{column} {sign} {literal}", answer


def listed(column: str, some: list[int]) -> Rule:
    def answer(row: int) -> Answer:
        value = value_of(column, row)
        return None if value is None else value in some

    return f"{column} IN ({', '.join(map(str, some))})", answer


def null(column: str) -> Rule:
    return f"{column} IS NULL", lambda row: value_of(column, row) is None


def negated(rule: Rule) -> Rule:
    def answer(row: int) -> Answer:
        inner = rule[1](row)
        return None if inner is None else not inner

    return f"NOT ({rule[0]})", answer


def joined(word: str, left: Rule, right: Rule) -> Rule:
    decides = word == "OR"

    def answer(row: int) -> Answer:
        both = (left[1](row), right[1](row))
        return decides if decides in both else None if None in both else not decides

    return f"({left[0]}) {word} ({right[0]})", answer


NUMBERS = st.one_of(st.integers(-5, 110), st.integers(2017, 2021), st.floats(-50, 150))
SIGNS = st.sampled_from(sorted(_SIGNS))
LEAVES = st.one_of(
    st.builds(
        lambda column, sign, number: compared(column, sign, repr(number), number),
        st.sampled_from(["cloud", "year"]), SIGNS, NUMBERS,
    ),
    st.builds(
        lambda sign, text: compared("class", sign, "'" + text.replace("'", "''") + "'", text),
        SIGNS, st.sampled_from(["field", "o'hare", "FIELD", "", "' OR 1=1 --", "x"]),
    ),
    st.builds(listed, st.just("year"), st.lists(st.integers(2017, 2021), min_size=1, max_size=4)),
    st.builds(null, st.sampled_from(["class", "cloud", "year", "sharp"])),
    st.just(("sharp", lambda row: value_of("sharp", row))),
)  # fmt: skip
RULES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(negated, inner),
        st.builds(joined, st.sampled_from(["AND", "OR"]), inner, inner),
    ),
    max_leaves=8,
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rule=RULES)
def test_random_expressions_agree_with_an_evaluator(reader: Reader, rule: Rule) -> None:
    text, answer = rule
    assert found(reader, text) == [row for row in range(6) if answer(row) is True], text


def test_an_expression_is_one_condition_of_a_query(reader: Reader) -> None:
    folder = Path(reader.collection.path)
    before = sorted(folder.rglob("*"))
    for text in ("class = 'x''); COPY (SELECT 1) TO ''out'' --'", "class = '$files'"):
        assert found(reader, text) == []
    assert sorted(folder.rglob("*")) == before
