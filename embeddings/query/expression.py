"""Filter expressions: a small part of CQL2 text and SQL, read by a parser of our own.

What comes out is SQL with bound values and the collection's own column names, so nothing of the
text reaches the database as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from embeddings.errors import InputError
from embeddings.spec import EmbeddingSpec
from embeddings.store.reader import quoted
from embeddings.types import parse_datetime

MAX_LENGTH = 10_000
MAX_DEPTH = 50
MAX_VALUES = 1_000

ALLOWED = (
    "Allowed are columns, numbers, 'texts', dates as 'YYYY-MM-DD', TRUE and FALSE, joined by "
    "= <> < <= > >= AND OR NOT IN (...) BETWEEN ... AND ... LIKE IS NULL and parentheses; for "
    "example: cloud < 20 AND class IN ('field', 'forest')."
)

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<text>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")+")
    |(?P<word>[^\W\d]\w*)
    |(?P<sign><>|!=|<=|>=|[=<>(),])""",
    re.VERBOSE,
)
_WORDS = frozenset(("AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "IS", "NULL"))
_LITERALS = frozenset(("TRUE", "FALSE", "DATE", "TIMESTAMP"))
_COMPARE = frozenset(("=", "<>", "!=", "<", "<=", ">", ">="))
_ITEM_KINDS = {
    "id": "string",
    "grid_cell": "string",
    "datetime": "timestamp",
    "lon": "float64",
    "lat": "float64",
}
_FAMILY = {"int64": "number", "float64": "number", "string": "text", "bool": "truth value"}


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on the rows of a collection: SQL, and the values bound in it by name."""

    sql: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class _Operand:
    """A column, or a value; ``family`` is what it may be compared with."""

    sql: str
    family: str
    at: int
    value: Any = None

    @property
    def is_column(self) -> bool:
        return self.value is None


def columns(spec: EmbeddingSpec) -> dict[str, str]:
    """Return the columns that an expression may name, and their types as a spec names them."""
    return {**_ITEM_KINDS, **dict(spec.attributes)}


def parse(text: str, spec: EmbeddingSpec) -> Condition:
    """Turn an expression into a condition on the rows of a collection of that spec.

    ``AND`` binds closer than ``OR``, ``NOT`` closer than both. Comparing with what is null, or
    with a number that is NaN, is neither true nor false, as in SQL. Raises InputError, which says
    where the text cannot be read and what is allowed.
    """
    if len(text) > MAX_LENGTH:
        raise InputError(
            f"The filter has {len(text):,} characters; it may have {MAX_LENGTH:,}. Name items by "
            "their ids, or filter by a polygon."
        )
    parser = _Parser(text, columns(spec))
    sql = parser.any_of()
    parser.end()
    return Condition(sql, parser.values)


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            _refuse(text, at, "this cannot be read")
        if match.lastgroup != "space":
            word, kind = match[0], str(match.lastgroup)
            if kind == "word" and word.upper() in _WORDS | _LITERALS:
                kind, word = "key", word.upper()
            yield _Token(kind, word, at)
        at = match.end()
    yield _Token("end", "", len(text))


def _refuse(text: str, at: int, why: str) -> NoReturn:
    rest = text[at : at + 20]
    where = f"at character {at + 1} ({rest!r})" if rest else "at its end"
    raise InputError(f"The filter cannot be used {where}: {why}. {ALLOWED}")


@dataclass
class _Parser:
    """Recursive descent; each method reads one rule and returns its SQL."""

    text: str
    kinds: dict[str, str]
    values: dict[str, Any] = field(default_factory=dict)
    depth: int = 0

    def __post_init__(self) -> None:
        self._tokens: Sequence[_Token] = tuple(_tokens(self.text))
        self._next = 0

    def any_of(self) -> str:
        """Conditions joined by OR."""
        return self._joined("OR", self.all_of)

    def all_of(self) -> str:
        """Conditions joined by AND."""
        return self._joined("AND", self.negated)

    def end(self) -> None:
        """Nothing may follow."""
        if self._here.kind != "end":
            self._refuse("AND, OR or the end was expected")

    def negated(self) -> str:
        """A condition with NOT before it, or without."""
        turns = 0
        while self._take("NOT"):
            turns += 1
        inner = self.condition()
        return f"(NOT {inner})" if turns % 2 else inner

    def condition(self) -> str:
        """One comparison, or a condition in parentheses."""
        if self._take("("):
            self.depth += 1
            if self.depth > MAX_DEPTH:
                self._refuse(f"more than {MAX_DEPTH} parentheses stand in each other")
            inner = self.any_of()
            self._need(")")
            self.depth -= 1
            return inner
        left = self.operand()
        if self._here.text in _COMPARE:
            return self._compared(left)
        if not left.is_column:
            self._refuse("a comparison was expected after a value")
        if self._take("IS"):
            inverse = "NOT " if self._take("NOT") else ""
            self._need("NULL")
            return f"({left.sql} IS {inverse}NULL)"
        inverse = "NOT " if self._take("NOT") else ""
        for word, rule in (("IN", self._in), ("BETWEEN", self._between), ("LIKE", self._like)):
            if self._take(word):
                return f"({left.sql} {inverse}{rule(left)})"
        if inverse or left.family != "truth value":
            self._refuse("a comparison was expected after a column")
        return left.sql

    def operand(self) -> _Operand:
        """A column or a value."""
        token = self._here
        self._next += 1
        if token.kind in ("word", "quoted"):
            return self._column(token)
        if token.kind == "number":
            return self._bound(_number(token.text), "number", token.at)
        if token.kind == "text":
            return self._bound(_unquoted(token.text), "text", token.at)
        if token.text in ("TRUE", "FALSE"):
            return self._bound(token.text == "TRUE", "truth value", token.at)
        if token.text not in _LITERALS:
            _refuse(self.text, token.at, "a column or a value was expected")
        return self._date()

    def _joined(self, word: str, rule: Any) -> str:
        parts = [rule()]
        while self._take(word):
            parts.append(rule())
        return parts[0] if len(parts) == 1 else "(" + f" {word} ".join(parts) + ")"

    def _compared(self, left: _Operand) -> str:
        sign = self._here.text.replace("!=", "<>")
        self._next += 1
        right = self.operand()
        if not (left.is_column or right.is_column):
            _refuse(self.text, left.at, "two values are compared; one side must be a column")
        if not left.is_column:
            left = self._as(left, right)
        return f"({left.sql} {sign} {self._as(right, left).sql})"

    def _in(self, left: _Operand) -> str:
        self._need("(")
        found = [self._value(left)]
        while self._take(","):
            found.append(self._value(left))
        self._need(")")
        return f"IN ({', '.join(found)})"

    def _between(self, left: _Operand) -> str:
        low = self._value(left)
        self._need("AND")
        return f"BETWEEN {low} AND {self._value(left)}"

    def _like(self, left: _Operand) -> str:
        if left.family != "text":
            _refuse(self.text, left.at, f"LIKE compares texts, and this is a {left.family}")
        return f"LIKE {self._value(left)}"

    def _value(self, column: _Operand) -> str:
        found = self.operand()
        if found.is_column:
            _refuse(self.text, found.at, "a value was expected, not a column")
        return self._as(found, column).sql

    def _as(self, found: _Operand, other: _Operand) -> _Operand:
        """Bring a value to what it is compared with: a text may be a date."""
        if found.family == other.family:
            return found
        if other.family == "date" and found.family == "text" and not found.is_column:
            date = self._time(found.value, found.at)
            self.values[found.sql.removeprefix("$")] = date
            return _Operand(found.sql, "date", found.at, date)
        _refuse(self.text, found.at, f"a {other.family} is compared with a {found.family} here")

    def _date(self) -> _Operand:
        """The text after DATE or TIMESTAMP, in parentheses or without."""
        opened = self._take("(")
        token = self._here
        if token.kind != "text":
            self._refuse("a date in quotes was expected")
        self._next += 1
        if opened:
            self._need(")")
        return self._bound(self._time(_unquoted(token.text), token.at), "date", token.at)

    def _time(self, text: str, at: int) -> datetime:
        try:
            return parse_datetime(text)
        except InputError as error:
            _refuse(self.text, at, str(error).rstrip("."))

    def _column(self, token: _Token) -> _Operand:
        name = token.text
        if token.kind == "quoted":
            name = name[1:-1].replace('""', '"')
        same = [known for known in self.kinds if known.lower() == name.lower()]
        found = name if name in self.kinds else same[0] if len(same) == 1 else None
        if found is None:
            known = ", ".join(self.kinds)
            _refuse(self.text, token.at, f"there is no column {name!r}; there are {known}")
        sql = quoted(found)
        kind = self.kinds[found]
        if kind == "float64" and found not in _ITEM_KINDS:
            # To DuckDB NaN is larger than any number.
            sql = f"(CASE WHEN isnan({sql}) THEN NULL ELSE {sql} END)"
        return _Operand(sql, _FAMILY.get(kind, "date"), token.at)

    def _bound(self, value: Any, family: str, at: int) -> _Operand:
        if isinstance(value, float) and not math.isfinite(value):
            _refuse(self.text, at, "this number is too large")
        if len(self.values) >= MAX_VALUES:
            _refuse(self.text, at, f"there are more than {MAX_VALUES:,} values")
        name = f"value{len(self.values)}"
        self.values[name] = value
        return _Operand(f"${name}", family, at, value)

    @property
    def _here(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, text: str) -> bool:
        here = self._here
        found = here.kind in ("key", "sign") and here.text == text
        self._next += found
        return found

    def _need(self, text: str) -> None:
        if not self._take(text):
            self._refuse(f"{text} was expected")

    def _refuse(self, why: str) -> NoReturn:
        _refuse(self.text, self._here.at, why)


def _unquoted(text: str) -> str:
    return text[1:-1].replace("''", "'")


def _number(text: str) -> int | float:
    """Whole numbers stay whole as far as a column can hold them."""
    if re.fullmatch(r"[+-]?\d{1,18}", text):
        return int(text)
    return float(text)
