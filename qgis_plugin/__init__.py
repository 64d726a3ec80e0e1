"""Terrakin for QGIS: find the places that are like this place."""

from __future__ import annotations


def classFactory(iface):
    """Return the plugin object; QGIS calls this when it loads the plugin."""
    from .plugin import TerrakinPlugin

    return TerrakinPlugin(iface)
