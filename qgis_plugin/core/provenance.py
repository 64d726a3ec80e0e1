"""Where a result layer comes from, so that another person can repeat it. No Qt here."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from .wire import SearchAnswer, SearchRequest

PROPERTY = "terrakin/provenance"
"""Custom property of a result layer that holds the provenance as JSON."""


@dataclass(frozen=True)
class Provenance:
    """What was asked, of what, with which software, when."""

    query_lon: float
    """The place that was clicked, degrees."""
    query_lat: float
    query_id: str
    """The chip that contains the place."""
    collection: str
    k: int
    exclude_m: float
    returned: int
    considered: int
    spec: dict[str, Any]
    """The identity of the vectors, as the server states it."""
    server_version: str
    plugin_version: str
    qgis_version: str
    created: str
    """UTC, ISO 8601."""
    expected_recall: float | None = None
    """Share of the true best that the answer is expected to hold; None: not known."""
    matched: int | None = None
    """How many chips there were to choose among."""

    @classmethod
    def of(
        cls,
        request: SearchRequest,
        answer: SearchAnswer,
        plugin_version: str,
        qgis_version: str,
        created: str,
    ) -> Provenance:
        """Gather the provenance of an answer."""
        return cls(
            query_lon=request.lon,
            query_lat=request.lat,
            query_id=answer.query.id,
            collection=answer.collection,
            k=answer.k,
            exclude_m=answer.exclude_m,
            returned=len(answer.places),
            considered=answer.considered,
            spec=answer.spec,
            server_version=answer.server_version,
            plugin_version=plugin_version,
            qgis_version=qgis_version,
            created=created,
            expected_recall=answer.expected_recall,
            matched=answer.matched,
        )

    def to_json(self) -> str:
        """Return the JSON text that ``from_json`` reads."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read the JSON text. Raises ValueError, KeyError or TypeError."""
        return cls(**json.loads(text))

    @property
    def place(self) -> str:
        """The query place, for people: ``-76.657, 34.718``."""
        return f"{self.query_lon:.3f}, {self.query_lat:.3f}"

    @property
    def title(self) -> str:
        """The name of the result layer."""
        return f"Places like {self.place} ({self.collection})"

    @property
    def share_found(self) -> str:
        """How complete the answer is, where it may miss something; else, or if unknown, empty."""
        if self.expected_recall is None or self.expected_recall >= 1:
            return ""
        return f"about {percent_text(100 * self.expected_recall)} % of the true best"

    @property
    def compared(self) -> str:
        """How much was compared, as a sentence."""
        there = "" if self.matched is None else f" of {self.matched:,}"
        return f"An index chose {self.considered:,}{there} chips to compare."

    @property
    def completeness(self) -> str:
        """What the answer may miss and why, in sentences; empty as ``share_found``."""
        if not self.share_found:
            return ""
        return f"{self.share_found.capitalize()} are among them. {self.compared}"

    @property
    def abstract(self) -> str:
        """One paragraph for the layer's metadata."""
        complete = f"{self.completeness} " if self.completeness else ""
        return (
            f"The {self.returned:,} places of the collection '{self.collection}' most similar to "
            f"the place at longitude {self.query_lon:.6f}, latitude {self.query_lat:.6f} (chip "
            f"{self.query_id}), leaving out chips within {self.exclude_m:g} m of it. Similarity "
            f"is the cosine between embeddings, -1 to 1; percentile is the percent of random pairs "
            f"of chips that are less alike. {self.considered:,} chips were compared. {complete}"
            f"Embeddings: {self.spec.get('product', 'unknown product')}, model "
            f"{self.spec.get('model', 'unknown')} {self.spec.get('model_version', '')}, "
            f"{self.spec.get('dim', '?')} dimensions."
        )

    @property
    def history(self) -> str:
        """One line for the layer's history."""
        return (
            f"{self.created}: search by Terrakin plugin {self.plugin_version} in QGIS "
            f"{self.qgis_version}, server {self.server_version}; k={self.k}, "
            f"exclude={self.exclude_m:g} m, at={self.query_lon!r},{self.query_lat!r}"
        )


def percent_text(percent: float) -> str:
    """Return a percentage for people: ``99.8``. It is cut, so that only all of it is 100."""
    return f"{math.floor(round(100 * percent, 6)) / 100:g}"
