"""How much memory the process has used at most; the one place that asks the platform."""

from __future__ import annotations

import sys


def peak_bytes() -> int | None:
    """Return the most memory this process has held at once, or None where nobody tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
