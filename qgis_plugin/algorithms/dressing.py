"""Outputs that are loaded get their style on the main thread."""

from __future__ import annotations

from typing import Callable, ClassVar

from qgis.core import (
    QgsMapLayer,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
)


class Dresser(QgsProcessingLayerPostProcessorInterface):
    """Calls ``dress`` with the loaded layer.

    QGIS does not keep a post-processor's Python object alive, and the algorithm may be gone
    before the layer is loaded, so each waits in ``waiting`` until its work is done.
    """

    waiting: ClassVar[set[Dresser]] = set()

    def __init__(self, dress: Callable[[QgsMapLayer], None]) -> None:
        super().__init__()
        self._dress = dress
        self.waiting.add(self)

    def postProcessLayer(
        self,
        layer: QgsMapLayer,
        context: QgsProcessingContext,  # noqa: ARG002
        feedback: QgsProcessingFeedback,  # noqa: ARG002
    ) -> None:
        self._dress(layer)
        self.waiting.discard(self)


def dress_when_loaded(
    context: QgsProcessingContext,
    output: str,
    name: str,
    dress: Callable[[QgsMapLayer], None],
) -> None:
    """Name and style an output, if it is to be loaded."""
    if context.willLoadLayerOnCompletion(output):
        details = context.layerToLoadOnCompletionDetails(output)
        details.name = name
        details.setPostProcessor(Dresser(dress))
