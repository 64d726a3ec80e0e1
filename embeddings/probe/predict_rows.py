"""The rows of a collection that are asked for, scored row group by row group in bounded memory."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from embeddings.errors import CancelledError, InputError, StoreFormatError
from embeddings.probe.beside import Beside
from embeddings.probe.predict_scores import Scorer
from embeddings.probe.predict_scoring import Chunk, Group, Partners, Scoring, Wanted, reading
from embeddings.probe.predict_workers import WorkersWanted
from embeddings.sources.areas import Area
from embeddings.store.collection import Collection, Part, Scene
from embeddings.types import Bounds, TimeRange, parse_datetime

Tell = Callable[[int], None]
"""Called with the rows that are done, whether they were asked for or not."""


class Rows:
    """The row groups of a collection that may hold rows asked for. Making it reads no vector."""

    def __init__(self, beside: Beside, wanted: Wanted, *, oldest_first: bool = False) -> None:
        """Find them. Raises InputError for a scene that is not there, or StoreFormatError."""
        collection = beside.first
        self._beside = beside
        self._wanted = wanted
        sizes = [part.rows for part in collection.parts]
        firsts = [0, *itertools.accumulate(sizes)]
        self._first = {p.file: n for p, n in zip(collection.parts, firsts, strict=False)}
        scenes = _scenes(collection, wanted.scenes)
        if oldest_first:
            scenes = sorted(scenes, key=_time_key)
        self._groups = [
            group
            for scene in scenes
            for part in scene.parts
            if part.rows
            for group in self._groups_of(scene, part)
        ]

    @property
    def count(self) -> int:
        """How many rows will be looked at."""
        return sum(group.rows for group in self._groups)

    @property
    def scenes(self) -> list[Scene]:
        """The scenes that may hold rows asked for, in the order in which they come."""
        return list({group.scene.id: group.scene for group in self._groups}.values())

    @property
    def geometry_types(self) -> set[str]:
        """The types of the footprints in the files of these row groups."""
        found: set[str] = set()
        for path in dict.fromkeys(group.path for group in self._groups):
            with reading(path):
                found |= set(geo_of(path)["columns"]["geometry"]["geometry_types"])
        return found

    def scored(
        self,
        scorer: Scorer,
        columns: Sequence[str],
        workers: WorkersWanted,
        tell: Tell = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Chunk]:
        """Yield the rows with what is said of them, always in the same order and pieces.

        Raises CancelledError, StoreFormatError, or what the workers raise.
        """
        first, *others = self._beside.collections
        scoring = Scoring(scorer, first.spec, self._wanted, tuple(columns), tuple(others))
        todo, done = iter(self._groups), 0
        waiting: deque[tuple[Group, Any]] = deque()
        with workers.started(scoring) as pool:
            try:
                while True:
                    # One more than there are workers is kept ready, so memory stays bounded.
                    while len(waiting) <= pool.count and (group := next(todo, None)) is not None:
                        waiting.append((group, pool.submit(group, self._partners(group))))
                    if not waiting:
                        return
                    if cancelled():
                        raise CancelledError("Stopped as asked. Nothing was written.")
                    group, made = waiting.popleft()
                    chunk = pool.result(made)
                    if chunk is not None:
                        yield chunk
                    done += group.rows
                    tell(done)
            finally:
                for _, made in waiting:
                    made.cancel()

    def _partners(self, group: Group) -> Partners:
        rows = slice(group.first, group.first + group.rows)
        return tuple(each[rows] for each in self._beside.partners)

    def _groups_of(self, scene: Scene, part: Part) -> Iterator[Group]:
        path, first = self._beside.first.path / part.file, self._first[part.file]
        with reading(path):
            meta = pq.read_metadata(path)
        if meta.num_rows != part.rows:
            raise StoreFormatError(
                f"{path.name} of collection '{self._beside.first.id}' has {meta.num_rows:,} rows "
                f"instead of {part.rows:,}. Run 'terrakin verify'."
            )
        for number in range(meta.num_row_groups):
            group = meta.row_group(number)
            if self._may_hold(group):
                yield Group(scene, path, number, group.num_rows, first)
            first += group.num_rows

    def _may_hold(self, group: Any) -> bool:
        """Whether the statistics of a row group leave room for a row asked for."""
        wanted = self._wanted
        if wanted.within is None and not wanted.timed:
            return True
        limits = {
            column.path_in_schema: column.statistics
            for column in map(group.column, range(group.num_columns))
            if column.is_stats_set
        }
        return _meets_area(limits, wanted.within) and _meets_time(
            limits.get("datetime"), wanted.time, group.num_rows
        )


def _scenes(collection: Collection, names: tuple[str, ...]) -> list[Scene]:
    unknown = [name for name in names if collection.scene(name) is None]
    if unknown:
        there = ", ".join(scene.id for scene in collection.scenes[:10])
        raise InputError(
            f"Collection '{collection.id}' has no scene '{unknown[0]}'. Its scenes are {there}"
            f"{' ...' if len(collection.scenes) > 10 else '.'}"
        )
    return [scene for scene in collection.scenes if not names or scene.id in names]


def _time_key(scene: Scene) -> tuple[bool, float]:
    """Scenes without a time come first, then from the oldest on."""
    if scene.datetime is None:
        return False, 0.0
    return True, parse_datetime(scene.datetime).timestamp()


def _meets_area(limits: dict[str, Any], area: Area | None) -> bool:
    lon, lat = (limits.get(name) for name in ("lon", "lat"))
    if area is None or lon is None or lat is None or not (lon.has_min_max and lat.has_min_max):
        return True
    box: Bounds = area.bounds
    if lat.max < box.south or lat.min > box.north:
        return False
    if box.crosses_antimeridian:
        return bool(lon.max >= box.west or lon.min <= box.east)
    return bool(lon.max >= box.west and lon.min <= box.east)


def _meets_time(times: Any, time: TimeRange | None, rows: int) -> bool:
    if time is None or times is None:
        return True
    if not times.has_min_max:
        # A row without a time lies in no range.
        return not (times.has_null_count and times.null_count == rows)
    return not (
        (time.start is not None and times.max < time.start)
        or (time.end is not None and times.min > time.end)
    )


def geo_of(path: Path) -> dict[str, Any]:
    """Return the GeoParquet metadata of a part."""
    return dict(json.loads(pq.read_metadata(path).metadata[b"geo"]))
