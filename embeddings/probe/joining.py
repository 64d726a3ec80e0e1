"""Labels joined to the chips of a collection, with a report of all that was left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.samples import Task
from embeddings.errors import InputError
from embeddings.probe.join_report import SHOWN, Dropped, JoinReport
from embeddings.probe.label_classes import Targets
from embeddings.probe.label_places import extent
from embeddings.probe.label_raster import LabelRaster
from embeddings.probe.labelled import Joined, chips_dropped, class_table, present
from embeddings.probe.labels import Drop, Kind, LabelLayer, Labels
from embeddings.probe.matching import Pairs
from embeddings.probe.raster_join import match_raster, raster_box
from embeddings.probe.resolving import Resolved, Terms, resolve
from embeddings.probe.vector_join import JoinOptions, Rule, match_layer
from embeddings.store.collection import Collection
from embeddings.store.reader import Reader

RULES: tuple[Rule, ...] = ("centre", "share", "contains")
LITTLE = "no class covers the least share of it"
CONFLICTS = {
    "drop": "it has several classes",
    "majority": "it has several classes of the same weight",
}


def join(
    collection: Collection,
    labels: Labels,
    options: JoinOptions | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> Joined:
    """Give chips their labels by a rule; ``tick`` hears how many chips more were seen.

    Raises InputError if no label can be used, with the extents of labels and collection, or if an
    option is not one.
    """
    options = options or JoinOptions()
    raster = isinstance(labels, LabelRaster)
    if options.conflicts is None:
        options = replace(options, conflicts="majority" if raster else "drop")
    rule = options.rule or ("share" if raster else "centre")
    _check(options, rule)
    reader = Reader(collection)
    if isinstance(labels, LabelRaster):
        return _join_raster(reader, labels, rule, options, tick)
    return _join_layer(reader, labels, rule, options, tick)


def _check(options: JoinOptions, rule: str) -> None:
    if rule not in RULES:
        raise InputError(f"'{rule}' is not a rule. Give {', '.join(RULES[:-1])} or {RULES[-1]}.")
    if options.conflicts not in ("drop", "majority"):
        raise InputError(f"'{options.conflicts}' is not drop or majority.")
    if not 0 <= options.min_share <= 1:
        raise InputError(f"A least share of {options.min_share:g} is not between 0 and 1.")
    if not options.tolerance_days >= 0:
        raise InputError(f"A tolerance of {options.tolerance_days:g} days is not 0 or more.")


def _join_layer(
    reader: Reader,
    layer: LabelLayer,
    rule: Rule,
    options: JoinOptions,
    tick: Callable[[int], None],
) -> Joined:
    found = match_layer(layer, reader, rule, options, tick)
    resolved = resolve(found.pairs, layer.targets, found.terms)
    drop = found.drop
    met, enough = np.zeros((2, len(layer)), bool)
    met[found.pairs.label] = True
    met[resolved.used] = False
    enough[found.pairs.label[~np.isin(found.pairs.row, resolved.little)]] = True
    little = np.flatnonzero(met & ~enough)
    drop[met] = list(Drop).index(Drop.CONFLICT)
    drop[little] = list(Drop).index(Drop.LITTLE)
    notes = (*layer.notes, *found.notes, *_little_note(found.pairs, little))
    dropped = _labels_dropped(layer, drop)
    if not len(resolved.row):
        box = layer.boxes[~np.isnan(layer.boxes).any(axis=1)]
        raise _nothing(reader, dropped, extent(box) if len(box) else None, notes)
    counts = np.bincount(layer.targets.code, minlength=len(layer.targets.classes))
    labels: dict[str, int | None] = dict(zip(layer.targets.classes, counts.tolist(), strict=False))
    kinds = np.bincount(layer.kind, minlength=len(Kind)).tolist()
    head = {
        "source": layer.path.name,
        "layer": layer.layer,
        "field": layer.field,
        "crs": layer.crs.name,
        "kinds": tuple((kind.value, kinds[i]) for i, kind in enumerate(Kind) if i),
        "labels_read": len(layer),
        "labels_used": len(resolved.used),
        "dropped": dropped,
        "made_valid": _made_valid(layer),
        "notes": notes,
    }
    return _joined(reader, layer.targets, resolved, rule, options, labels, head)


def _little_note(pairs: Pairs, little: NDArray[np.int64]) -> list[str]:
    """Say how much of a chip those labels cover that cover too little of any."""
    if not len(little):
        return []
    most = np.zeros(int(pairs.label.max()) + 1)
    np.maximum.at(most, pairs.label, pairs.weight)
    return [
        f"{len(little):,} polygons cover too little of any chip; the chip they cover most they "
        f"cover by {np.median(most[little]):.2%} (median). Lower --min-share, embed smaller chips "
        "(--chip), or use --rule contains."
    ]


def _join_raster(
    reader: Reader,
    raster: LabelRaster,
    rule: Rule,
    options: JoinOptions,
    tick: Callable[[int], None],
) -> Joined:
    if rule == "contains":
        raise InputError("The rule contains is for polygons; for a raster give centre or share.")
    share = options.min_share if rule == "share" else None
    found = match_raster(raster, reader, share, tick)
    terms = Terms.of(len(found.pairs.row), majority=options.conflicts == "majority")
    resolved = resolve(found.pairs, found.targets, terms)
    resolved = replace(resolved, little=found.little, group=np.arange(len(resolved.row)))
    if not len(resolved.row):
        little = chips_dropped(reader, found.little, LITTLE)
        raise _nothing(reader, (little,) if little.count else (), raster_box(raster), ())
    head = {
        "source": raster.path.name,
        "layer": "",
        "field": f"band {raster.band}",
        "crs": raster.grid.crs.name,
        "kinds": (),
        "labels_read": None,
        "labels_used": None,
        "dropped": (),
        "made_valid": Dropped("", 0, ()),
        "notes": raster.notes,
    }
    labels = dict.fromkeys(found.targets.classes)
    return _joined(reader, found.targets, resolved, rule, options, labels, head)


def _joined(
    reader: Reader,
    targets: Targets,
    resolved: Resolved,
    rule: Rule,
    options: JoinOptions,
    labels: dict[str, int | None],
    head: dict[str, Any],
) -> Joined:
    target, classes = present(targets.task, resolved.target, targets.classes)
    conflict = CONFLICTS[str(options.conflicts)]
    drops = ((resolved.little, LITTLE), (resolved.conflict, conflict))
    chips = [chips_dropped(reader, rows, reason) for rows, reason in drops]
    notes = _notes(resolved, targets, classes)
    head["notes"] = (*head["notes"], *notes)
    report = JoinReport(
        task=targets.task,
        why=targets.why,
        rule=rule,
        rule_text=_rule_text(
            rule, targets.task, options.min_share, raster=head["labels_read"] is None
        ),
        min_share=options.min_share if rule == "share" else None,
        conflicts=str(options.conflicts),
        collection=reader.collection.id,
        chips=reader.collection.count,
        chips_used=len(resolved.row),
        chips_dropped=tuple(each for each in chips if each.count),
        classes=tuple(class_table(targets.task, target, classes, labels)),
        **head,
    )
    return Joined(targets.task, resolved.row, target, classes, resolved.group, report)


def _notes(resolved: Resolved, targets: Targets, classes: tuple[str, ...]) -> list[str]:
    notes = []
    several = len(resolved.outvoted)
    if targets.task == "number":
        numbers = resolved.target
        notes.append(
            f"The numbers run from {numbers.min():g} to {numbers.max():g}, mean {numbers.mean():g}."
        )
        if several:
            notes.append(f"{several:,} chips have several labels and got their mean.")
    elif several:
        notes.append(f"{several:,} chips have several classes and got the one of most weight.")
    gone = [f"'{name}'" for name in targets.classes if name not in classes]
    if gone:
        more = ", ..." if len(gone) > SHOWN else ""
        notes.append(f"{len(gone)} classes have no chip: {', '.join(gone[:SHOWN])}{more}.")
    return notes


def _rule_text(rule: Rule, task: Task, min_share: float, *, raster: bool) -> str:
    """Say in a sentence which chips get which label."""
    if raster and rule == "centre":
        return "a chip has the label of the pixel at its centre."
    if raster:
        what = {
            "number": "the mean of its pixels, if they are labels on",
            "multilabel": "every class that covers",
        }.get(task, "the class that covers most of it, if it covers")
        return f"a chip has {what} at least {min_share:.0%} of its area."
    areas = {
        "centre": "a polygon labels the chips whose centre lies in it",
        "share": f"a polygon labels the chips of which its class covers at least {min_share:.0%}",
        "contains": "a polygon labels the chips whose centre lies in it, or else the chip that "
        "contains it",
    }[rule]
    return f"{areas}; a point the chip that contains it; a line the chips it crosses."


def _labels_dropped(layer: LabelLayer, drop: NDArray[np.int8]) -> tuple[Dropped, ...]:
    found = []
    for code, reason in enumerate(Drop):
        at = np.flatnonzero(drop == code)
        if len(at):
            found.append(Dropped(reason.value, len(at), _examples(layer, at)))
    return tuple(found)


def _made_valid(layer: LabelLayer) -> Dropped:
    at = layer.made_valid
    return Dropped("its geometry was invalid and was made valid", len(at), _examples(layer, at))


def _examples(layer: LabelLayer, at: NDArray[np.int64]) -> tuple[str, ...]:
    shown = []
    for i in at[:SHOWN].tolist():
        place = layer.place(i)
        where = "" if place is None else f" at {place[0]:.5f}, {place[1]:.5f}"
        shown.append(f"{layer.ids[i]}{where}")
    return tuple(shown)


def _nothing(
    reader: Reader,
    dropped: tuple[Dropped, ...],
    box: tuple[float, ...] | None,
    notes: tuple[str, ...],
) -> InputError:
    """Say why no chip has a label: both extents, and each reason."""
    ours = reader.collection.bounds
    covered = "nothing" if ours is None else _box(ours.west_south_east_north())
    labels = "no place on Earth" if box is None else _box(box)
    why = " ".join(each.line("labels") for each in dropped)
    return InputError(
        f"No chip of collection '{reader.collection.id}' gets a label. The labels cover {labels}; "
        f"the collection {covered} (west, south, east, north in degrees). {why} "
        f"{' '.join(notes)}".rstrip()
    )


def _box(sides: tuple[float, ...]) -> str:
    return ", ".join(f"{side:.5g}" for side in sides)
