"""Clicks on a large collection over HTTP: the real server in its own process, its real client.

`python tests/bench/http_speed.py [rows] [folder]`
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from clusters import NAME, Clusters, K, main, recall, row_of, spread, timed
from served import cpu_ms, served

from embed_server.client import Client

WARM_UP, CLICKS, CHECKED = 50, 400, 100
CLIENTS, CLICKS_EACH = 8, 100


def run(clusters: Clusters) -> dict[str, Any]:
    """Click on random rows, one client after the other, then eight at once."""
    clusters.index()
    # All different: the server remembers its last answers.
    many = WARM_UP + CLICKS + CLIENTS * CLICKS_EACH
    rows = np.random.default_rng(3).choice(clusters.count, many, replace=False)
    places = np.stack([clusters.items["lon"], clusters.items["lat"]], axis=1)
    with served(clusters.store) as (ready, pid), Client.from_ready_file(ready) as client:
        start = time.perf_counter()
        _click(client, places[rows[0]])
        figures: dict[str, Any] = {
            "rows": clusters.count,
            "k": K,
            "first_search_ms": round(1000 * (time.perf_counter() - start), 1),
        }
        timed(lambda row: _click(client, places[row]), rows[:WARM_UP])
        clicked = rows[WARM_UP : WARM_UP + CLICKS]
        before = cpu_ms(pid)
        times, answers = timed(lambda row: _click(client, places[row]), clicked)
        figures |= spread("one_client", times)
        if before is not None:
            figures["server_cpu_ms_a_search"] = round((cpu_ms(pid) - before) / CLICKS, 2)
        figures |= _where_it_goes(times, answers)
        each = rows[WARM_UP + CLICKS :].reshape(CLIENTS, CLICKS_EACH)
        figures |= _at_once(ready, places[each])
    figures["stated_recall"] = round(float(np.mean([a["expected_recall"] for a in answers])), 4)
    figures["recall_at_100"] = _recall(clusters, clicked[:CHECKED], answers)
    return figures


def _click(client: Client, place: np.ndarray) -> dict[str, Any]:
    return client.search(NAME, at=(float(place[0]), float(place[1])), k=K)


def _where_it_goes(times: list[float], answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of the server's stages and of what is not in them: JSON, HTTP."""
    stages = [answer["timing_ms"] for answer in answers]
    rest = [wall - sum(stage.values()) for wall, stage in zip(times, stages, strict=True)]
    return {
        **{
            f"stage_{name}_ms": round(float(np.median([stage[name] for stage in stages])), 3)
            for name in stages[0]
        },
        "outside_the_stages_ms": round(float(np.median(rest)), 3),
        # As the server writes it: without spaces.
        "answer_bytes": len(json.dumps(answers[0], separators=(",", ":"))),
    }


def _at_once(ready: Path, places: np.ndarray) -> dict[str, Any]:
    """Let eight clients, threads of this process, click one after the other as fast as they can."""

    def visit(own: np.ndarray) -> list[float]:
        with Client.from_ready_file(ready) as client:
            return timed(lambda place: _click(client, place), own)[0]

    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as threads:
        times = [each for found in threads.map(visit, places) for each in found]
    seconds = time.perf_counter() - start
    return {
        **spread("eight_clients", times),
        "eight_clients_searches_a_second": round(len(times) / seconds, 1),
    }


def _recall(clusters: Clusters, rows: np.ndarray, answers: list[dict[str, Any]]) -> float:
    """Compare with an exact scan of all rows but the one that was clicked on."""
    # One more than needed: the nearest is the row itself.
    truth = clusters.truth(clusters.vectors[rows], K + 1)
    found = []
    for row, best, answer in zip(rows, truth, answers, strict=False):
        ids = {row_of(feature["id"]) for feature in answer["features"]}
        found.append(recall(ids, best - {int(row)}))
    return round(float(np.mean(found)), 4)


if __name__ == "__main__":
    sys.exit(main(run))
