"""A stratified random sample of a map, as a layer in which the truth is to be filled in.

Strata are the classes of the map; "unknown" is one of them. Its places get a reference class like
all others, so that the areas of classes stay unbiased; in the accuracy of the whole map they count
as wrong, for there the map names nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embeddings import __version__
from embeddings.analysis.area_accuracy import FEWEST_A_STRATUM, allocate, sample_size
from embeddings.errors import InputError
from embeddings.probe.layer_file import write_layer
from embeddings.probe.lottery import check_seed
from embeddings.probe.map_units import MapUnits, open_map

LAYER = "sample"
STRATA = "strata"
REFERENCE = "reference"
MINIMUM = 50
EXPECTED_ACCURACY = 0.8


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """How large a sample is: ``total`` units, or as many as give ``standard_error``.

    ``minimum`` units of every class, however rare. ``expected_accuracy`` is a guess of the
    accuracy of every class, from which a standard error is planned.
    """

    total: int | None = None
    minimum: int = MINIMUM
    standard_error: float | None = None
    expected_accuracy: float = EXPECTED_ACCURACY
    seed: int = 0

    def check(self) -> None:
        """Raise InputError if a field cannot be used, whatever the map says."""
        check_seed(self.seed)
        if (self.total is None) == (self.standard_error is None):
            raise InputError("Give the number of places to sample, or a standard error: one only.")
        if self.total is not None and self.total < 1:
            raise InputError(f"{self.total} places to sample were asked for; ask for 1 or more.")
        if self.minimum < FEWEST_A_STRATUM:
            raise InputError(
                f"The minimum is {self.minimum} places a class; of fewer than {FEWEST_A_STRATUM} "
                "no spread can be told."
            )
        if not 0 < self.expected_accuracy < 1:
            raise InputError(
                f"The accuracy expected is {self.expected_accuracy:g}; give a share between 0 and "
                "1, such as 0.8."
            )


@dataclass(frozen=True, eq=False)
class MapSample:
    """Places of a map in random order, and the strata that they stand for.

    ``places`` has ``id``, ``unit``, ``map_class``, ``lon``, ``lat``, ``geometry`` and an empty
    ``reference``; ``strata`` has ``map_class``, ``units``, ``area_ha``, ``sampled``, ``unknown``.
    """

    places: pa.Table
    strata: pa.Table
    notes: tuple[str, ...]
    provenance: dict[str, Any]


def draw_sample(path: Path, options: SampleOptions) -> MapSample:
    """Draw a sample of the units of a map, at random within each class, by area.

    Classes with a single unit are left out, and with them their area. Raises InputError,
    SourceError or SourceNotFoundError.
    """
    options.check()
    found = open_map(path)
    names = np.array(found.strata.names, object)
    units = np.array(found.strata.units, np.int64)
    areas = np.array(found.strata.area_ha)
    order = np.lexsort((names.astype(str), names == found.unknown))
    kept = order[units[order] >= FEWEST_A_STRATUM]
    if not len(kept):
        raise InputError(f"No class of '{path}' has two units or more; there is nothing to sample.")
    names, gone, units, areas = (
        names[kept],
        names[units < FEWEST_A_STRATUM],
        units[kept],
        areas[kept],
    )
    total = options.total or _planned(options, units, areas, names == found.unknown)
    sizes = allocate(total, areas, units, options.minimum)
    places = _drawn(found, names, sizes, options.seed)
    strata = pa.table(
        {
            "map_class": pa.array(names, pa.string()),
            "units": units,
            "area_ha": areas,
            "sampled": sizes,
            "unknown": pa.array(names == found.unknown, pa.bool_()),
        }
    )
    notes = _notes(gone, len(places), options)
    said = {
        "terrakin": __version__,
        "map": path.name,
        "map_provenance": found.provenance,
        "seed": options.seed,
        "minimum": options.minimum,
    }
    return MapSample(places, strata, notes, said)


def write_sample(sample: MapSample, path: Path) -> None:
    """Write layer ``sample`` and table ``strata``; QGIS hides the map's class from the labeller."""
    more = {STRATA: sample.strata}
    write_layer(path, LAYER, sample.places, sample.provenance, more, _hiding())


def _planned(
    options: SampleOptions,
    units: NDArray[np.int64],
    areas: NDArray[np.float64],
    unknown: NDArray[Any],
) -> int:
    assert options.standard_error is not None  # check has seen that one is given
    # Unknown is never right, so it has no spread.
    expected = np.where(unknown.astype(bool), 0.0, options.expected_accuracy)
    count = sample_size(areas / areas.sum(), expected, options.standard_error)
    return max(count, int(np.minimum(options.minimum, units).sum()))


def _drawn(
    found: MapUnits,
    names: NDArray[Any],
    sizes: NDArray[np.int64],
    seed: int,
) -> pa.Table:
    table = found.draw(dict(zip(names.tolist(), sizes.tolist(), strict=True)), seed)
    # In an order that says nothing of the class.
    table = table.take(np.random.default_rng(seed).permutation(table.num_rows))
    table = table.add_column(0, "id", pa.array(np.arange(1, table.num_rows + 1)))
    return table.append_column(REFERENCE, pa.nulls(table.num_rows, pa.string()))


def _notes(gone: NDArray[Any], drawn: int, options: SampleOptions) -> tuple[str, ...]:
    notes = []
    if len(gone):
        listed = ", ".join(f"'{name}'" for name in gone)
        notes.append(
            f"Left out, with their area, since of one unit no spread can be told: {listed}."
        )
    if options.total is not None and drawn < options.total:
        notes.append(f"The map has only {drawn:,} units; all are in the sample.")
    return tuple(notes)


def _hiding() -> str:
    """Return a QGIS style that hides what the map says, so that the labeller judges by himself."""
    qgis = Xml.Element("qgis", version="3.22.0", styleCategories="Fields|Forms|AttributeTable")
    fields = Xml.SubElement(qgis, "fieldConfiguration")
    field = Xml.SubElement(fields, "field", name="map_class")
    widget = Xml.SubElement(field, "editWidget", type="Hidden")
    Xml.SubElement(Xml.SubElement(widget, "config"), "Option")
    table = Xml.SubElement(Xml.SubElement(qgis, "attributetableconfig"), "columns")
    for name in ("id", "unit", "map_class", "lon", "lat", REFERENCE):
        hidden = str(int(name == "map_class"))
        Xml.SubElement(table, "column", type="field", name=name, hidden=hidden, width="-1")
    return Xml.tostring(qgis, encoding="unicode")
