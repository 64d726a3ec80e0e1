"""What the algorithms about probes have in common."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Sequence

from qgis.core import (
    QgsMapLayer,
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterExtent,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterString,
    QgsProviderRegistry,
)
from qgis.PyQt.QtCore import QTemporaryDir

from ..core.errors import ExportError, PluginError, RequestError
from ..core.features import write_features
from ..core.geometry import wgs84
from .base import TerrakinAlgorithm
from .server_access import SERVER, STORE, client_for, run_job

MASK, EXTENT, OTHERS = "MASK", "EXTENT", "OTHERS"
MODEL_FILTER = "Terrakin probe (*.safetensors)"


class ProbeAlgorithm(TerrakinAlgorithm):
    """An algorithm that runs a process of the server; a subclass gives ``work``."""

    def processAlgorithm(
        self,
        parameters: dict[str, Any],
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> dict[str, Any]:
        server = self.parameterAsString(parameters, SERVER, context)
        store = self.parameterAsString(parameters, STORE, context)
        try:
            with client_for(server, store, feedback) as client, scratch_folder() as folder:
                self._client, self._folder = client, folder
                self._parameters, self._context, self._feedback = parameters, context, feedback
                return self.work()
        except PluginError as error:
            raise QgsProcessingException(str(error)) from error

    def work(self) -> dict[str, Any]:
        """Run the process and return the outputs. Raises PluginError."""
        raise NotImplementedError

    def group(self) -> str:
        return self.tr("Probes")

    def groupId(self) -> str:
        return "probes"

    def advanced(self, parameter: QgsProcessingParameterDefinition) -> None:
        """Add a parameter that is shown only on request."""
        flag = QgsProcessingParameterDefinition.Flag.FlagAdvanced
        parameter.setFlags(parameter.flags() | flag)
        self.addParameter(parameter)

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

    def ask(self, process: str, inputs: dict[str, Any]) -> dict[str, Any]:
        """Run a process of the server; return its report."""
        return run_job(self._client, process, inputs, self._feedback)

    def text(self, name: str) -> str | None:
        """Return a text that was given, else None."""
        return self.parameterAsString(self._parameters, name, self._context) or None

    def number(self, name: str) -> float | None:
        """Return a number that was given, else None."""
        if self._parameters.get(name) in (None, ""):
            return None
        return self.parameterAsDouble(self._parameters, name, self._context)

    def flag(self, name: str) -> bool:
        """Return whether a box is ticked."""
        return self.parameterAsBool(self._parameters, name, self._context)

    def choice(self, name: str, values: Sequence[Any]) -> Any:
        """Return what a choice stands for, of its values in the order of its texts."""
        return values[self.parameterAsEnum(self._parameters, name, self._context)]

    def file(self, name: str) -> str | None:
        """Return the whole path of a file to read; None if none is given."""
        path = self.parameterAsFile(self._parameters, name, self._context)
        return str(Path(path).absolute()) if path else None

    def new_geopackage(self, name: str) -> str:
        """Return where a new GeoPackage goes. Raises RequestError."""
        path = Path(self.parameterAsOutputLayer(self._parameters, name, self._context))
        if path.suffix.lower() != ".gpkg":
            raise RequestError(f"{name} is '{path}'. Give a name that ends in .gpkg.")
        return str(path.absolute())

    def features(self, name: str, fields: Sequence[str | None] = ()) -> str | None:
        """Return the path of the features of a layer, written for the server; None without one."""
        if self._parameters.get(name) in (None, ""):
            return None
        source = self.parameterAsSource(self._parameters, name, self._context)
        if source is None:
            raise QgsProcessingException(self.invalidSourceError(self._parameters, name))
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        kept = list(dict.fromkeys(field for field in fields if field is not None))
        transforms = self._context.transformContext()
        return str(write_features(source, kept, folder, transforms, self._feedback.isCanceled))

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


@contextmanager
def scratch_folder() -> Iterator[str]:
    """Give a folder for files that the server reads; it is gone after the block.

    Qt's says nothing where a server that is slow to stop holds a file open.
    """
    folder = QTemporaryDir()
    if not folder.isValid():
        raise ExportError(
            f"No temporary folder can be made: {folder.errorString()}. Is the disk full?"
        )
    try:
        yield folder.path()
    finally:
        folder.remove()


def path_of(layer: QgsMapLayer) -> str:
    """Return the path of the file that a layer shows. Raises RequestError."""
    parts = QgsProviderRegistry.instance().decodeUri(layer.providerType(), layer.source())
    path = parts.get("path") or ""
    if not path or not Path(path).is_file():
        raise RequestError(
            f"The layer '{layer.name()}' is no file of its own. Save it, and give that layer."
        )
    return str(Path(path).absolute())
