"""``make bench``: us and our rivals in one process run; prints ratios, writes build/bench.json."""

from __future__ import annotations

import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import embed_speed
import filter_speed
import http_speed
import index_speed
import location_quality
import location_speed
import probe_quality
import probe_speed
import quality
import query_quality
import rcf_quality
import rcf_speed
import recall_honesty
import search_speed
import world_quality
from clusters import Clusters

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


def main() -> int:
    """Run every bench, print a line for each figure."""
    results: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "system": platform.system(),
        },
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "search": search_speed.run(),
        **_of_clusters(),
        "recall": recall_honesty.run(DATA),
        "queries": query_quality.run(DATA),
        "embed": embed_speed.run(DATA),
        "rcf": rcf_speed.run(),
        "rcf_probes": rcf_quality.run(DATA),
        "locations": location_speed.run(),
        "quality": quality.run(DATA),
        "world": world_quality.run(DATA),
        "probes": probe_quality.run(DATA),
        "probe_speed": probe_speed.run(),
        "location_probes": location_quality.run(DATA),
    }
    out = ROOT / "build" / "bench.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    for bench, figures in list(results.items())[2:]:
        print(f"{bench}:")
        for name, value in figures.items():
            print(f"  {name:<44} {value}")
    print(f"Written to {out}.")
    return 0


def _of_clusters() -> dict[str, Any]:
    """Run the benches that share a large collection, which is gone afterwards."""
    with Clusters.written() as clusters:
        return {
            "index": index_speed.run(clusters),
            "http": http_speed.run(clusters),
            "filters": filter_speed.run(clusters),
        }


if __name__ == "__main__":
    sys.exit(main())
