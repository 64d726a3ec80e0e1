"""The plugin's settings, in QgsSettings under ``terrakin/``."""

from __future__ import annotations

from dataclasses import dataclass

from qgis.core import QgsSettings
from qgis.PyQt.QtCore import QDir

from .wire import DEFAULT_EXCLUDE_M, DEFAULT_K, MAX_K

GROUP = "terrakin"
STORE_FOLDER = "terrakin-store"
"""In the user's home, where no store is set. Not "terrakin": a clone of the repository is."""


@dataclass(frozen=True)
class Settings:
    """What the user set. An empty text means: not set."""

    command: str = ""
    """Path of the ``terrakin`` command; empty: look on the PATH."""
    store: str = ""
    """The store folder offered first."""
    ready_file: str = ""
    """The ready file last connected to."""
    k: int = DEFAULT_K
    """Number of places to ask for."""
    exclude_m: float = DEFAULT_EXCLUDE_M
    """Distance around the query to leave out, metres."""
    zoom: bool = True
    """Whether to zoom to the results."""

    @classmethod
    def load(cls) -> Settings:
        """Read the settings; values that make no sense fall back to the defaults."""
        stored, base = QgsSettings(), cls()
        k = stored.value(f"{GROUP}/k", base.k, type=int)
        exclude_m = stored.value(f"{GROUP}/exclude_m", base.exclude_m, type=float)
        return cls(
            command=stored.value(f"{GROUP}/command", base.command, type=str),
            store=stored.value(f"{GROUP}/store", base.store, type=str),
            ready_file=stored.value(f"{GROUP}/ready_file", base.ready_file, type=str),
            k=k if 1 <= k <= MAX_K else base.k,
            exclude_m=exclude_m if exclude_m >= 0 else base.exclude_m,
            zoom=stored.value(f"{GROUP}/zoom", base.zoom, type=bool),
        )

    @property
    def store_folder(self) -> str:
        """The store folder that is set, else one in the user's home; the server makes it."""
        return self.store or QDir.home().filePath(STORE_FOLDER)

    def save(self) -> None:
        """Write the settings."""
        stored = QgsSettings()
        for name, value in vars(self).items():
            stored.setValue(f"{GROUP}/{name}", value)
