"""What the algorithms about probes have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgis.core import (
    QgsProcessing,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterString,
)

from ..core.errors import RequestError
from ..core.geometry import wgs84
from .job_base import EXTENT, JobAlgorithm

MASK, OTHERS = "MASK", "OTHERS"
MODEL_FILTER = "Terrakin probe (*.safetensors)"


class ProbeAlgorithm(JobAlgorithm):
    """An algorithm that runs a process of probes."""

    def group(self) -> str:
        return self.tr("Probes")

    def groupId(self) -> str:
        return "probes"

    def add_others_parameter(self) -> None:
        """Add OTHERS, the collections whose vectors stand beside."""
        self.advanced(
            QgsProcessingParameterString(
                OTHERS,
                self.tr("Collections whose vectors stand beside (names, commas between)"),
                optional=True,
            )
        )

    def others(self) -> list[str] | None:
        """Return the collections whose vectors stand beside; None for none."""
        names = [name.strip() for name in (self.text(OTHERS) or "").split(",")]
        return [name for name in names if name] or None

    def add_area_parameters(self) -> None:
        """Add MASK and EXTENT, which say where."""
        self.addParameter(
            QgsProcessingParameterFeatureSource(
                MASK,
                self.tr("Only inside these polygons"),
                [QgsProcessing.SourceType.TypeVectorPolygon],
                optional=True,
            )
        )
        self.addParameter(
            QgsProcessingParameterExtent(EXTENT, self.tr("Only in this extent"), optional=True)
        )

    def new_geopackage(self, name: str) -> str:
        """Return where a new GeoPackage goes. Raises RequestError."""
        path = Path(self.parameterAsOutputLayer(self._parameters, name, self._context))
        if path.suffix.lower() != ".gpkg":
            raise RequestError(f"{name} is '{path}'. Give a name that ends in .gpkg.")
        return str(path.absolute())

    def area(self) -> Any:
        """Return the mask as a file or the extent as GeoJSON; None where neither is given."""
        mask = self.features(MASK)
        if self._parameters.get(EXTENT) in (None, ""):
            return mask
        if mask is not None:
            raise RequestError("Both polygons and an extent are given. Give one of them.")
        shape = self.parameterAsExtentGeometry(
            self._parameters, EXTENT, self._context, wgs84()
        ).asPolygon()
        rings = [[[point.x(), point.y()] for point in ring] for ring in shape]
        return {"type": "Polygon", "coordinates": rings}
