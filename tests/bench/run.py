"""``make bench``: us and our rivals in one process run; prints ratios, writes build/bench.json.

`python tests/bench/run.py [name ...]` runs some. Each is written as soon as it is done.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import change_collections
import change_dense
import change_quality
import change_speed
import embed_speed
import filter_speed
import http_speed
import index_speed
import location_quality
import location_speed
import probe_quality
import probe_scales
import probe_speed
import quality
import query_quality
import queue_quality
import rcf_quality
import rcf_speed
import recall_honesty
import search_speed
import world_quality
from clusters import Clusters

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


def _of_clusters() -> dict[str, Any]:
    """Run the benches that share a large collection, which is gone afterwards."""
    with Clusters.written() as clusters:
        return {
            "index": index_speed.run(clusters),
            "http": http_speed.run(clusters),
            "filters": filter_speed.run(clusters),
        }


BENCHES: dict[str, Callable[[], dict[str, Any]]] = {
    "search": search_speed.run,
    "clusters": _of_clusters,
    "recall": partial(recall_honesty.run, DATA),
    "queries": partial(query_quality.run, DATA),
    "embed": partial(embed_speed.run, DATA),
    "rcf": rcf_speed.run,
    "rcf_probes": partial(rcf_quality.run, DATA),
    "locations": location_speed.run,
    "quality": partial(quality.run, DATA),
    "world": partial(world_quality.run, DATA),
    "probes": partial(probe_quality.run, DATA),
    "probe_scales": partial(probe_scales.run, DATA),
    "queue": partial(queue_quality.run, DATA),
    "change": partial(change_quality.run, DATA),
    "change_collections": partial(change_collections.run, DATA),
    "change_dense": partial(change_dense.run, DATA),
    "change_speed": change_speed.run,
    "probe_speed": probe_speed.run,
    "location_probes": partial(location_quality.run, DATA),
}


def main() -> int:
    """Run every bench, or those named; print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    names = parser.parse_args().names or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        parser.error(f"There is no bench '{unknown[0]}'; there are {', '.join(BENCHES)}.")
    results: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    out = ROOT / "build" / "bench.json"
    out.parent.mkdir(exist_ok=True)
    for bench in names:
        results[bench] = BENCHES[bench]()
        out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{bench}:")
        for name, value in results[bench].items():
            print(f"  {name:<44} {value}", flush=True)
    print(f"Written to {out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
