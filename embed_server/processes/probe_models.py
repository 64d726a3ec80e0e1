"""The wire contract of the processes of probes.

What a client leaves out, or null, is left to ``embeddings``. Paths are absolute, on the server's
machine.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from embed_server.models import Received, Sent

GeoJson = dict[str, Any]

OTHERS = "Collections whose vectors stand beside, joined by the ids of the items. Default: none."


class ProbeFitInputs(Received):
    """What ``probe-fit`` takes: the fields of ``ProbeJob``, and where a report is written."""

    collection: StrictStr = Field(description="Whose vectors to learn from.")
    labels: StrictStr | GeoJson = Field(
        description="Absolute path of a vector file, a table of points or a raster; or GeoJSON, a "
        "FeatureCollection."
    )
    out: StrictStr = Field(
        description="Absolute path MODEL; MODEL.safetensors and MODEL.json are written."
    )
    others: list[StrictStr] | None = Field(default=None, description=OTHERS)
    report: StrictStr | None = Field(
        default=None, description="Absolute path of a report to write, .html or .json."
    )
    layer: StrictStr | None = Field(default=None, description="Layer of the labels' file.")
    field: StrictStr | None = Field(
        default=None, description="Field with classes or numbers; of a raster the band."
    )
    task: Literal["classes", "number", "multilabel", "positive"] | None = Field(
        default=None, description="What the field says. Default: by its values."
    )
    separator: StrictStr | None = Field(
        default=None, description="What parts several classes in one text."
    )
    merge_classes: StrictBool | None = Field(
        default=None,
        description="Classes that differ only in spaces or capitals: true joins, false parts. "
        "Default: refuse.",
    )
    labels_crs: StrictStr | None = Field(default=None, description="CRS of labels that say none.")
    labels_nodata: StrictFloat | None = Field(
        default=None, description="Number that is no label, of a raster that says none."
    )
    date_field: StrictStr | None = Field(default=None, description="Field with the labels' dates.")
    tolerance_days: StrictFloat | None = Field(
        default=None, description="Days that a label's date and a chip's may be apart. Default: 30."
    )
    rule: Literal["centre", "share", "contains"] | None = Field(
        default=None,
        description="Which chips a polygon or raster labels. Default: centre; of a raster share.",
    )
    min_share: StrictFloat | None = Field(
        default=None, description="Share of a chip that a class must cover. Default: 0.5."
    )
    conflicts: Literal["drop", "majority"] | None = Field(
        default=None,
        description="Of chips with several classes. Default: drop; of a raster majority.",
    )
    kind: Literal["logistic", "ridge", "centroid"] | None = Field(
        default=None, description="Kind of probe; of a number always ridge. Default: logistic."
    )
    strength: StrictFloat | None = Field(
        default=None, description="Penalty on weights. Default: chosen on the spatial folds."
    )
    balanced: StrictBool | None = Field(
        default=None, description="Let rare classes count as much as common ones."
    )
    folds: StrictInt | None = Field(
        default=None, description="Regions to leave out in turn. Default: 10."
    )
    block_m: StrictFloat | None = Field(
        default=None,
        description="Width of a block, metres. Default: how far the labels resemble each other.",
    )
    buffer_m: StrictFloat | None = Field(
        default=None,
        description="What is nearer to a left-out region is not trained on, metres. Default: an "
        "eighth of a block.",
    )
    unknown_error: StrictFloat | Literal["off"] | None = Field(
        default=None,
        description="Share of errors that may remain among the accepted, or 'off'. Default: 0.1.",
    )
    threshold_per_class: StrictBool | None = Field(
        default=None, description="A threshold of 'unknown' for each class."
    )
    curve: StrictBool | None = Field(
        default=None, description="Measure what more labels would bring. Default: true."
    )
    background: StrictInt | None = Field(
        default=None, description="Places drawn beside positives. Default: 1000 or more."
    )
    prevalence: StrictFloat | None = Field(
        default=None, description="Share of all places that are positive, if known."
    )
    seed: StrictInt | None = Field(default=None, description="Default: 0.")


class ProbeFitReport(Sent):
    """The result of ``probe-fit``: where the model is, and what is known of it."""

    model: str
    files: list[str]
    judged: bool
    probe: dict[str, Any]


class ProbePredictInputs(Received):
    """What ``probe-predict`` takes."""

    model: StrictStr = Field(description="Absolute path of what probe-fit wrote.")
    collection: StrictStr = Field(description="What to predict.")
    out: StrictStr = Field(
        description="Absolute path; .tif (a pixel a chip), .gpkg or .parquet (a footprint a chip)."
    )
    others: list[StrictStr] | None = Field(default=None, description=OTHERS)
    within: StrictStr | GeoJson | None = Field(
        default=None,
        description="Only centres in these polygons: absolute path of a file, or GeoJSON.",
    )
    datetime: StrictStr | None = Field(default=None, description="Only this time: ISO 8601, A/B.")
    scenes: list[StrictStr] | None = Field(default=None, description="Only these scenes.")
    per_class: StrictBool | None = Field(
        default=None, description="The probability of each class, too; of .tif with measures."
    )
    measures: StrictBool | None = Field(
        default=None,
        description="Of .tif: a second file with probability, margin, entropy, applicability.",
    )
    name_all: StrictBool | None = Field(
        default=None, description="The likeliest class everywhere, never unknown."
    )
    workers: StrictInt | None = Field(
        default=None, ge=1, le=256, description="Processes that compute. Default: 1."
    )
    scheduler: StrictStr | None = Field(
        default=None, description="Address of a Dask scheduler, tcp://HOST:PORT."
    )


class ProbePredictReport(Sent):
    """The result of ``probe-predict``: what was written, and chips by class."""

    collection: str
    files: list[str]
    rows: int
    classes: dict[str, int]
    unknown: int
    no_data: int
    notes: list[str]


class ProbeQueueInputs(Received):
    """What ``probe-queue`` takes."""

    collection: StrictStr = Field(description="Where to label.")
    out: StrictStr = Field(description="Absolute path of a new GeoPackage to label in.")
    others: list[StrictStr] | None = Field(default=None, description=OTHERS)
    model: StrictStr | None = Field(
        default=None, description="Absolute path of a probe. Default: none, cover what is there."
    )
    labels: StrictStr | GeoJson | None = Field(
        default=None,
        description="Labels there are, whose chips are left out: absolute path, or GeoJSON.",
    )
    layer: StrictStr | None = Field(default=None, description="Layer of the labels' file.")
    field: StrictStr | None = Field(
        default=None, description="Only features with a value in this field are labels."
    )
    within: StrictStr | GeoJson | None = Field(
        default=None,
        description="Only centres in these polygons: absolute path of a file, or GeoJSON.",
    )
    many: StrictInt | None = Field(default=None, description="How many places. Default: 50.")
    strategy: Literal["coverage", "uncertainty"] | None = Field(
        default=None, description="Default: by the number of labels a class."
    )
    seed: StrictInt | None = Field(default=None, description="Default: 0.")


class ProbeQueueReport(Sent):
    """The result of ``probe-queue``: the places in the order in which to label them."""

    strategy: Literal["coverage", "uncertainty"]
    candidates: int
    labelled: int
    places: list[dict[str, Any]]
    file: str


class ProbeSampleInputs(Received):
    """What ``probe-sample`` takes: either ``total`` or ``standard_error``."""

    map: StrictStr = Field(description="Absolute path of what probe-predict wrote.")
    out: StrictStr = Field(description="Absolute path of a new GeoPackage to fill in.")
    total: StrictInt | None = Field(default=None, description="How many places.")
    standard_error: StrictFloat | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="As many as give the overall accuracy this standard error.",
    )
    minimum: StrictInt | None = Field(
        default=None, description="Places of each class at least. Default: 50."
    )
    expected_accuracy: StrictFloat | None = Field(
        default=None, description="A guess of each class's accuracy, to plan by. Default: 0.8."
    )
    seed: StrictInt | None = Field(default=None, description="Default: 0.")


class ProbeSampleReport(Sent):
    """The result of ``probe-sample``: places drawn, and what they stand for."""

    places: int
    strata: list[dict[str, Any]]
    file: str
    notes: list[str]


class ProbeAccuracyInputs(Received):
    """What ``probe-accuracy`` takes."""

    sample: StrictStr = Field(description="Absolute path of what probe-sample wrote, filled in.")
    out: StrictStr | None = Field(
        default=None, description="Absolute path of a report to write, .html or .json."
    )
    field: StrictStr | None = Field(
        default=None, description="Field with the true classes. Default: reference."
    )
    confidence: StrictFloat | None = Field(
        default=None, gt=0, lt=1, description="Of the intervals. Default: 0.95."
    )
    merge_classes: StrictBool | None = Field(
        default=None, description="Join references that differ only in spaces or capitals."
    )


class ProbeAccuracyReport(Sent):
    """The result of ``probe-accuracy``: accuracy and areas with intervals; the file, if any."""

    accuracy: dict[str, Any]
    file: str | None
