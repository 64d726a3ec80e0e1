"""How results look. Built here rather than in QML files, so that one source serves QGIS 3 and 4.

Footprints must show over dark forest as well as over bright sand: a dark casing below a line in
the class's colour, and a fill that lets the imagery through. Fill and line take the class's
colour by expression, so a colour ramp chosen later in QGIS keeps the look.
"""

from __future__ import annotations

from typing import Sequence

from qgis.core import (
    QgsFeatureRequest,
    QgsFillSymbol,
    QgsGeometryGeneratorSymbolLayer,
    QgsGradientColorRamp,
    QgsGradientStop,
    QgsGraduatedSymbolRenderer,
    QgsMarkerSymbol,
    QgsPalLayerSettings,
    QgsProperty,
    QgsRendererRange,
    QgsSimpleFillSymbolLayer,
    QgsSimpleLineSymbolLayer,
    QgsSingleSymbolRenderer,
    QgsSymbolLayer,
    QgsTextBufferSettings,
    QgsTextFormat,
    QgsVectorLayer,
    QgsVectorLayerSimpleLabeling,
)
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtGui import QColor, QFont

CLASSES = 5
LABELLED_RANKS = 10
FILL_ALPHA = 60
CASING = QColor(20, 20, 30, 190)
QUERY_COLOUR = QColor("#00e5ff")
RAMP = ("#7b6cf6", "#c05be0", "#ff5fa2", "#ff9a5a", "#ffe14d")
"""Least to most similar: ordered by lightness, so it also reads without colour vision."""
ALIASES = {
    "rank": "Rank",
    "similarity": "Similarity",
    "percentile": "% of random pairs less alike",
    "datetime": "Date and time (UTC)",
    "grid_cell": "Grid cell",
    "id": "Chip",
    "lon": "Longitude",
    "lat": "Latitude",
}
"""What attribute tables and forms call the fields."""
WIDTHS = {"percentile": 210, "datetime": 190, "grid_cell": 110, "id": 160, "lon": 165, "lat": 165}
"""Columns of the attribute table that need more than QGIS gives them, pixels."""
MAP_TIP = """\
<div style="white-space: nowrap; font-family: sans-serif; font-size: 10pt; padding: 2px">
<b>[% "rank" %].</b> similarity [% format_number("similarity", 3) %]
[% if("percentile" IS NULL, '', '<br>more alike than '
|| to_string(floor(round(100 * "percentile", 6)) / 100) || ' % of random pairs') %]
[% if("datetime" IS NULL, '', '<br>' || format_date("datetime", 'yyyy-MM-dd')) %]
<br>[% "id" %]
</div>"""
"""HTML with expressions; as in ``percent_text``, only all of it is 100 %."""


def style_places(layer: QgsVectorLayer, similarities: Sequence[float]) -> None:
    """Colour a result layer by its ``similarity``, most similar class first; label the best.

    Its fields get names for people, and each place a map tip.
    """
    ramp = similarity_ramp()
    renderer = QgsGraduatedSymbolRenderer("similarity")
    renderer.setSourceColorRamp(ramp)
    renderer.setSourceSymbol(_footprint_symbol(ramp.color(1.0)))
    bounds = class_bounds(similarities)
    for index in reversed(range(len(bounds) - 1)):
        low, high = bounds[index], bounds[index + 1]
        position = index / (len(bounds) - 2) if len(bounds) > 2 else 1.0
        symbol = _footprint_symbol(ramp.color(position))
        renderer.addClassRange(QgsRendererRange(low, high, symbol, f"{low:.3f} to {high:.3f}"))
    # The best are drawn last, so that no weaker neighbour covers their frame.
    by_rank = QgsFeatureRequest.OrderByClause("rank", False)
    renderer.setOrderBy(QgsFeatureRequest.OrderBy([by_rank]))
    renderer.setOrderByEnabled(True)
    layer.setRenderer(renderer)
    layer.setLabeling(QgsVectorLayerSimpleLabeling(_rank_labels()))
    layer.setLabelsEnabled(True)
    layer.setMapTipTemplate(MAP_TIP)
    _name_columns(layer)


def _name_columns(layer: QgsVectorLayer) -> None:
    """Give fields names for people, and columns of the attribute table room for them."""
    for name, alias in ALIASES.items():
        index = layer.fields().indexOf(name)
        if index >= 0:
            layer.setFieldAlias(index, alias)
    table = layer.attributeTableConfig()
    table.update(layer.fields())
    columns = table.columns()
    for column in columns:
        column.width = WIDTHS.get(column.name, column.width)
    table.setColumns(columns)
    layer.setAttributeTableConfig(table)


def style_query(layer: QgsVectorLayer) -> None:
    """Draw the query chip as a bright frame, and a target where the user clicked."""
    frame = QgsFillSymbol()
    frame.changeSymbolLayer(0, _line(CASING, 1.6))
    frame.appendSymbolLayer(_line(QUERY_COLOUR, 0.8))
    frame.appendSymbolLayer(_target())
    layer.setRenderer(QgsSingleSymbolRenderer(frame))


def style_queue(layer: QgsVectorLayer) -> None:
    """Draw places to label as frames with their rank, and say why each is asked about."""
    layer.setRenderer(QgsSingleSymbolRenderer(_footprint_symbol(QUERY_COLOUR)))
    layer.setLabeling(QgsVectorLayerSimpleLabeling(_rank_labels()))
    layer.setLabelsEnabled(True)
    layer.setMapTipTemplate('<b>[% "rank" %].</b> [% "why" %]<br>[% "id" %]')
    _name_columns(layer)


def similarity_ramp() -> QgsGradientColorRamp:
    """Return the continuous ramp from least to most similar."""
    colours = [QColor(name) for name in RAMP]
    stops = [
        QgsGradientStop(index / (len(colours) - 1), colour)
        for index, colour in enumerate(colours[1:-1], start=1)
    ]
    return QgsGradientColorRamp(colours[0], colours[-1], False, stops)


def class_bounds(similarities: Sequence[float]) -> list[float]:
    """Return the limits of equal classes that hold all values: one more than there are classes.

    Values that hardly differ make one class.
    """
    if not similarities:
        return [-1.0, 1.0]
    low, high = min(similarities), max(similarities)
    if high - low < 1e-6:
        return [low, high]
    step = (high - low) / CLASSES
    return [*(low + step * index for index in range(CLASSES)), high]


def _footprint_symbol(colour: QColor) -> QgsFillSymbol:
    symbol = QgsFillSymbol()
    casing = _line(CASING, 1.1)
    casing.setLocked(True)
    fill = QgsSimpleFillSymbolLayer(colour)
    fill.setStrokeStyle(Qt.PenStyle.NoPen)
    translucent = QgsProperty.fromExpression(
        f"set_color_part(@symbol_color, 'alpha', {FILL_ALPHA})"
    )
    fill.setDataDefinedProperty(QgsSymbolLayer.Property.PropertyFillColor, translucent)
    symbol.changeSymbolLayer(0, fill)
    symbol.appendSymbolLayer(casing)
    symbol.appendSymbolLayer(_line(colour, 0.5))
    symbol.setColor(colour)
    return symbol


def _line(colour: QColor, width_mm: float) -> QgsSimpleLineSymbolLayer:
    line = QgsSimpleLineSymbolLayer(colour, width_mm)
    line.setPenJoinStyle(Qt.PenJoinStyle.MiterJoin)
    return line


def _target() -> QgsGeometryGeneratorSymbolLayer:
    """Return a marker at the clicked place; the chip itself may be too small to see."""
    target = QgsGeometryGeneratorSymbolLayer.create(
        {"geometryModifier": 'make_point("clicked_lon", "clicked_lat")', "SymbolType": "Marker"}
    )
    marker = QgsMarkerSymbol.createSimple(
        {
            "name": "circle",
            "color": "0,0,0,0",
            "outline_color": "20,20,30,190",
            "outline_width": "1.5",
            "size": "6",
        }
    )
    for shape, size, width in (("circle", "6", "0.8"), ("cross", "9", "0.6")):
        part = QgsMarkerSymbol.createSimple(
            {
                "name": shape,
                "color": "0,0,0,0",
                "outline_color": QUERY_COLOUR.name(),
                "outline_width": width,
                "size": size,
            }
        )
        marker.appendSymbolLayer(part.symbolLayer(0).clone())
    target.setSubSymbol(marker)
    return target


def _rank_labels() -> QgsPalLayerSettings:
    text = QgsTextFormat()
    font = QFont()
    font.setBold(True)
    text.setFont(font)
    text.setSize(8)
    text.setColor(QColor("white"))
    halo = QgsTextBufferSettings()
    halo.setEnabled(True)
    halo.setSize(0.8)
    halo.setColor(QColor(20, 20, 30))
    text.setBuffer(halo)
    labels = QgsPalLayerSettings()
    labels.setFormat(text)
    # Beside the chip: on a map of a whole scene the number would hide it.
    labels.placement = QgsPalLayerSettings.Placement.OutsidePolygons
    labels.dist = 0.5
    labels.isExpression = True
    labels.fieldName = f'if("rank" <= {LABELLED_RANKS}, "rank", NULL)'
    return labels
