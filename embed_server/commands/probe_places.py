"""``terrakin probe queue``, ``sample`` and ``accuracy``: places to label, and what they prove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from embed_server.commands.probe import area_of, others_option
from embed_server.console import interruptible, note, progress_line, show
from embed_server.options import json_option, store_option

if TYPE_CHECKING:
    from embeddings.probe.queue import LabelQueue

_path = click.Path(path_type=Path)
SHOWN = 10


@click.command("queue")
@click.option("--model", type=_path, help="A probe.  [default: none: cover what is there]")
@store_option
@click.option("--collection", required=True, help="Where to label.")
@others_option
@click.option("--labels", type=_path, help="Labels there are; their chips are left out.")
@click.option("--layer", help="Layer of --labels.")
@click.option("--field", help="Field of --labels: only features with a value in it are labels.")
@click.option("--within", type=_path, help="Only centres in this file's polygons.")
@click.option("-n", "many", type=int, default=50, show_default=True, help="How many places.")
@click.option(
    "--strategy",
    type=click.Choice(["coverage", "uncertainty"]),
    help="Places unlike those labelled, or where the probe hesitates.  [default: by the number of "
    "labels a class]",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", required=True, type=_path, help="A GeoPackage to label in.")
@json_option
def queue_command(
    model: Path | None,
    store: Path,
    collection: str,
    others: tuple[str, ...],
    labels: Path | None,
    layer: str | None,
    field: str | None,
    within: Path | None,
    many: int,
    strategy: str | None,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """List the places that are worth labelling next, the most useful first.

    \b
    Example:
      terrakin probe queue --model carolina-classes --store ~/embeddings \\
          --collection carolina --labels landcover.shp -n 50 --out queue.gpkg
    """
    from embed_server.processes.probe_runs import KnownLabels, queue_to_file
    from embeddings.probe.queue import QueueOptions

    if labels is None and (layer is not None or field is not None):
        raise click.UsageError("--layer and --field go with --labels.")
    options = QueueOptions(many, area_of(within), strategy, seed)  # type: ignore[arg-type]  # Choice
    there = KnownLabels(labels, layer, field) if labels is not None else None
    with progress_line() as line, interruptible() as stop:
        found, summary = queue_to_file(
            store, collection, model, there, options, out, line, stop.is_set, others
        )
    shown = summary["places"]
    show(summary, _queue_lines(found, shown, out), as_json=as_json)


def _queue_lines(found: LabelQueue, places: list[dict[str, object]], out: Path) -> list[str]:
    what = {
        "coverage": "places that stand for others like them",
        "uncertainty": "places where the probe hesitates, no two alike",
    }[found.strategy]
    chips = "chips without a label" if found.labelled else "chips"
    lines = [f"{len(found):,} of {found.candidates:,} {chips}: {what}."]
    for each in places[:SHOWN]:
        lines.append(
            f"{each['rank']:>5}  {each['lon']:>11.6f} {each['lat']:>10.6f}  {each['id']}  "
            f"{each['why']}"
        )
    if len(places) > SHOWN:
        lines.append(f"  ... and {len(places) - SHOWN:,} more")
    return [*lines, f"Written: {out}. Fill in the field 'label'."]


@click.command("sample")
@click.option("--map", "source", required=True, type=_path, help="What 'probe predict' wrote.")
@click.option("-n", "total", type=int, help="How many places.")
@click.option(
    "--standard-error",
    type=float,
    help="In place of -n: as many as give the overall accuracy this standard error, 0.01.",
)
@click.option(
    "--minimum", type=int, default=50, show_default=True, help="Places of each class at least."
)
@click.option(
    "--expected-accuracy",
    type=float,
    default=0.8,
    show_default=True,
    help="A guess of each class's accuracy, for --standard-error.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", required=True, type=_path, help="A GeoPackage to fill in references.")
@json_option
def sample_command(
    source: Path,
    total: int | None,
    standard_error: float | None,
    minimum: int,
    expected_accuracy: float,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Draw a stratified random sample of a map, to learn how right it is.

    Places come in random order, and QGIS hides what the map says of them. Fill in the field
    'reference' with what is there, then run 'terrakin probe accuracy'.

    \b
    Example:
      terrakin probe sample --map landcover.tif -n 500 --out sample.gpkg
    """
    from embed_server.processes.probe_runs import sample_to_file
    from embeddings.probe.report import columns
    from embeddings.probe.sampling import SampleOptions

    if (total is None) == (standard_error is None):
        raise click.UsageError("Give either -n or --standard-error.")
    options = SampleOptions(total, minimum, standard_error, expected_accuracy, seed)
    drawn, summary = sample_to_file(source, options, out)
    for text in drawn.notes:
        note(f"Note: {text}")
    rows = [
        [each["map_class"], f"{each['units']:,}", f"{each['area_ha']:,.1f}", f"{each['sampled']:,}"]
        for each in summary["strata"]
    ]
    lines = [
        f"{drawn.places.num_rows:,} places drawn at random within each class of '{source.name}'.",
        *columns([["class", "units", "hectares", "places"], *rows]),
        f"Written: {out}. Fill in the field 'reference'.",
    ]
    show(summary, lines, as_json=as_json)


@click.command("accuracy")
@click.option("--sample", required=True, type=_path, help="What 'probe sample' wrote, filled in.")
@click.option(
    "--field", default="reference", show_default=True, help="Field with the true classes."
)
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Of the intervals.")
@click.option(
    "--merge-classes", is_flag=True, help="Join references that differ only in spaces or capitals."
)
@click.option("--out", type=_path, help="Write the report to .html (for people) or .json.")
@json_option
def accuracy_command(
    sample: Path,
    field: str,
    confidence: float,
    merge_classes: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Estimate a map's accuracy and its classes' areas from a filled-in sample.

    Area-adjusted, with confidence intervals, after Olofsson et al. (2014).

    \b
    Example:
      terrakin probe accuracy --sample sample.gpkg --out accuracy.html
    """
    from embed_server.processes.probe_runs import accuracy_to_file

    found, data = accuracy_to_file(sample, field, confidence, merge_classes, out)
    show(data, found.lines(), as_json=as_json)
    if out is not None:
        note(f"Written: {out}")
