"""The one tree of exceptions. No HTTP statuses here (embed_server.errors has them), no Qt.

Each class carries a stable ``code`` that scripts and the plugin may rely on. A message says
what came, what is allowed and what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class TerrakinError(Exception):
    """Base of all errors a user can cause or must hear about."""

    code: ClassVar[str] = "error"


class InputError(TerrakinError):
    """The caller's input cannot be used as it is."""

    code = "invalid-input"


class PlaceError(InputError):
    """A coordinate is not a place on Earth."""

    code = "invalid-place"


class SourceError(InputError):
    """An input file is missing, unreadable or not what the encoder needs."""

    code = "invalid-source"


class SourceNotFoundError(SourceError):
    """An input file does not exist."""

    code = "source-not-found"


class NoDataError(SourceError):
    """An input holds no usable pixel at all."""

    code = "no-data"


class BandError(SourceError):
    """The bands differ in place, number or name from what is needed."""

    code = "bands-mismatch"


class OutsideCoverageError(InputError):
    """The place lies outside everything the collection covers."""

    code = "outside-coverage"


class NoDataAtPlaceError(InputError):
    """The place lies inside a scene, but its chip was left out for lack of data."""

    code = "no-data-at-place"


class StoreError(TerrakinError):
    """The store cannot do what was asked."""

    code = "store-error"


class CollectionNotFoundError(StoreError):
    """The store has no such collection."""

    code = "collection-not-found"


class ItemNotFoundError(StoreError):
    """The collection has no such item."""

    code = "item-not-found"


class CollectionExistsError(StoreError):
    """The name is taken."""

    code = "collection-exists"


class SpecMismatchError(StoreError):
    """Embeddings of two different specs would be mixed."""

    code = "spec-mismatch"


class CollectionChangedError(StoreError):
    """The collection is no longer in the state that the caller's earlier answer came from."""

    code = "collection-changed"


class StoreLockedError(StoreError):
    """Another process is writing to the store."""

    code = "store-locked"


class StoreNotWritableError(StoreError):
    """The file system refuses to write there."""

    code = "store-not-writable"


class StorageFullError(StoreError):
    """No space left on the device."""

    code = "storage-full"


class StoreFormatError(StoreError):
    """Files of the store are damaged or of a format version this release cannot read."""

    code = "store-format"


class ExtraMissingError(TerrakinError):
    """An optional package is not installed."""

    code = "extra-missing"


class CancelledError(TerrakinError):
    """The caller asked to stop. What was done is kept; running again resumes."""

    code = "cancelled"
