"""How scores look in QGIS: a pale veil where nothing changed, red from the threshold on."""

from __future__ import annotations

import math
from xml.etree import ElementTree as Xml

from embeddings.probe.predict_style import FAINT, ORIGIN, Colour

PALE, ORANGE, RED, DARK = "#f7f4ee", "#fdae61", "#d73027", "#7f0018"
STRENGTHS: tuple[Colour, ...] = (
    (255, 225, 77),
    (255, 159, 28),
    (244, 81, 30),
    (216, 27, 96),
    (178, 24, 160),
)
"""Of objects, from weak to strong: they show over dark and over light imagery."""
NO_THRESHOLD = 3.0
"""Where colours turn red if no score reaches the threshold."""
NEAR = 0.999
"""Of the threshold: orange ends there, so that a sharp edge shows where change begins."""


def score_qml(threshold: float) -> str:
    """Return a QGIS style of band 1: a ramp from 0 over the threshold to twice as much.

    The map below shows through where nothing changed; where there is no data it shows whole.
    """
    stops = _stops(threshold)
    qgis = Xml.Element("qgis", version="3.22.0", styleCategories="Symbology", origin=ORIGIN)
    ends = {"min": repr(stops[0][0]), "max": repr(stops[-1][0])}
    renderer = Xml.SubElement(
        Xml.SubElement(qgis, "pipe"),
        "rasterrenderer",
        type="singlebandpseudocolor",
        band="1",
        opacity="1",
        alphaBand="-1",
        classificationMin=ends["min"],
        classificationMax=ends["max"],
    )
    ramp = Xml.SubElement(
        Xml.SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue=ends["min"],
        maximumValue=ends["max"],
    )
    for value, colour, alpha, label in stops:
        Xml.SubElement(ramp, "item", value=repr(value), label=label, color=colour, alpha=str(alpha))
    # Words for each stop; a continuous legend has numbers alone.
    Xml.SubElement(ramp, "rampLegendSettings", useContinuousLegend="0")
    Xml.indent(qgis, " ")
    return Xml.tostring(qgis, encoding="unicode") + "\n"


def _stops(threshold: float) -> list[tuple[float, str, int, str]]:
    """Return values, colours, how much these cover (of 255), and words for them."""
    words = "change begins"
    if not math.isfinite(threshold):
        threshold, words = NO_THRESHOLD, "unusual, but no threshold was reached"
    top = 2 * threshold if threshold > 0 else threshold + 1
    red = [
        (threshold, RED, 255, f"{threshold:.2f}: {words}"),
        (top, DARK, 255, f"{top:.2f} or more"),
    ]
    if threshold <= 0:
        return [(threshold - 1, PALE, FAINT, f"{threshold - 1:.2f} or less: no change"), *red]
    near = NEAR * threshold
    weak = [(0.0, PALE, FAINT, "0 or less: no change"), (near, ORANGE, 200, "not enough to tell")]
    return [*weak, *red]
