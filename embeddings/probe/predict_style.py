"""How predictions look: a colour for each class, grey for unknown, as QGIS and GDAL write it."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from xml.etree import ElementTree as Xml

Colour = tuple[int, int, int]

_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

FAINT = 90
"""Of 255: how much colours cover that a map below should show through."""
_FAR = 1e300
UNKNOWN_COLOUR: Colour = (158, 158, 158)
ORIGIN = "terrakin"
"""Stands in the styles beside a raster, to tell them from those a user has saved over them."""

_QUALITATIVE: tuple[Colour, ...] = (
    (68, 119, 170),
    (238, 102, 119),
    (34, 136, 51),
    (204, 187, 68),
    (102, 204, 238),
    (170, 51, 119),
    (238, 136, 51),
    (0, 68, 136),
    (153, 221, 85),
    (136, 34, 85),
    (221, 170, 204),
    (85, 85, 0),
)
"""Tell apart at a glance, for most colour-blind people too; later classes go round the hues."""

_VIRIDIS: tuple[Colour, ...] = (
    (68, 1, 84),
    (70, 50, 127),
    (54, 92, 141),
    (39, 127, 142),
    (31, 161, 135),
    (74, 194, 109),
    (159, 218, 58),
    (253, 231, 37),
)


def colours(count: int) -> list[Colour]:
    """Return a colour for each class, always the same for the same place in the list."""
    found = list(_QUALITATIVE[:count])
    while len(found) < count:
        # The golden angle never comes near a hue that it had a few steps ago.
        hue = (len(found) * 0.618033988749895) % 1.0
        lightness = (0.38, 0.55, 0.7)[len(found) % 3]
        rgb = colorsys.hls_to_rgb(hue, lightness, 0.6)
        found.append((round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])))
    return found


def category_qml(column: str, names: Sequence[str], palette: Sequence[Colour]) -> str:
    """Return a QGIS style of polygons with a colour for each text of a column."""
    qgis, renderer = _renderer("categorizedSymbol", column)
    categories = Xml.SubElement(renderer, "categories")
    for number, name in enumerate(names):
        Xml.SubElement(
            categories,
            "category",
            value=name,
            label=name,
            symbol=str(number),
            render="true",
            type="string",
        )
    _symbols(renderer, palette)
    return _document(qgis)


def range_qml(column: str, low: float, high: float, palette: Sequence[Colour] = _VIRIDIS) -> str:
    """Return a QGIS style of polygons with colours for equal steps of a number.

    What lies below or above them has the colour of the first or the last: QGIS leaves out what
    is in no range.
    """
    qgis, renderer = _renderer("graduatedSymbol", column)
    renderer.set("graduatedMethod", "GraduatedColor")
    ranges = Xml.SubElement(renderer, "ranges")
    step = (high - low) / len(palette)
    for number in range(len(palette)):
        first, last = low + number * step, low + (number + 1) * step
        label = f"{first:.4g} to {last:.4g}"
        if number == 0:
            first, label = -_FAR, f"up to {last:.4g}"
        elif number == len(palette) - 1:
            last, label = _FAR, f"{first:.4g} or more"
        Xml.SubElement(
            ranges,
            "range",
            lower=repr(first),
            upper=repr(last),
            label=label,
            symbol=str(number),
            render="true",
        )
    _symbols(renderer, palette)
    return _document(qgis)


def category_pam(codes: Sequence[int], names: Sequence[str], palette: Sequence[Colour]) -> str:
    """Return what GDAL keeps beside a raster: the names of band 1's codes, and their colours."""
    dataset = Xml.Element("PAMDataset")
    band = Xml.SubElement(dataset, "PAMRasterBand", band="1")
    known = dict(zip(codes, names, strict=True))
    categories = Xml.SubElement(band, "CategoryNames")
    for code in range(max(codes) + 1):
        Xml.SubElement(categories, "Category").text = known.get(code, "")
    table = Xml.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    fields = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
    for index, (name, kind, usage) in enumerate(fields):
        field = Xml.SubElement(table, "FieldDefn", index=str(index))
        for tag, value in (("Name", name), ("Type", kind), ("Usage", usage)):
            Xml.SubElement(field, tag).text = str(value)
    for index, (code, name, colour) in enumerate(zip(codes, names, palette, strict=True)):
        row = Xml.SubElement(table, "Row", index=str(index))
        for value in (code, name, *colour):
            Xml.SubElement(row, "F").text = str(value)
    return _document(dataset)


def paletted_qml(
    codes: Sequence[int],
    names: Sequence[str],
    palette: Sequence[Colour],
    faint: Sequence[int] = (),
) -> str:
    """Return a QGIS style of band 1 that lists the codes in use, and no others.

    Without it QGIS lists all that the colour table has room for. A map below shows through codes
    that are ``faint``.
    """
    qgis = Xml.Element("qgis", version="3.22.0", styleCategories="Symbology", origin=ORIGIN)
    pipe = Xml.SubElement(qgis, "pipe")
    renderer = Xml.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    entries = Xml.SubElement(renderer, "colorPalette")
    for code, name, colour in zip(codes, names, palette, strict=True):
        Xml.SubElement(
            entries,
            "paletteEntry",
            value=str(code),
            label=name,
            color="#{:02x}{:02x}{:02x}".format(*colour),
            alpha=str(FAINT if code in faint else 255),
        )
    return _document(qgis)


def _renderer(kind: str, column: str) -> tuple[Xml.Element, Xml.Element]:
    qgis = Xml.Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = Xml.SubElement(
        qgis, "renderer-v2", type=kind, attr=f'"{column}"', forceraster="0", enableorderby="0"
    )
    return qgis, renderer


def _symbols(renderer: Xml.Element, palette: Sequence[Colour]) -> None:
    symbols = Xml.SubElement(renderer, "symbols")
    for number, colour in enumerate(palette):
        symbol = Xml.SubElement(
            symbols, "symbol", type="fill", name=str(number), alpha="1", clip_to_extent="1"
        )
        layer = Xml.SubElement(symbol, "layer", {"class": "SimpleFill"}, enabled="1", locked="0")
        options = Xml.SubElement(layer, "Option", type="Map")
        rgba = ",".join(map(str, (*colour, 255)))
        # Outlines would hide small footprints when the map is zoomed out.
        for name, value in (("color", rgba), ("style", "solid"), ("outline_style", "no")):
            Xml.SubElement(options, "Option", name=name, type="QString", value=value)
            Xml.SubElement(layer, "prop", k=name, v=value)


def _document(root: Xml.Element) -> str:
    Xml.indent(root, " ")
    # A name may hold characters that XML has no way to write.
    return _NOT_IN_XML.sub("", Xml.tostring(root, encoding="unicode")) + "\n"
