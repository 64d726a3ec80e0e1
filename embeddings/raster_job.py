"""What a run of ``embed raster`` is asked for, and what it reports."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from embeddings.errors import InputError
from embeddings.types import parse_datetime


@dataclass(frozen=True, slots=True)
class RasterJob:
    """What to embed, and where to. The files are the bands of one scene.

    ``chip`` and ``stride`` are "32" (pixels) or "320m"; ``nodata`` a number, "none" (embed
    everything the files do not mask) or None (look at the corners); ``datetime`` ISO 8601 or a
    strptime pattern that stands in the first file's name.
    """

    store: Path
    collection: str
    files: tuple[str, ...]
    encoder: str = "rcf"
    chip: str = "32"
    stride: str | None = None
    nodata: str | float | None = None
    offset: float | None = None
    datetime: str | None = None
    scene: str | None = None
    dtype: str = "float16"
    source: str | None = None
    licence: str = "proprietary"
    replace: bool = False


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
        return float(nodata), False
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
