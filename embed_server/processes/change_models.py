"""The wire contract of the processes of change, named as the options of the commands.

What a client leaves out, or null, is left to ``embeddings``. Paths are absolute, on the server's
machine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictStr

from embed_server.models import Received, Sent

Sources = Annotated[list[StrictStr], Field(min_length=1)]
Box = Annotated[list[StrictFloat], Field(min_length=4, max_length=4)]

REPORT = "Absolute paths of reports to write, .html or .json."
MIN_AREA = "Smallest object in square metres."


class ChangeRasterInputs(Received):
    """What ``change-raster`` takes: two dates, and what is written where."""

    before: Sources = Field(
        description="Date 1: absolute paths of its bands as files, of a folder or a STAC item; or "
        "addresses."
    )
    after: Sources = Field(description="Date 2, in the same way.")
    out: StrictStr = Field(
        description="Absolute path SCORE.tif; SCORE_coverage.tif is written beside it."
    )
    classes: StrictStr | None = Field(
        default=None, description="Absolute path of a .tif of no change and change, or its kinds."
    )
    objects: StrictStr | None = Field(
        default=None, description="Absolute path of a .gpkg of the places that changed."
    )
    report: list[StrictStr] | None = Field(default=None, description=REPORT)
    probability: StrictBool | None = Field(
        default=None, description="Add the probability of change as band 2."
    )
    threshold: StrictStr | None = Field(
        default=None,
        description="Where change begins: 'otsu', 'fdr=RATE', a score or 'clicks'. Default: "
        "'fdr=0.1'; the clicks, if they say what changed and what did not.",
    )
    clicks: StrictStr | None = Field(
        default=None,
        description="Absolute path of points or polygons that changed and did not, or of kinds of "
        "change.",
    )
    field: StrictStr | None = Field(
        default=None, description="Field of clicks: yes and no, or the kinds."
    )
    min_area_m2: StrictFloat | None = Field(
        default=None, description=f"{MIN_AREA} Default: 4 pixels."
    )
    before_date: StrictStr | None = Field(
        default=None, description="ISO 8601, or a pattern of the file names such as %Y%m%d."
    )
    after_date: StrictStr | None = Field(default=None, description="The same of date 2.")
    bands: list[StrictStr] | None = Field(
        default=None, description="Which bands of both dates. Default: all."
    )
    mask: StrictStr | None = Field(
        default=None, description="Band of missing pixels: 'SCL', 'QA_PIXEL=bit3,bit4'."
    )
    nodata: StrictFloat | Literal["none"] | None = Field(
        default=None, description="Value of pixels without data; by default the files say it."
    )
    offset: StrictFloat | None = Field(
        default=None, description="Added to every number of the files, before the scale."
    )
    scale: StrictFloat | None = Field(
        default=None, description="What numbers are multiplied with, in place of the files' own."
    )
    gsd: StrictStr | None = Field(
        default=None, description="Compare at pixels of this size: '20m'. Default: of date 1."
    )
    bbox: Box | None = Field(
        default=None, description="Only this part: [west, south, east, north] in degrees."
    )
    register_: StrictBool | None = Field(
        default=None,
        alias="register",
        description="Measure how far date 2 lies beside date 1, and undo it. Default: true.",
    )


class ChangeCollectionInputs(Received):
    """What ``change-collection`` takes: whose vectors, which dates, and what is written where."""

    collection: StrictStr = Field(description="Whose vectors to compare.")
    out: StrictStr = Field(
        description="Absolute path; .tif (a pixel a chip), .gpkg or .parquet (a footprint a chip)."
    )
    start: StrictStr | None = Field(
        default=None, alias="from", description="Date 1, ISO 8601. Default: the first there is."
    )
    end: StrictStr | None = Field(
        default=None, alias="to", description="Date 2, ISO 8601. Default: the last there is."
    )
    tolerance_days: StrictFloat | None = Field(
        default=None,
        description="Days that chips may be apart from the date asked for. Default: 30.",
    )
    with_collection: StrictStr | None = Field(
        default=None, description="The collection of date 2, if it is another of one spec."
    )
    dense: StrictStr | None = Field(
        default=None,
        description="Compare stored dense vectors, cell by cell: their stride ('2', '40m'), or "
        "'any' for the one there is.",
    )
    with_: list[StrictStr] | None = Field(
        default=None,
        alias="with",
        description="Of dense: collections of the same scenes with other chip sizes, whose scores "
        "count as much.",
    )
    all_dates: StrictBool | None = Field(
        default=None, description="Since when: the first lasting change of each place."
    )
    report: list[StrictStr] | None = Field(default=None, description=REPORT)
    metric: Literal["euclidean", "cosine"] | None = Field(
        default=None,
        description="Whether the length of vectors counts, or their direction alone. Default: "
        "euclidean.",
    )
    threshold: StrictStr | None = Field(
        default=None,
        description="Where change begins: a score, 'otsu', 'fdr=RATE' or 'clicks'. Default: "
        "'2.326'; the clicks, if they say what changed and what did not.",
    )
    false_alarms: StrictFloat | None = Field(
        default=None,
        description="Of all_dates: share of unchanged places that may be named. Default: 0.05.",
    )
    history: StrictBool | None = Field(
        default=None, description="The score against each place's own history, too."
    )
    probe: StrictStr | None = Field(
        default=None, description="Absolute path of a model of land cover: from what into what."
    )
    clicks: StrictStr | None = Field(
        default=None,
        description="Absolute path of labels on places that changed and did not, or of kinds of "
        "change.",
    )
    field: StrictStr | None = Field(
        default=None, description="Field of clicks: yes and no, or the kinds."
    )
    clicks_from: Literal["both", "after", "move"] | None = Field(
        default=None, description="What the kinds are told by. Default: both."
    )
    objects: StrictStr | None = Field(
        default=None, description="Absolute path of a .gpkg of chips that changed together."
    )
    min_area_m2: StrictFloat | None = Field(
        default=None, description=f"{MIN_AREA} Default: one chip."
    )
    bbox: Box | None = Field(
        default=None, description="Only centres in [west, south, east, north], degrees."
    )


class ChangeReport(Sent):
    """The result of both: what was written, and the report as the command prints it."""

    files: list[str]
    change: dict[str, Any]
