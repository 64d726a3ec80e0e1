"""The values of a field → classes, numbers or several classes a label, and why they were so taken.

Spaces around a text are taken off; an empty one is no label. Names that differ only in spaces or
capitals are never joined, nor kept apart, without being asked for.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embeddings.analysis.samples import TASKS, Task
from embeddings.errors import InputError

MOST_CODES = 30
"""An integer field with no more different values is taken as classes."""
MOST_CLASSES = 1000
LARGEST = 1e30
"""Numbers beyond stand for no data, as -3.4e38 does; their squares overflow."""
SHOWN = 5


@dataclass(frozen=True)
class FieldOptions:
    """How a field is to be read; None leaves a choice to its values.

    ``separator`` parts the classes of one text ("urban;water"). ``merge_classes``: True joins
    names that differ only in spaces or capitals, False keeps them apart, None refuses them.
    """

    task: Task | None = None
    separator: str | None = None
    merge_classes: bool | None = None


@dataclass(frozen=True, eq=False)
class Targets:
    """What each of ``n`` labels says.

    ``feature (m,)`` and ``code (m,) int64``: label ``feature`` says class ``classes[code]``; once
    a label but for "multilabel". For "number" ``code`` is 0 and ``number (n,) float64`` the value.
    A label without any is ``null (n,)``, one whose number is not finite is ``not_finite (n,)``.
    """

    task: Task
    classes: tuple[str, ...]
    feature: NDArray[np.int64]
    code: NDArray[np.int64]
    number: NDArray[np.float64] | None
    null: NDArray[np.bool_]
    not_finite: NDArray[np.bool_]
    why: str


def positives(count: int, name: str) -> Targets:
    """Make the targets of labels that all say the same: here it is."""
    return Targets(
        "positive",
        (name,),
        np.arange(count),
        np.zeros(count, np.int64),
        None,
        np.zeros(count, bool),
        np.zeros(count, bool),
        "No field was given: all labels are places where the class was found (task positive).",
    )


def targets_of(field: str, column: pa.Array, options: FieldOptions) -> Targets:
    """Read the values of a field. Raises InputError, with the values that are the matter."""
    if options.task is not None and options.task not in TASKS:
        raise InputError(
            f"'{options.task}' is not a task. Give {', '.join(TASKS[:-1])} or {TASKS[-1]}."
        )
    task, why = _task(field, column, options)
    if column.null_count == len(column):
        raise InputError(
            f"All {len(column):,} values of field '{field}' are null. Fill it in, or name another "
            "field."
        )
    if task == "number":
        return _numbers(field, column, why)
    return _classes(field, column, task, options, why)


def _task(field: str, column: pa.Array, options: FieldOptions) -> tuple[Task, str]:
    """Return the task, and a sentence that says why it was taken."""
    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise InputError(
            f"Field '{field}' holds bytes that are no text. If the file is a table, save it in "
            "the encoding UTF-8; else give a field of text or numbers."
        )
    if pa.types.is_temporal(kind) or pa.types.is_struct(kind):
        raise InputError(
            f"Field '{field}' holds {kind}, which is neither a class nor a number. Give a field "
            "of text or numbers; dates of labels go into --date-field."
        )
    if options.task is not None:
        return options.task, f"Field '{field}' was taken as {options.task}, as asked for."
    if _is_list(kind) or options.separator is not None:
        how = "lists" if _is_list(kind) else f"texts parted by '{options.separator}'"
        return "multilabel", f"Field '{field}' holds {how}: several classes a place (multilabel)."
    if pa.types.is_integer(kind):
        distinct = len(pc.unique(column.drop_null()))
        if distinct <= MOST_CODES:
            return "classes", (
                f"Field '{field}' holds integers with {distinct} different values and was taken "
                f"as classes, as up to {MOST_CODES} are. --task number takes them as numbers."
            )
        return "number", (
            f"Field '{field}' holds integers with {distinct:,} different values and was taken as "
            f"a number, as more than {MOST_CODES} are. --task classes takes them as classes."
        )
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number", (
            f"Field '{field}' holds decimal numbers and was taken as a number. --task classes "
            "takes whole ones as classes."
        )
    return "classes", f"Field '{field}' holds text and was taken as classes."


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _numbers(field: str, column: pa.Array, why: str) -> Targets:
    """Read numbers, from text too where all of it is numbers. Raises InputError."""
    if _is_list(column.type):
        raise InputError(f"Field '{field}' holds lists; give a field with one number a label.")
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if _is_text(column.type):
        column = _parsed(field, _trimmed(_blank_to_null(column)))
    null = np.asarray(pc.is_null(column).to_numpy(zero_copy_only=False))
    number = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    usable = np.flatnonzero(np.isfinite(number) & ~null)
    check_largest(f"Field '{field}'", number[usable])
    return Targets(
        "number",
        (),
        usable,
        np.zeros(len(usable), np.int64),
        number,
        null,
        ~np.isfinite(number) & ~null,
        why,
    )


def check_largest(what: str, numbers: NDArray[np.float64]) -> None:
    """Raise InputError if a number is too large to be a measurement."""
    odd = numbers[np.abs(numbers) > LARGEST]
    if len(odd):
        raise InputError(
            f"{what} holds {_some([f'{value:g}' for value in odd[:1000]])}, which stands for no "
            "data rather than for a measurement. Make it null (of a raster: nodata) first."
        )


def _parsed(field: str, column: pa.Array) -> pa.Array:
    encoded = column.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    values = [_number(text) for text in texts]
    bad = [text for text, value in zip(texts, values, strict=True) if value is None]
    if bad:
        raise InputError(
            f"Field '{field}' holds text that is no number: {_some(bad)}. Correct it, or fit "
            "classes with --task classes."
        )
    found = np.array([*values, np.nan], np.float64)
    at = encoded.indices.fill_null(len(texts)).to_numpy()
    return pa.array(found[at], mask=np.asarray(column.is_null()))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _classes(field: str, column: pa.Array, task: Task, options: FieldOptions, why: str) -> Targets:
    feature, texts = _texts(field, column, options.separator if task == "multilabel" else None)
    encoded = texts.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    code = encoded.indices.to_numpy().astype(np.int64)
    if not names:
        raise InputError(
            f"All {len(column):,} values of field '{field}' are empty. Fill it in, or name another "
            "field."
        )
    if len(names) > MOST_CLASSES:
        raise InputError(
            f"Field '{field}' has {len(names):,} different values, for example {_some(names)}; at "
            f"most {MOST_CLASSES} classes can be told apart. Is it a number (--task number), or "
            "the wrong field?"
        )
    counts = np.bincount(code, minlength=len(names))
    names, to = _alike(field, names, counts, options.merge_classes)
    if task == "positive" and len(names) > 1:
        raise InputError(
            f"Field '{field}' holds {len(names)} classes ({_some(names)}), but for the task "
            "positive all labels are of one. Leave --field out, or give a layer of one class."
        )
    order = sorted(range(len(names)), key=lambda i: _sort_key(names[i]))
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names))
    # Once a label, even where a list names a class twice.
    feature, code = np.divmod(np.unique(feature * len(names) + place[to[code]]), len(names))
    null = np.ones(len(column), bool)
    null[feature] = False
    classes = tuple(names[i] for i in order)
    none = np.zeros(len(column), bool)
    return Targets(task, classes, feature, code, None, null, none, why)


def _texts(field: str, column: pa.Array, separator: str | None) -> tuple[NDArray[np.int64], Any]:
    """Return what the labels say as texts, none of them empty, and whose label each is."""
    kind = column.type
    if not (_is_list(kind) or _is_text(kind)):
        column = _as_text(field, column)
    if separator is not None and not _is_list(kind):
        if not separator:
            raise InputError("The separator of classes is empty. Give for example ';'.")
        column = pc.split_pattern(column, separator)
    if _is_list(column.type):
        feature = pc.list_parent_indices(column).to_numpy().astype(np.int64)
        column = column.flatten()
        column = column if _is_text(column.type) else _as_text(field, column)
    else:
        feature = np.arange(len(column))
    if separator is not None:
        column = _trimmed(column)
    column = _blank_to_null(column)
    there = ~np.asarray(column.is_null())
    return feature[there], column.drop_null()


def _as_text(field: str, column: pa.Array) -> pa.Array:
    """Return whole numbers and truth values as text. Raises InputError for other numbers."""
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        values = column.cast(pa.float64())
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))
        odd = values.filter(pc.not_equal(values, pc.round(values))).to_pylist()
        if odd:
            raise InputError(
                f"Field '{field}' holds numbers that are not whole ({_some(odd)}) and cannot be "
                "classes. Use --task number."
            )
        column = values.cast(pa.int64())
    return column.cast(pa.string())


def _is_text(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def _blank_to_null(column: pa.Array) -> pa.Array:
    column = column.cast(pa.string())
    return pc.if_else(pc.equal(_trimmed(column), ""), pa.scalar(None, pa.string()), column)


def _trimmed(column: pa.Array) -> pa.Array:
    return pc.utf8_trim_whitespace(column.cast(pa.string()))


def _alike(
    field: str, names: list[str], counts: NDArray[np.int64], merge: bool | None
) -> tuple[list[str], NDArray[np.int64]]:
    """Return names, and which of them each of the old ones becomes. Raises InputError.

    Spaces around a name are taken off, unless another name differs by them and is kept apart.
    """
    kin: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        kin[_folded(name)].append(i)
    doubtful = [group for group in kin.values() if len(group) > 1]
    if not doubtful or merge is False:
        apart = names if doubtful else [name.strip() for name in names]
        return apart, np.arange(len(names))
    if merge is None:
        shown = "; ".join(
            " and ".join(f"'{names[i]}' ({counts[i]:,})" for i in group)
            for group in doubtful[:SHOWN]
        )
        raise InputError(
            f"Classes of field '{field}' differ only in spaces or capitals: {shown}. Say whether "
            "they are the same: --merge-classes joins them under the commonest name, "
            "--keep-classes keeps them apart."
        )
    merged: list[str] = []
    to = np.empty(len(names), np.int64)
    for group in kin.values():
        to[group] = len(merged)
        merged.append(names[max(group, key=lambda i: counts[i])].strip())
    return merged, to


def _folded(name: str) -> str:
    """Return what names have in common that differ only in spaces, capitals or composition."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def _sort_key(text: str) -> tuple[bool, int, str]:
    """Sort whole numbers by value, before all other names."""
    whole = text.removeprefix("-").isdecimal()
    return not whole, int(text) if whole else 0, text


def _some(values: Sequence[Any]) -> str:
    """Return the first few different values as text."""
    distinct = list(dict.fromkeys(values))
    more = ", ..." if len(distinct) > SHOWN else ""
    return ", ".join(f"'{value}'" for value in distinct[:SHOWN]) + more
