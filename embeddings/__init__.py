"""Terrakin's science and storage: embeddings of the Earth, kept in Parquet, searched exactly.

This package knows nothing of HTTP or of QGIS. See docs/ARCHITECTURE.md.
"""

from importlib.metadata import version as _version

__version__ = _version("terrakin")
