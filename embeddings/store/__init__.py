"""Stores of embeddings: GeoParquet parts described by a STAC Collection."""

from embeddings.store.collection import Collection, Part, Scene
from embeddings.store.store import Store

__all__ = ["Collection", "Part", "Scene", "Store"]
