"""A labelled sample of a map → accuracy and areas with confidence intervals, for a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.area_accuracy import AreaReport, Estimate, estimate
from embeddings.errors import InputError, SourceError, SourceNotFoundError
from embeddings.probe.report import columns
from embeddings.probe.sampling import LAYER, REFERENCE, STRATA

SHOWN = 5
FEW_ELSEWHERE = 5
"""Places of a class outside its stratum below which its intervals cover less than they say."""

CONFIDENCE = 0.95
SOURCE = (
    "Olofsson, Foody, Herold, Stehman, Woodcock and Wulder (2014), Good practices for estimating "
    "area and assessing accuracy of land change, Remote Sensing of Environment 148, 42-57"
)


@dataclass(frozen=True, eq=False)
class MapAccuracy:
    """What a labelled sample says of its map.

    ``counts (q, q)``: rows by map, columns by reference, in the order of ``whole.classes``; areas
    in hectares. ``whole`` counts unknown as wrong; ``named`` is of what the map names, None where
    it names all. ``named_share`` of the area.
    """

    sampled: int
    without_reference: int
    counts: NDArray[np.int64]
    whole: AreaReport
    named: AreaReport | None
    named_share: float
    unknown: str | None
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of map and reference."""
        return tuple(each.name for each in self.whole.classes)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; areas are in hectares."""
        named = None if self.named is None else asdict(self.named.overall_accuracy)
        return {
            "method": SOURCE,
            "sampled": self.sampled,
            "without_reference": self.without_reference,
            "unknown": self.unknown,
            "named_share": self.named_share,
            "overall_accuracy_of_named": named,
            "counts": self.counts.tolist(),
            "notes": list(self.notes),
            **self.whole.to_json(),
        }

    def lines(self) -> list[str]:
        """Return it as text for people."""
        level = f"{self.whole.confidence:.0%}"
        used = self.sampled - self.without_reference
        lines = [
            f"{used:,} of {self.sampled:,} sampled places have a reference. Intervals: {level} "
            "confidence.",
            f"Overall accuracy: {plus_minus(self.whole.overall_accuracy)} of the mapped area"
            + (", unknown counted as wrong." if self.named is not None else "."),
        ]
        if self.named is not None:
            lines.append(
                f"Of the {self.named_share:.1%} of the area that the map names: "
                f"{plus_minus(self.named.overall_accuracy)}."
            )
        lines += ["", *columns([HEAD, *self.rows()]), "", *self._matrix()]
        return [*lines, *(f"Note: {text}" for text in self.notes)]

    def rows(self) -> list[list[str]]:
        """Return the rows of the table under HEAD, as text."""
        rows = []
        for each in self.whole.classes:
            unknown = each.name == self.unknown
            rows.append(
                [
                    each.name,
                    f"{each.mapped_area:,.1f}",
                    "-" if unknown else plus_minus(each.area, ",.1f"),
                    "-" if unknown else plus_minus(each.users_accuracy),
                    "-" if unknown else plus_minus(each.producers_accuracy),
                    f"{each.sampled:,}",
                ]
            )
        return rows

    def _matrix(self) -> list[str]:
        head = ["map \\ reference", *self.classes]
        body = [
            [name, *(f"{count:,}" for count in row)]
            for name, row in zip(self.classes, self.counts.tolist(), strict=True)
        ]
        return ["Sampled places by map (rows) and reference (columns):", *columns([head, *body])]


HEAD = ["class", "mapped ha", "estimated ha", "user's accuracy", "producer's accuracy", "places"]


def plus_minus(value: Estimate, form: str = ".3f") -> str:
    """Return an estimate with half its interval; - where nothing tells."""
    if np.isnan(value.value):
        return "-"
    if np.isnan(value.half_width):
        return format(value.value, form)
    return f"{value.value:{form}} ± {value.half_width:{form}}"


def assess(
    path: Path,
    field: str = REFERENCE,
    *,
    confidence: float = CONFIDENCE,
    merge_classes: bool = False,
) -> MapAccuracy:
    """Estimate accuracy and areas from a sample whose ``field`` holds the true classes.

    Places without a reference are left out; their class is taken to be like that of the others of
    their stratum. ``merge_classes`` joins references that differ from a class of the map only in
    capitals. Raises InputError, SourceError or SourceNotFoundError.
    """
    strata, mapped, reference = _read(path, field)
    names = [str(name) for name in strata["map_class"]]
    unknown = next((n for n, u in zip(names, strata["unknown"], strict=True) if u), None)
    said = _matched([_text(value) for value in reference], names, field, merge=merge_classes)
    there = [name is not None for name in said]
    if not any(there):
        raise InputError(
            f"No place of '{path}' has a class in the field '{field}'. Fill in what is there on "
            "the ground; leave it empty only where you cannot tell."
        )
    _check_references(said, mapped, names, unknown)
    classes = (*names, *sorted({n for n in said if n is not None} - set(names)))
    number = {name: i for i, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for on_map, truth in zip(mapped, said, strict=True):
        if truth is not None:
            counts[number[on_map], number[truth]] += 1
    areas = np.zeros(len(classes))
    areas[: len(names)] = strata["area_ha"]
    whole = estimate(counts, areas, classes, confidence)
    named, share = None, 1.0
    if unknown is not None:
        kept = np.where(np.array(classes, object) == unknown, 0.0, areas)
        share = float(kept.sum() / areas.sum())
        named = estimate(counts, kept, classes, confidence) if share > 0 else None
    notes = [
        *_notes(there, mapped, classes, names),
        *_changed_note(mapped, dict(zip(names, strata["sampled"], strict=True))),
        *_zero_note(whole, unknown, dict(zip(names, strata["units"], strict=True))),
        *_omitted_note(counts, classes, unknown, int(np.sum(strata["units"]))),
    ]
    return MapAccuracy(
        len(said), there.count(False), counts, whole, named, share, unknown, tuple(notes)
    )


def _read(path: Path, field: str) -> tuple[dict[str, list[Any]], list[str], list[Any]]:
    """Return the strata, and the map's class and the reference of each place."""
    if not path.is_file():
        raise SourceNotFoundError(f"There is no file '{path}'. Name what 'probe sample' wrote.")
    import pyogrio.raw  # late: it takes a third of the server's start
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        layers = {str(name) for name in pyogrio.list_layers(path)[:, 0]}
        if not {LAYER, STRATA} <= layers:
            raise InputError(
                f"'{path}' has no layer '{LAYER}' with its table '{STRATA}', which says how much "
                "area each class has. Give the GeoPackage that 'probe sample' wrote, with the "
                "references filled in there."
            )
        strata, places = (_columns(pyogrio.raw.read(path, layer=n)) for n in (STRATA, LAYER))
    except (DataSourceError, DataLayerError, ValueError) as error:
        raise SourceError(f"'{path}' cannot be read as a sample: {error}") from error
    missing = {"map_class", "units", "area_ha", "sampled", "unknown"} - set(strata)
    if missing or "map_class" not in places:
        raise SourceError(
            f"'{path}' lacks columns of a sample ({', '.join(sorted(missing)) or 'map_class'}). "
            "Draw a new one with 'probe sample'."
        )
    if field not in places:
        raise InputError(
            f"The sample has no field '{field}'. Its fields are {', '.join(places)}; name the one "
            "with the true classes."
        )
    mapped = [str(name) for name in places["map_class"]]
    strange = set(mapped) - {str(name) for name in strata["map_class"]}
    if strange:
        raise SourceError(
            f"'{path}' has places of the map's class '{min(strange)}', which its table '{STRATA}' "
            "does not have. The field 'map_class' must stay as it was drawn."
        )
    return strata, mapped, places[field]


def _columns(read: Any) -> dict[str, list[Any]]:
    meta, _, _, values = read
    return {str(name): list(column) for name, column in zip(meta["fields"], values, strict=True)}


def _text(value: Any) -> str | None:
    """Return a class as text; None where nothing was filled in."""
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value).strip() or None


def _matched(
    said: Sequence[str | None], names: Sequence[str], field: str, *, merge: bool
) -> list[str | None]:
    """Bring references to the spelling of the map's classes, if asked to."""
    spelled = {_folded(name): name for name in names}
    other = {s for s in said if s is not None and spelled.get(_folded(s), s) != s}
    if other and not merge:
        shown = ", ".join(f"'{s}' and '{spelled[_folded(s)]}'" for s in sorted(other)[:SHOWN])
        raise InputError(
            f"References in '{field}' and classes of the map differ only in spaces or capitals: "
            f"{shown}. Correct the field, or join them with --merge-classes."
        )
    return [None if s is None else spelled.get(_folded(s), s) for s in said]


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def _check_references(
    said: Sequence[str | None], mapped: Sequence[str], names: Sequence[str], unknown: str | None
) -> None:
    if unknown is not None and unknown in said:
        raise InputError(
            f"'{unknown}' is what the map says where it names no class; on the ground there is "
            "some class. Fill it in, or leave the field empty where you cannot tell."
        )
    labelled = [m for m, s in zip(mapped, said, strict=True) if s is not None]
    few = {name: labelled.count(name) for name in names if labelled.count(name) < 2}
    if few:
        shown = ", ".join(f"'{name}' ({count})" for name, count in few.items())
        raise InputError(
            "Each class on the map needs two sampled places with a reference at least, since of "
            f"one no spread can be told. Too few: {shown}. Label more of the sample there."
        )


def _notes(
    there: Sequence[bool], mapped: Sequence[str], classes: Sequence[str], names: Sequence[str]
) -> list[str]:
    notes = []
    empty = [name for name, known in zip(mapped, there, strict=True) if not known]
    if empty:
        most = max(set(empty), key=empty.count)
        notes.append(
            f"{len(empty):,} places have no reference and are left out (most of them '{most}' on "
            "the map). If they are the difficult ones, the accuracy is flattered."
        )
    new = [f"'{name}'" for name in classes[len(names) :]]
    if new:
        notes.append(f"Classes that the map lacks: {', '.join(new)}.")
    return notes


def _changed_note(mapped: Sequence[str], drawn: Mapping[str, int]) -> list[str]:
    """Say where the layer no longer holds the places that were drawn at random."""
    other = [
        f"'{name}' {mapped.count(name):,} where {count:,} were drawn"
        for name, count in drawn.items()
        if mapped.count(name) != count
    ]
    if not other:
        return []
    return [
        f"The places are not those that were drawn: {'; '.join(other[:SHOWN])}. The intervals hold "
        "for places drawn at random only. Leave a place in whose class you cannot tell, and add "
        "none by hand."
    ]


def _omitted_note(
    counts: NDArray[np.int64], classes: Sequence[str], unknown: str | None, units: int
) -> list[str]:
    """Say which intervals rest on next to nothing found outside what the map calls so."""
    elsewhere = counts.sum(axis=0) - np.diag(counts)
    few = [
        f"'{name}' ({count})"
        for name, count in zip(classes, elsewhere.tolist(), strict=True)
        if count < FEW_ELSEWHERE and name != unknown
    ]
    if not few or counts.sum() >= units:
        return []
    return [
        "Estimated hectares and producer's accuracy hang on what was found of a class where the "
        f"map says otherwise. Of these it is fewer than {FEW_ELSEWHERE} places, so that their "
        f"intervals are rough and may be too narrow: {', '.join(few)}."
    ]


def _zero_note(whole: AreaReport, unknown: str | None, units: Mapping[str, int]) -> list[str]:
    """Say what an interval of nothing means, unless every unit of the class was looked at."""
    named = [
        each
        for each in whole.classes
        if each.name != unknown and each.sampled < units.get(each.name, 0)
    ]
    sure = [each for each in named if each.users_accuracy.half_width == 0]
    if not sure:
        return []
    fewest = min(sure, key=lambda each: each.sampled)
    return [
        "An interval of 0 does not mean that there is no error: all places of the class agreed. "
        f"Of '{fewest.name}' with {fewest.sampled:,} places, up to about "
        f"{min(1.0, 3 / fewest.sampled):.0%} may still be otherwise."
    ]
