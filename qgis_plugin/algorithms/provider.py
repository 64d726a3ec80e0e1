"""The Processing provider ``terrakin``."""

from __future__ import annotations

from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from ..core.version import icon_path, plugin_version
from .change_collection import ChangeCollection
from .change_raster import ChangeRaster
from .export_places import ExportPlaces
from .fit_probe import FitProbe
from .map_accuracy import MapAccuracy
from .predict_probe import PredictProbe
from .queue_places import QueuePlaces
from .sample_map import SampleMap
from .similar_places import SimilarPlaces

ALGORITHMS = (
    SimilarPlaces,
    ExportPlaces,
    FitProbe,
    PredictProbe,
    QueuePlaces,
    SampleMap,
    MapAccuracy,
    ChangeRaster,
    ChangeCollection,
)


class TerrakinProvider(QgsProcessingProvider):
    """Offers all of the plugin's algorithms."""

    def id(self) -> str:
        return "terrakin"

    def name(self) -> str:
        return "Terrakin"

    def versionInfo(self) -> str:
        return plugin_version()

    def icon(self) -> QIcon:
        return QIcon(icon_path("terrakin.svg"))

    def svgIconPath(self) -> str:
        return icon_path("terrakin.svg")

    def loadAlgorithms(self) -> None:
        for algorithm in ALGORITHMS:
            self.addAlgorithm(algorithm())
