"""An answer of the server as styled layers with provenance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Iterable

from qgis.core import (
    Qgis,
    QgsFeature,
    QgsFields,
    QgsLayerMetadata,
    QgsMapLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QDateTime, Qt

from .geometry import WGS84, footprint, wgs84
from .provenance import PROPERTY, Provenance
from .style import style_places, style_query
from .version import plugin_version
from .wire import Place, SearchAnswer, SearchRequest

# A plain "double" would be one of five decimals, to which exports round.
PLACE_FIELDS = (
    "field=rank:integer&field=similarity:double(0,0)&field=percentile:double(0,0)"
    "&field=datetime:datetime&field=grid_cell:string&field=id:string&field=lon:double(0,0)&field=lat:double(0,0)"
)
QUERY_FIELDS = (
    "field=id:string&field=lon:double(0,0)&field=lat:double(0,0)&field=datetime:datetime"
    "&field=grid_cell:string&field=clicked_lon:double(0,0)&field=clicked_lat:double(0,0)"
)


@dataclass(frozen=True)
class Result:
    """An answer with its provenance and its features, ready to become layers."""

    answer: SearchAnswer
    provenance: Provenance
    features: list[QgsFeature]

    @classmethod
    def of(cls, request: SearchRequest, answer: SearchAnswer) -> Result:
        """Prepare an answer. May run in any thread: no layer is made."""
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        provenance = Provenance.of(request, answer, plugin_version(), Qgis.QGIS_VERSION, created)
        return cls(answer, provenance, [place_feature(place) for place in answer.places])


def place_fields() -> QgsFields:
    """Return the fields of a result layer, those of ``PLACE_FIELDS``."""
    return _memory_layer(PLACE_FIELDS, "fields").fields()


def place_feature(place: Place) -> QgsFeature:
    """Return a feature with the values of ``place_fields`` and the footprint in WGS 84."""
    feature = QgsFeature()
    feature.setGeometry(footprint(place.polygons))
    feature.setAttributes(
        [
            place.rank,
            place.similarity,
            place.percentile,
            _datetime(place.datetime),
            place.grid_cell,
            place.id,
            place.lon,
            place.lat,
        ]
    )
    return feature


def places_layer(result: Result) -> QgsVectorLayer:
    """Make the styled memory layer of the similar places. Main thread only."""
    layer = _memory_layer(PLACE_FIELDS, result.provenance.title)
    _fill(layer, result.features)
    dress_places(layer, result)
    return layer


def dress_places(layer: QgsVectorLayer, result: Result) -> None:
    """Give a layer with the fields of ``place_fields`` its style and its provenance."""
    style_places(layer, [place.similarity for place in result.answer.places])
    set_provenance(layer, result.provenance)


def query_layer(result: Result) -> QgsVectorLayer:
    """Make the memory layer that marks the query chip and the clicked place. Main thread only."""
    query, provenance = result.answer.query, result.provenance
    layer = _memory_layer(QUERY_FIELDS, f"Query at {provenance.place}")
    feature = QgsFeature(layer.fields())
    feature.setGeometry(footprint(query.polygons))
    feature.setAttributes(
        [
            query.id,
            query.lon,
            query.lat,
            _datetime(query.datetime),
            query.grid_cell,
            provenance.query_lon,
            provenance.query_lat,
        ]
    )
    _fill(layer, [feature])
    style_query(layer)
    return layer


def set_provenance(layer: QgsVectorLayer, provenance: Provenance) -> None:
    """Write the provenance into the layer's metadata and its custom property."""
    layer.setCustomProperty(PROPERTY, provenance.to_json())
    layer.setMetadata(metadata_of(provenance, layer))


def metadata_of(provenance: Provenance, layer: QgsVectorLayer) -> QgsLayerMetadata:
    """Return the provenance as QGIS layer metadata."""
    metadata = QgsLayerMetadata(layer.metadata())
    metadata.setType("dataset")
    metadata.setLanguage("eng")
    metadata.setTitle(provenance.title)
    metadata.setAbstract(provenance.abstract)
    metadata.setHistory([provenance.history])
    keywords = ["Terrakin", "similarity search", "embeddings", provenance.collection]
    metadata.setKeywords({"keywords": keywords})
    licence = provenance.spec.get("licence")
    metadata.setRights([f"Derived from embeddings under {licence}"] if licence else [])
    metadata.setCrs(wgs84())
    return metadata


def describe_map(layer: QgsMapLayer, abstract: str, collection: str) -> None:
    """Write into a map's metadata what a probe made it of."""
    metadata = QgsLayerMetadata(layer.metadata())
    metadata.setType("dataset")
    metadata.setLanguage("eng")
    metadata.setTitle(layer.name())
    metadata.setAbstract(abstract)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    by = f"Terrakin plugin {plugin_version()} in QGIS {Qgis.QGIS_VERSION}"
    metadata.setHistory([f"{created}: mapped with a probe by {by}"])
    metadata.setKeywords({"keywords": ["Terrakin", "probe", "embeddings", collection]})
    metadata.setCrs(layer.crs())
    layer.setMetadata(metadata)


def provenance_of(layer: QgsVectorLayer) -> Provenance | None:
    """Return the provenance of a layer; None if it is no result of this plugin."""
    text = layer.customProperty(PROPERTY)
    if not isinstance(text, str):
        return None
    try:
        return Provenance.from_json(text)
    except (ValueError, KeyError, TypeError):
        return None


def _memory_layer(fields: str, name: str) -> QgsVectorLayer:
    return QgsVectorLayer(f"MultiPolygon?crs={WGS84}&{fields}", name, "memory")


def _fill(layer: QgsVectorLayer, features: Iterable[QgsFeature]) -> None:
    layer.dataProvider().addFeatures(list(features))
    layer.updateExtents()


def _datetime(text: str | None) -> QDateTime | None:
    if text is None:
        return None
    value = QDateTime.fromString(text, Qt.DateFormat.ISODate)
    return value.toUTC() if value.isValid() else None
