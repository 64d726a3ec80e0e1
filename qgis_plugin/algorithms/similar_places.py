"""``terrakin:similarplaces``: the places of a collection most like a place."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    QgsFeatureSink,
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterFeatureSink,
    QgsProcessingParameterNumber,
    QgsProcessingParameterPoint,
    QgsWkbTypes,
)

from ..core.client import Client
from ..core.errors import PluginError
from ..core.geometry import to_lonlat, wgs84
from ..core.layers import Result, dress_places, place_fields
from ..core.wire import DEFAULT_EXCLUDE_M, DEFAULT_K, MAX_K, SearchRequest
from .base import TerrakinAlgorithm
from .dressing import dress_when_loaded
from .server_access import (
    COLLECTION,
    SERVER,
    STORE,
    choose_collection,
    client_for,
    server_parameters,
)

POINT, K, EXCLUDE, OUTPUT = "POINT", "K", "EXCLUDE", "OUTPUT"
COUNT, PROVENANCE = "COUNT", "PROVENANCE"


class SimilarPlaces(TerrakinAlgorithm):
    """Searches a collection for the places most like the place at a point."""

    ID = "similarplaces"
    TITLE = "Find similar places"
    ICON = "find.svg"
    HELP = (
        "Finds the places of a collection of embeddings that are most similar to the place at a "
        "point, as footprint polygons with rank, similarity (cosine, -1 to 1) and percentile (the "
        "percent of random pairs of the collection that are less alike).\n\n"
        "Give the ready file of a running server, or a store folder: then a server is started "
        "and stopped again. The point may be in any CRS; without one it is read as longitude, "
        "latitude. Chips within the distance to leave out of the query are not returned."
    )

    def initAlgorithm(self, configuration: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        number = QgsProcessingParameterNumber.Type
        for parameter in server_parameters():
            self.addParameter(parameter)
        self.addParameter(QgsProcessingParameterPoint(POINT, self.tr("Place")))
        self.addParameter(
            QgsProcessingParameterNumber(
                K,
                self.tr("Number of places"),
                number.Integer,
                DEFAULT_K,
                minValue=1,
                maxValue=MAX_K,
            )
        )
        self.addParameter(
            QgsProcessingParameterNumber(
                EXCLUDE,
                self.tr("Distance around the place to leave out (metres)"),
                number.Double,
                DEFAULT_EXCLUDE_M,
                minValue=0.0,
            )
        )
        self.addParameter(
            QgsProcessingParameterFeatureSink(
                OUTPUT, self.tr("Similar places"), QgsProcessing.SourceType.TypeVectorPolygon
            )
        )
        self.addOutput(QgsProcessingOutputNumber(COUNT, self.tr("Number of places found")))
        self.addOutput(QgsProcessingOutputString(PROVENANCE, self.tr("Provenance (JSON)")))

    def processAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> dict[str, Any]:
        try:
            lon, lat = self._place(parameters, context)
            server = self.parameterAsString(parameters, SERVER, context)
            store = self.parameterAsString(parameters, STORE, context)
            with client_for(server, store, feedback) as client:
                result = self._search(client, (lon, lat), parameters, context, feedback)
        except PluginError as error:
            raise QgsProcessingException(str(error)) from error
        sink_id = self._write(result, parameters, context)
        return {
            OUTPUT: sink_id,
            COUNT: len(result.features),
            PROVENANCE: result.provenance.to_json(),
        }

    def _place(
        self, parameters: dict[str, Any], context: QgsProcessingContext
    ) -> tuple[float, float]:
        point = self.parameterAsPoint(parameters, POINT, context)
        crs = self.parameterAsPointCrs(parameters, POINT, context)
        return to_lonlat(point, crs if crs.isValid() else wgs84(), context.transformContext())

    def _search(
        self,
        client: Client,
        lonlat: tuple[float, float],
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> Result:
        collection = choose_collection(
            client, self.parameterAsString(parameters, COLLECTION, context)
        )
        request = SearchRequest(
            collection=collection.id,
            lon=lonlat[0],
            lat=lonlat[1],
            k=self.parameterAsInt(parameters, K, context),
            exclude_m=self.parameterAsDouble(parameters, EXCLUDE, context),
        )
        feedback.pushInfo(f"Comparing {collection.item_count:,} places of '{collection.id}' ...")
        result = Result.of(request, client.search(request))
        if result.provenance.completeness:
            feedback.pushInfo(result.provenance.completeness)
        return result

    def _write(
        self, result: Result, parameters: dict[str, Any], context: QgsProcessingContext
    ) -> str:
        sink, sink_id = self.parameterAsSink(
            parameters,
            OUTPUT,
            context,
            place_fields(),
            QgsWkbTypes.Type.MultiPolygon,
            wgs84(),
        )
        if sink is None:
            raise QgsProcessingException(self.invalidSinkError(parameters, OUTPUT))
        if not sink.addFeatures(result.features, QgsFeatureSink.Flag.FastInsert):
            raise QgsProcessingException(f"The places could not be written: {sink.lastError()}")
        title = result.provenance.title
        dress_when_loaded(context, sink_id, title, lambda layer: dress_places(layer, result))
        return sink_id
