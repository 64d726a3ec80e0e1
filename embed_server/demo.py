"""The demo: the whole path on one scene, through the real server. Prints what it does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from embed_server.client import Client
from embed_server.errors import ServerError
from embeddings.errors import CancelledError
from embeddings.export import write_places
from embeddings.picture import draw_results
from embeddings.pipeline import Progress, RasterJob, embed_raster
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import Reading
from embeddings.sources.synthetic import COVERS, cover_map, write_scene
from embeddings.types import LonLat

COLLECTION = "demo"
K = 50
QUERIES = 10
PURE = 0.9
"""Queries are chips with this share of one cover."""
EXCLUDE_M = 300.0
SEED = 0
START_WAIT_S = 60.0

Say = Callable[[str], None]


def run(
    files: Sequence[str],
    out: Path,
    *,
    at: LonLat | None,
    nodata: str | None,
    chip: str,
    progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
    say: Say = print,
) -> None:
    """Embed ``files`` (or a made-up scene), serve, search around ``at``, export into ``out``.

    Writes ``places.gpkg`` and ``map.png``. Raises TerrakinError.
    """
    made_up = not files
    if made_up:
        files = [str(path) for path in write_scene(out / "scene", seed=SEED)]
        say(f"Made a scene of 10 x 10 km from seed {SEED}: {out / 'scene'}")
    started = time.perf_counter()
    job = RasterJob(
        out / "store",
        COLLECTION,
        tuple(files),
        chip=chip,
        nodata=nodata,
        scene="scene",
        replace=True,
    )
    report = embed_raster(job, progress, cancelled)
    say(
        f"Embedded {report.embedded:,} chips of {chip} in "
        f"{time.perf_counter() - started:.1f} s; {report.absent:,} have no data."
    )
    for text in report.notes:
        say(f"Note: {text}")
    with server(out / "store", out / "ready.json") as client:
        say(f"Serving at {client.url}")
        if made_up:
            chip_px = client.collection(COLLECTION)["spec"]["layout"]["chip_px"][0]
            at = _score_covers(client, chip_px, say)
        place = at or _middle(client)
        answer = client.search(COLLECTION, place.lonlat(), k=K, exclude_m=EXCLUDE_M)
    if cancelled():
        raise CancelledError("Stopped as asked.")
    say(
        f"Searched {answer['considered']:,} places for the kin of {place.lon:.4f}, "
        f"{place.lat:.4f} in {sum(answer['timing_ms'].values()):.0f} ms; cosine "
        f"{_cosine(answer, -1):.2f} to {_cosine(answer, 0):.2f}."
    )
    write_places(answer, out / "places.gpkg")
    _draw(answer, files, nodata, place, out / "map.png")
    say(
        f"Wrote {out / 'places.gpkg'} and {out / 'map.png'}. Open the first in QGIS, or start\n"
        f"'terrakin serve --store {out / 'store'}' and click in the Terrakin dock."
    )


def _score_covers(client: Client, chip_px: int, say: Say) -> LonLat:
    """Search from several places of each land cover of the made-up scene, whose truth is known.

    Returns a place in the town.
    """
    truth = cover_map(SEED)
    items = client.items(COLLECTION, limit=10_000)["features"]
    covers, shares = zip(*(_cover(truth, item["id"], chip_px) for item in items), strict=True)
    cover_of = dict(zip((item["id"] for item in items), covers, strict=True))
    places: dict[int, LonLat] = {}
    say(
        f"Share of the best {K} matches that have the query's cover, mean of {QUERIES} queries\n"
        "from each (in brackets its share of all places):"
    )
    for cover in sorted(set(covers)):
        own = [i for i in range(len(items)) if covers[i] == cover]
        pure = [i for i in own if shares[i] >= PURE] or own
        right = []
        for i in pure[:: max(1, len(pure) // QUERIES)][:QUERIES]:
            at = items[i]["properties"]
            places.setdefault(cover, LonLat(at["lon"], at["lat"]))
            found = client.search(COLLECTION, (at["lon"], at["lat"]), k=K, exclude_m=EXCLUDE_M)
            right += [cover_of[feature["id"]] == cover for feature in found["features"]]
        say(f"  {COVERS[cover]:<10} {np.mean(right):4.0%}  ({len(own) / len(items):.0%})")
    return places[COVERS.index("town")]


def _cover(truth: NDArray[np.uint8], item_id: str, chip_px: int) -> tuple[int, float]:
    """Return the commonest class in a chip and its share of the chip's pixels."""
    row, col = (int(number) * chip_px for number in item_id.rsplit("_", 2)[1:])
    counts = np.bincount(truth[row : row + chip_px, col : col + chip_px].ravel())
    return int(counts.argmax()), float(counts.max() / counts.sum())


@contextmanager
def server(store: Path, ready_file: Path) -> Iterator[Client]:
    """Run ``terrakin serve`` as a process of its own and yield a client."""
    ready_file.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "embed_server.cli",
        "serve",
        "--store",
        str(store),
        "--ready-file",
        str(ready_file),
        "--stop-with-stdin",
    ]
    log = ready_file.with_name("server.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as messages,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise ServerError(f"The server did not start; its messages stand in {log}.")
            with Client.from_ready_file(ready_file) as client:
                yield client
        finally:
            process.stdin.close()
            process.wait(START_WAIT_S)


def _cosine(answer: dict[str, Any], rank: int) -> float:
    return float(answer["features"][rank]["properties"]["similarity"])


def _middle(client: Client) -> LonLat:
    """Return the centre of the chip nearest to the middle of all chips."""
    items = client.items(COLLECTION, limit=10_000)["features"]
    places = np.array([[f["properties"]["lon"], f["properties"]["lat"]] for f in items])
    away = np.abs(places - np.median(places, axis=0)).sum(axis=1)
    return LonLat(*places[int(np.argmin(away))])


def _draw(
    answer: dict[str, Any], files: Sequence[str], nodata: str | None, place: LonLat, out: Path
) -> None:
    fixed = float(nodata) if nodata not in (None, "none") else None
    reading = Reading(nodata=fixed, detect_nodata=nodata is None)
    with RasterScene.open(files, reading) as scene:
        names, hidden = scene.bands, scene.nodata
    shapes = [shapely.geometry.shape(f["geometry"]) for f in answer["features"]]
    draw_results(
        out,
        _true_colour(files, names),
        shapely.geometry.shape(answer["query"]["geometry"]),
        shapes,
        [f["properties"]["similarity"] for f in answer["features"]],
        f"The {len(shapes)} places most like {place.lon:.4f}, {place.lat:.4f}",
        nodata=hidden,
    )


def _true_colour(files: Sequence[str], names: Sequence[str]) -> list[Path]:
    """Choose red, green and blue: B04, B03, B02 where there are files of these names."""
    by_name = dict(zip(names, files, strict=False)) if len(names) == len(files) else {}
    chosen = [by_name.get(band) for band in ("B04", "B03", "B02")]
    if all(chosen):
        return [Path(str(file)) for file in chosen]
    if len(files) == 1 and len(names) >= 3:
        return [Path(files[0])]
    return [Path(files[min(i, len(files) - 1)]) for i in (2, 1, 0)]
