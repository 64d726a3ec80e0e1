"""How scores look in QGIS: pale where nothing changed, dark red from the threshold on."""

from __future__ import annotations

from xml.etree import ElementTree as Xml

from embeddings.probe.predict_style import ORIGIN

PALE, ORANGE, RED, DARK = "#f7f4ee", "#fdae61", "#d73027", "#7f0018"


def score_qml(threshold: float) -> str:
    """Return a QGIS style of band 1: a ramp from 0 over the threshold to twice as much."""
    top = 2 * threshold if threshold > 0 else threshold + 1
    stops = [(0.0 if threshold > 0 else threshold - 1, PALE), (0.7 * threshold, ORANGE)]
    stops = [*stops[: 2 if threshold > 0 else 1], (threshold, RED), (top, DARK)]
    qgis = Xml.Element("qgis", version="3.22.0", styleCategories="Symbology", origin=ORIGIN)
    ends = {"min": repr(stops[0][0]), "max": repr(top)}
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
    for value, colour in stops:
        Xml.SubElement(
            ramp, "item", value=repr(value), label=f"{value:.2f}", color=colour, alpha="255"
        )
    Xml.indent(qgis, " ")
    return Xml.tostring(qgis, encoding="unicode") + "\n"
