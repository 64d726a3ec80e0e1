"""What a run of ``embed raster`` is asked for, and what it reports."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from embeddings.errors import InputError
from embeddings.spec import EmbeddingSpec
from embeddings.types import parse_datetime

CHIP = "32"
DTYPE = "float16"
SOURCE = "user imagery"
LICENCE = "proprietary"


@dataclass(frozen=True, slots=True)
class RasterJob:
    """What to embed, and where to. The files are the bands of one scene.

    ``chip`` and ``stride`` are "32" (pixels) or "320m"; ``nodata`` a number, "none" (embed
    everything the files do not mask) or None (look at the corners); ``datetime`` ISO 8601 or a
    strptime pattern that stands in the first file's name. None stands for what the collection
    has, or else for the defaults above.
    """

    store: Path
    collection: str
    files: tuple[str, ...]
    encoder: str = "rcf"
    chip: str | None = None
    stride: str | None = None
    nodata: str | float | None = None
    offset: float | None = None
    datetime: str | None = None
    scene: str | None = None
    dtype: str | None = None
    source: str | None = None
    licence: str | None = None
    replace: bool = False

    def choices(self, known: EmbeddingSpec | None) -> Choices:
        """Return what was asked for or else is chosen; ``known`` is the collection appended to."""
        chip = self.chip or CHIP
        own = Choices(chip, self.stride or chip, DTYPE, SOURCE, LICENCE)
        if known is not None and known.layout is not None:
            layout = known.layout
            own = Choices(
                layout.chip_asked, layout.stride_asked, known.dtype, known.source, known.licence
            )
        asked = {field.name: getattr(self, field.name) for field in fields(Choices)}
        return replace(own, **{name: value for name, value in asked.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Choices:
    """The options of a job that a collection may answer."""

    chip: str
    stride: str
    dtype: str
    source: str
    licence: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, in chips."""

    done: int
    total: int
    message: str


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """What a run did: chips planned, stored and absent for lack of data; resumed from before."""

    collection: str
    scene: str
    planned: int
    embedded: int
    absent: int
    resumed: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return asdict(self)


def nodata_rule(nodata: str | float | None) -> tuple[float | None, bool]:
    """Return the nodata value, and whether to look for one. Raises InputError."""
    if nodata is None:
        return None, True
    if nodata == "none":
        return None, False
    try:
        value = float(nodata)
        # NaN and infinity never are data, so nothing is to be looked for.
        return (value if math.isfinite(value) else None), False
    except ValueError:
        raise InputError(
            f"--nodata {nodata} is not a number. Give the value that marks missing "
            "pixels, or 'none'."
        ) from None


def scene_time(job: RasterJob) -> datetime | None:
    """Return the scene's time: ISO 8601 as given, or found in the file name by a % pattern."""
    if job.datetime is None:
        return None
    if "%" not in job.datetime:
        return parse_datetime(job.datetime)
    digits = {"%Y": r"\d{4}", "%j": r"\d{3}", "%%": "%"}
    pattern = re.sub(
        r"%[A-Za-z%]|[^%]+",
        lambda m: digits.get(m[0], r"\d{2}" if m[0][0] == "%" else re.escape(m[0])),
        job.datetime,
    )
    name = Path(job.files[0]).name
    found = re.search(pattern, name)
    try:
        if found is None:
            raise ValueError
        return parse_datetime(datetime.strptime(found[0], job.datetime).isoformat())
    except ValueError:
        raise InputError(
            f"The pattern '{job.datetime}' finds no date in '{name}'. Use strptime "
            "codes, for example %Y%m%d, or give the date itself."
        ) from None
