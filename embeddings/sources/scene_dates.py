"""When a scene was taken: as the user says, or as its name says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from embeddings.errors import InputError
from embeddings.types import parse_datetime

_DIGITS = {"%Y": r"\d{4}", "%j": r"\d{3}", "%f": r"\d{1,6}", "%%": "%"}
_WORDS = {"%b": r"[^\W\d_]{3,}", "%B": r"[^\W\d_]{3,}"}


def scene_time(asked: str | None, names: Sequence[str]) -> str | None:
    """Return a scene's time as ISO 8601 in UTC.

    ``asked`` is ISO 8601 itself or a strptime pattern such as ``%Y%m%d``, which is looked for in
    the ``names`` in turn (of the scene's first file, of its folder). Raises InputError.
    """
    if asked is None:
        return None
    if "%" not in asked:
        return iso(asked)
    if not re.search("%[YyGcx]", asked):
        raise InputError(
            f"The pattern '{asked}' finds no year. Use strptime codes, for example %Y%m%d or %Y."
        )
    for name in names:
        found = _found(asked, name)
        if found is not None:
            return parse_datetime(found.isoformat()).isoformat()
    raise InputError(
        f"The pattern '{asked}' finds no date in {' or '.join(repr(name) for name in names)}. Use "
        "strptime codes, for example %Y%m%d, or give the date itself."
    )


def iso(text: str) -> str:
    """Return ISO 8601 text as ISO 8601 in UTC. Raises InputError."""
    return parse_datetime(text).isoformat()


def _found(pattern: str, name: str) -> datetime | None:
    """Return the first date in ``name`` that the pattern reads and the calendar has."""
    codes = {**_DIGITS, **_WORDS}
    expression = re.sub(
        r"%[A-Za-z%]|[^%]+|%",
        lambda part: codes.get(
            part[0], r"\d{2}" if part[0][0] == "%" and len(part[0]) == 2 else re.escape(part[0])
        ),
        pattern,
    )
    # A number on its own is meant before digits out of a longer one: 2020 before T0070662020.
    for candidate in (rf"(?<!\d)({expression})(?!\d)", rf"(?=({expression}))"):
        for match in re.finditer(candidate, name):
            try:
                return datetime.strptime(match[1], pattern)
            except (ValueError, re.error):  # a code given twice
                continue
    return None
