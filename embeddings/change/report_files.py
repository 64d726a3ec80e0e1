"""Reports as files: a page for people, or the same as data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embeddings.atomic import write_text


def write_reports(
    paths: Sequence[Path], report: Mapping[str, Any], html: Callable[[], str]
) -> None:
    """Write a report to each path, .json, or .html as ``html`` makes it. Raises StoreError."""
    for path in paths:
        if path.suffix.lower() == ".json":
            write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
        else:
            write_text(path, html())
