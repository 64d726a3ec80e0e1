"""The plugin's version, from the metadata.txt beside it in the package."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def plugin_version() -> str:
    """Return the version that metadata.txt states."""
    metadata = ConfigParser(interpolation=None)
    metadata.read(PACKAGE / "metadata.txt", encoding="utf-8")
    return metadata["general"]["version"]


def icon_path(name: str) -> str:
    """Return the path of an icon of the plugin."""
    return str(PACKAGE / "icons" / name)
