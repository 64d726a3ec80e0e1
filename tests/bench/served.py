"""The real server in a process of its own, for the benches that ask over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TERRAKIN = Path(sys.executable).with_name("terrakin")


@contextmanager
def served(store: Path) -> Iterator[tuple[Path, int]]:
    """Serve a store for the length of a with block; yield the ready file and the process id."""
    ready = store.parent / "ready.json"
    command = [TERRAKIN, "serve", "--store", store, "--ready-file", ready, "--stop-with-stdin"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            if not process.stdout.readline():
                raise RuntimeError("the server did not start")
            yield ready, process.pid
        finally:
            process.stdin.close()


def cpu_ms(pid: int) -> float | None:
    """Return how long a process has computed: what other programs disturb least. Linux only."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
