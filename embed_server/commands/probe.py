"""``terrakin probe fit``, ``predict`` and ``info``: a probe from labels, and maps of it."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embed_server.console import EXIT_PARTLY, interruptible, note, progress_line, show
from embed_server.options import MetresType, json_option, store_option

if TYPE_CHECKING:
    from embeddings.probe.fit import FittedProbe
    from embeddings.probe.predict import PredictReport

_path = click.Path(path_type=Path)
_report_option = click.option(
    "--report", type=_path, help="Write the report to .html (for people) or .json (the same data)."
)

others_option = click.option(
    "--with",
    "others",
    multiple=True,
    help="Collection whose vectors stand beside, joined by the ids of the items; several times for "
    "more.",
)

OFF = "off"


class ErrorRateType(click.ParamType[float]):
    """A share, or "off"."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a float, NaN for "off", or fail with the reason."""
        if isinstance(value, float):
            return value
        if str(value).strip().lower() == OFF:
            return float("nan")
        try:
            share = float(value)
        except ValueError:
            share = float("nan")
        if math.isnan(share):
            self.fail(f"'{value}' is not a share. Write 0.1, or {OFF}.", param, ctx)
        return share


@click.group("probe")
def probe() -> None:
    """Fit linear probes to labels, predict with them, and judge the map."""


@probe.command("fit")
@store_option
@click.option("--collection", required=True, help="Whose vectors to learn from.")
@others_option
@click.option(
    "--labels",
    required=True,
    type=_path,
    help="Points, lines or polygons (GeoPackage, GeoJSON, Shapefile ...), a table with lon and "
    "lat, or a raster of classes or numbers.",
)
@click.option("--layer", help="Layer of the file.  [default: the only one]")
@click.option(
    "--field",
    help="Field with the classes or numbers; of a raster the band.  [default: none: all labels are "
    "places of one class]",
)
@click.option("--out", required=True, type=_path, help="MODEL: MODEL.safetensors and MODEL.json.")
@_report_option
@click.option(
    "--task",
    type=click.Choice(["classes", "number", "multilabel", "positive"]),
    help="What the field says.  [default: by its values]",
)
@click.option("--separator", help='What parts several classes in one text: ";".')
@click.option(
    "--merge-classes/--keep-classes",
    default=None,
    help="Join, or keep apart, classes that differ only in spaces or capitals.  [default: refuse]",
)
@click.option("--labels-crs", help="CRS of labels that say none: EPSG:32618.")
@click.option("--labels-nodata", type=float, help="Number that is no label, of a raster.")
@click.option("--date-field", help="Field with the labels' dates.")
@click.option(
    "--tolerance",
    "tolerance_days",
    type=float,
    default=30.0,
    show_default=True,
    help="Days that a label's date and a chip's may be apart, where both have one.",
)
@click.option(
    "--rule",
    type=click.Choice(["centre", "share", "contains"]),
    help="Which chips a polygon or a raster labels: those whose centre lies in it, those it covers "
    "by --min-share, or as centre, and else the chip that contains it.  [default: centre; of a "
    "raster share]",
)
@click.option("--min-share", type=float, default=0.5, show_default=True, help="For --rule share.")
@click.option(
    "--conflicts",
    type=click.Choice(["drop", "majority"]),
    help="Of chips with several classes.  [default: drop; of a raster majority]",
)
@click.option(
    "--kind",
    type=click.Choice(["logistic", "ridge", "centroid"]),
    default="logistic",
    show_default=True,
    help="Kind of probe; of a number always ridge.",
)
@click.option(
    "--strength", type=float, help="Penalty on weights.  [default: chosen on the spatial folds]"
)
@click.option("--balanced", is_flag=True, help="Let rare classes count as much as common ones.")
@click.option(
    "--folds", type=int, default=10, show_default=True, help="Regions to leave out in turn."
)
@click.option(
    "--block",
    "block_m",
    type=MetresType(),
    help="Width of a block: 5km.  [default: how far the labels resemble each other]",
)
@click.option(
    "--buffer",
    "buffer_m",
    type=MetresType(),
    help="What is nearer to a left-out region is not trained on.  [default: an eighth of a block]",
)
@click.option(
    "--unknown-error",
    type=ErrorRateType(),
    default="0.1",
    show_default=True,
    help="Share of errors that may remain among the accepted predictions, or 'off'. What is unlike "
    "the training data stays unknown either way, but for 'probe predict --name-all'.",
)
@click.option("--unknown-per-class", "threshold_per_class", is_flag=True, help="... in each class.")
@click.option("--no-curve", is_flag=True, help="Leave out the learning curve, which takes longest.")
@click.option("--background", type=int, help="Places drawn beside positives.  [default: 1000 up]")
@click.option("--prevalence", type=float, help="Share of all places that are positive, if known.")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def fit_command(
    out: Path,
    report: Path | None,
    unknown_error: float,
    no_curve: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit a probe to labels, and say how good it is away from them.

    Chips get the labels they lie under. The probe is tested on whole regions that were left out of
    its training; the report gives that beside what a random split would have promised. Nothing is
    written before all is done. Exit code 3: the probe was written, but no region could be left
    out, so that no accuracy is known.

    \b
    Examples:
      terrakin probe fit --store ~/embeddings --collection carolina --labels landcover.shp \\
          --field class --out carolina-classes --report carolina-classes.html
      terrakin probe fit --store ~/embeddings --collection world --labels stations.csv \\
          --field temperature --out temperature
    """
    from embed_server.processes.probe_runs import fit_to_files, written_by_fit
    from embeddings.probe.fit_job import ProbeJob
    from embeddings.probe.report import report_lines

    off = unknown_error != unknown_error
    job = ProbeJob(
        out=out, unknown_error=None if off else unknown_error, curve=not no_curve, **options
    )
    with progress_line() as line, interruptible() as stop:
        outcome, made = fit_to_files(job, out, report, line, stop.is_set, _tell_fitted)
    show(made, report_lines(made), as_json=as_json)
    note(f"Written: {', '.join(map(str, written_by_fit(out, report)))}")
    if outcome.validation is None:
        sys.exit(EXIT_PARTLY)


def _tell_fitted(first: FittedProbe) -> None:
    seconds = first.seconds
    note(
        f"Fitted to {len(first.samples):,} vectors in {seconds['fit']:.2f} s (labels read and "
        f"joined in {seconds['labels']:.2f} s). Validating ..."
    )


@probe.command("predict")
@click.option("--model", required=True, type=_path, help="What 'probe fit' wrote.")
@store_option
@click.option("--collection", required=True, help="What to predict.")
@others_option
@click.option("--within", type=_path, help="Only centres in this file's polygons.")
@click.option("--datetime", "time", help="Only this time: 2018-10-13, A/B, A/.. or ../B.")
@click.option("--scene", "scenes", multiple=True, help="Only this scene; several times for more.")
@click.option(
    "--out",
    required=True,
    type=_path,
    help=".tif (a pixel a chip), .gpkg or .parquet (a footprint a chip).",
)
@click.option(
    "--per-class", is_flag=True, help="The probability of each class, too; of .tif with --measures."
)
@click.option(
    "--measures",
    is_flag=True,
    help="Of .tif: probability, margin, entropy and applicability in NAME_probability.tif.",
)
@click.option("--name-all", is_flag=True, help="The likeliest class everywhere, never unknown.")
@click.option("--workers", type=int, default=1, show_default=True, help="Processes that compute.")
@click.option(
    "--scheduler",
    help="Compute on a Dask cluster that sees the store under the same name: tcp://HOST:PORT.",
)
@json_option
def predict_command(
    model: Path,
    store: Path,
    collection: str,
    others: tuple[str, ...],
    within: Path | None,
    time: str | None,
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Predict the chips of a collection with a probe, and write a map.

    The collection's vectors must be made as those were that the probe was fitted to. A file that
    is there is replaced once the new one is whole.

    \b
    Example:
      terrakin probe predict --model carolina-classes --store ~/embeddings \\
          --collection carolina --out landcover.tif
    """
    from embed_server.processes.probe_runs import predict_to_file
    from embeddings.probe.predict import PredictOptions

    asked = PredictOptions(**options)
    with progress_line() as line, interruptible() as stop:
        area = area_of(within)
        loaded, done = predict_to_file(
            model, store, collection, out, area, time, asked, line, stop.is_set, others, within
        )
    for text in done.notes:
        note(f"Note: {text}")
    show(done.to_json(), _prediction_lines(done, loaded.probe.task), as_json=as_json)


def area_of(within: Path | None) -> Any:
    """Return the area of a file, telling what was mended in it; None for none."""
    if within is None:
        return None
    from embeddings.query.polygons import read_polygons

    read = read_polygons(within)
    for text in read.notes:
        note(f"Note: {text}")
    return read.area


def _prediction_lines(done: PredictReport, task: str) -> list[str]:
    from embeddings.probe.predict_tables import named
    from embeddings.probe.report import columns

    head = f"{done.rows:,} chips of collection '{done.collection}' predicted."
    lines = [head]
    if done.classes:
        counts = list(done.classes.items())
        if task == "classes":
            # A class may itself be called unknown.
            counts.append((named(tuple(done.classes))[-1], done.unknown))
        rows = [[name, f"{n:,}", f"{n / max(done.rows, 1):.1%}"] for name, n in counts]
        lines += columns([["class", "chips", "share"], *rows])
    if done.no_data:
        lines.append(f"{done.no_data:,} chips without data have no prediction.")
    return [*lines, f"Written: {', '.join(done.files)}"]


@probe.command("info")
@click.argument("model", type=_path)
@_report_option
@json_option
def info_command(model: Path, report: Path | None, as_json: bool) -> None:
    """Say what a probe was fitted to and how good it is, from its file alone.

    \b
    Example:
      terrakin probe info carolina-classes --report carolina-classes.html
    """
    from embeddings.probe.model import ProbeModel
    from embeddings.probe.report import check_report_path, probe_report, report_lines, write_report

    if report is not None:
        check_report_path(report, model)
    made = probe_report(ProbeModel.load(model))
    if report is not None:
        write_report(made, report)
        note(f"Written: {report}")
    show(made, report_lines(made), as_json=as_json)
