"""The world collection: what every place on land looks like, and the script that makes it."""

from __future__ import annotations

from pathlib import Path

NAME = "world"
STORE = Path(__file__).with_name("data")
"""A store that holds the shipped collection alone; it is read only."""

__all__ = ["NAME", "STORE"]
