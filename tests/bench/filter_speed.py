"""Searches kept to a polygon and a range of dates: ours over HTTP, LanceDB's in process.

`python tests/bench/filter_speed.py [rows] [folder]`; polygons are boxes, so that SQL can say the
same; every filter is new to the server.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from clusters import NAME, TIMES, Clusters, K, main, recall, row_of, spread, timed
from rivals import installed, lance_table
from served import served

from embed_server.client import Client

SHARES = (0.01, 0.0001)
ASKED, WARM_UP = 100, 10
REFINE = 10


@dataclass(frozen=True)
class Asked:
    """A click on a row, a box (west, south, east, north) and a range of times, ends included."""

    row: int
    box: tuple[float, float, float, float]
    times: tuple[datetime, datetime]
    allowed: np.ndarray
    """Numbers of the rows that meet the filter; the clicked one is none of them."""

    @classmethod
    def drawn(cls, clusters: Clusters, share: float, rng: np.random.Generator) -> Asked:
        """Draw a filter that keeps about a share of the rows: its root by place, as much by time.

        Rows lie evenly between 0 and 60 degrees east, 60 south and 60 north.
        """
        side = share**0.25
        west, south = 60 * rng.uniform(0, 1 - side), 120 * rng.uniform(0, 1 - side) - 60
        box = (west, south, west + 60 * side, south + 120 * side)
        whole = TIMES[1] - TIMES[0]
        first = TIMES[0] + timedelta(
            seconds=int(rng.uniform(0, 1 - share**0.5) * whole.total_seconds())
        )
        times = (first, first + timedelta(seconds=int(share**0.5 * whole.total_seconds())))
        lon, lat, time = (clusters.items[name] for name in ("lon", "lat", "datetime"))
        began, ended = (np.datetime64(each.replace(tzinfo=None)) for each in times)
        inside = (lon >= box[0]) & (lon <= box[2]) & (lat >= box[1]) & (lat <= box[3])
        inside &= (time >= began) & (time <= ended)
        row = int(rng.choice(np.flatnonzero(~inside)))
        return cls(row, box, times, np.flatnonzero(inside))

    @property
    def body(self) -> dict[str, Any]:
        """The filter as the server takes it."""
        west, south, east, north = self.box
        ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
        return {
            "polygons": {"type": "Polygon", "coordinates": [ring]},
            "datetime": "/".join(each.isoformat() for each in self.times),
        }

    @property
    def sql(self) -> str:
        """The filter as LanceDB takes it."""
        west, south, east, north = self.box
        began, ended = (each.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") for each in self.times)
        return (
            f"lon >= {west} AND lon <= {east} AND lat >= {south} AND lat <= {north} "
            f"AND datetime >= TIMESTAMP '{began}' AND datetime <= TIMESTAMP '{ended}'"
        )

    def truth(self, clusters: Clusters) -> set[int]:
        """Return the best min(K, allowed) rows, by an exact scan of those allowed."""
        scores = clusters.vectors[self.allowed] @ clusters.vectors[self.row]
        return set(self.allowed[np.argsort(-scores)[:K]].tolist())


def run(clusters: Clusters) -> dict[str, Any]:
    """Ask with filters that keep 1 % and 0.01 % of the rows."""
    clusters.index()
    table = lance_table(clusters)[0] if installed("lancedb") else None
    figures: dict[str, Any] = {"rows": clusters.count, "k": K}
    with served(clusters.store) as (ready, _), Client.from_ready_file(ready) as client:
        for share in SHARES:
            rng = np.random.default_rng(int(1 / share))
            asked = [Asked.drawn(clusters, share, rng) for _ in range(ASKED + WARM_UP)]
            truth = [each.truth(clusters) for each in asked]
            kept = float(np.median([len(each.allowed) for each in asked]))
            name = f"keeps_{share:.2%}".replace("%", "")
            figures[f"{name}_rows"] = int(kept)
            figures |= _ours(f"{name}_ours", client, clusters, asked, truth)
            if table is not None:
                figures |= _lancedb(f"{name}_lancedb", table, clusters, asked, truth)
    return figures


def _ours(
    name: str, client: Client, clusters: Clusters, asked: list[Asked], truth: list[set[int]]
) -> dict[str, Any]:
    lon, lat = clusters.items["lon"], clusters.items["lat"]

    def search(each: Asked) -> dict[str, Any]:
        place = (float(lon[each.row]), float(lat[each.row]))
        return client.search(NAME, at=place, k=K, filter=each.body)

    timed(search, asked[:WARM_UP])
    times, answers = timed(search, asked[WARM_UP:])
    found = [[row_of(f["id"]) for f in answer["features"]] for answer in answers]
    stages = [answer["timing_ms"] for answer in answers]
    return {
        **_figures(name, times, found, truth[WARM_UP:]),
        f"{name}_stages_ms": {
            stage: round(float(np.median([each[stage] for each in stages])), 2)
            for stage in stages[0]
        },
    }


def _lancedb(
    name: str, table: Any, clusters: Clusters, asked: list[Asked], truth: list[set[int]]
) -> dict[str, Any]:
    figures = {}
    for kind, before in (("prefilter", True), ("postfilter", False)):

        def search(each: Asked, before: bool = before) -> list[int]:
            query = table.search(clusters.vectors[each.row]).where(each.sql, prefilter=before)
            query = query.refine_factor(REFINE).limit(K).select(["row", "_distance"])
            return list(query.to_arrow()["row"].to_pylist())

        timed(search, asked[:WARM_UP])
        times, found = timed(search, asked[WARM_UP:])
        figures |= _figures(f"{name}_{kind}", times, found, truth[WARM_UP:])
    return figures


def _figures(
    name: str, times: list[float], found: list[list[int]], truth: list[set[int]]
) -> dict[str, Any]:
    """Return times, how many results came of how many there are, and how many of the best."""
    pairs = list(zip(found, truth, strict=True))
    return {
        **spread(name, times),
        f"{name}_results_of_{sum(map(len, truth))}": sum(map(len, found)),
        f"{name}_answers_too_short": sum(len(rows) < len(best) for rows, best in pairs),
        f"{name}_recall": round(float(np.mean([recall(*pair) for pair in pairs])), 4),
    }


if __name__ == "__main__":
    sys.exit(main(run))
