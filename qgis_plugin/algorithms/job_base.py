"""What the algorithms have in common that run a process of the server."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Sequence

from qgis.core import (
    QgsMapLayer,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingParameterDefinition,
    QgsProviderRegistry,
)
from qgis.PyQt.QtCore import QTemporaryDir

from ..core.errors import ExportError, PluginError, RequestError
from ..core.features import write_features
from .base import TerrakinAlgorithm
from .server_access import SERVER, STORE, client_for, run_job

EXTENT = "EXTENT"


class JobAlgorithm(TerrakinAlgorithm):
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

    def advanced(self, parameter: QgsProcessingParameterDefinition) -> None:
        """Add a parameter that is shown only on request."""
        flag = QgsProcessingParameterDefinition.Flag.FlagAdvanced
        parameter.setFlags(parameter.flags() | flag)
        self.addParameter(parameter)

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
