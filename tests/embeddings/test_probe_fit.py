"""Labels and a collection → a judged probe and its report; the map before the judgement."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.errors import (
    CancelledError,
    CollectionNotFoundError,
    InputError,
    SourceError,
    StorageFullError,
    StoreNotWritableError,
)
from embeddings.probe.fit import FittedProbe, fit_first, fit_probe, judge
from embeddings.probe.layer_file import check_layer_path
from embeddings.probe.model import ProbeModel
from embeddings.probe.predict import check_out
from embeddings.probe.report import check_report_path, probe_report, report_lines, write_report
from embeddings.report import Progress
from embeddings.store import Store
from embeddings.store.reader import Reader
from tests.embeddings.label_data import write_labels
from tests.embeddings.probe_data import CLASSES, centre, job, make_store, truth, write_points


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("probe") / "store")


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_points(tmp_path_factory.mktemp("labels") / "points.gpkg")


def test_the_probe_is_there_before_it_is_judged(store: Path, labels: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first: list[FittedProbe] = []

    def hear(progress: Progress) -> None:
        assert 0 <= progress.done <= progress.total
        said.append(progress.message)

    def fitted(probe: FittedProbe) -> None:
        said.append("handed over")
        first.append(probe)
        assert not list(tmp_path.iterdir())

    outcome = fit_probe(job(store, labels, out=tmp_path / "model"), hear, fitted=fitted)
    assert said.index("fitted") < said.index("handed over") < said.index("validating")
    assert said[-1] == "done"
    assert first[0].model.validation == {}
    assert first[0].model.probe.thresholds is None
    assert outcome.model.probe.thresholds is not None
    assert outcome.model.probe.applicability is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_what_is_saved_predicts_the_truth(store: Path, labels: Path, tmp_path: Path) -> None:
    outcome = fit_probe(job(store, labels, unknown_error=None, out=tmp_path / "model"))
    model = ProbeModel.load(tmp_path / "model")
    assert model.sha256 == outcome.model.sha256
    assert model.probe.thresholds is None
    collection = Store.open(store).collection("land")
    model.check(collection.spec)
    vectors = Reader(collection).vectors(np.arange(collection.count))
    names = np.array(model.probe.classes)[model.probe.predict(vectors)]
    assert (names == np.array(CLASSES)[truth().ravel()]).mean() > 0.95
    assert model.validation["selection"] is None
    assert model.provenance["job"]["field"] == "class"
    assert len(model.provenance["labels_sha256"]) == 64
    assert model.labels["chips_used"] == 250


def test_both_steps_give_what_one_gives(store: Path, labels: Path) -> None:
    asked = job(store, labels)
    apart = judge(fit_first(asked))
    assert apart.model.sha256 == fit_probe(asked).model.sha256


def test_a_strength_that_was_asked_for_is_kept_and_told(store: Path, labels: Path) -> None:
    model = fit_probe(job(store, labels, strength=7.5)).model
    assert model.probe.strength == 7.5
    assert model.validation["settings"]["strength"] == 7.5
    # The figures are of probes with that strength, not of the one that would have been chosen.
    assert [each["strength"] for each in model.validation["strengths_tried"]] == [7.5]
    assert any("strength 7.5, as asked for" in line for line in report_lines(probe_report(model)))


def test_the_strength_chosen_and_those_tried_are_told(store: Path, labels: Path) -> None:
    model = fit_probe(job(store, labels)).model
    tried = {each["strength"]: each["loss"] for each in model.validation["strengths_tried"]}
    assert len(tried) > 1
    assert model.probe.strength == model.validation["strength"] == min(tried, key=tried.__getitem__)
    lines = report_lines(probe_report(model))
    assert any(f"strength {model.probe.strength:g}, which had the least" in line for line in lines)


def test_a_model_holds_no_path_of_this_machine(store: Path, labels: Path, tmp_path: Path) -> None:
    fit_probe(job(store, labels, out=tmp_path / "model"))
    text = (tmp_path / "model.json").read_text(encoding="utf-8")
    assert labels.name in text
    for folder in (labels.parent, store, tmp_path):
        assert str(folder) not in text


def test_a_folder_that_refuses_files_is_told_before_the_fit(
    store: Path, labels: Path, tmp_path: Path, closed: Callable[[Path], None]
) -> None:
    folder = tmp_path / "shut"
    folder.mkdir()
    asked = job(store, labels, out=folder / "model")
    closed(folder)
    with pytest.raises(StoreNotWritableError, match="Choose a folder you may write to"):
        asked.check()
    for name, check in (
        ("report.html", check_report_path),
        ("map.tif", check_out),
        ("next.gpkg", check_layer_path),
    ):
        with pytest.raises(StoreNotWritableError, match="permissions"):
            check(folder / name)


@pytest.mark.parametrize("after", ["labelled vectors read", "fitted", "validating"])
def test_a_cancelled_fit_writes_nothing(
    store: Path, labels: Path, tmp_path: Path, after: str
) -> None:
    said: list[str] = []
    with pytest.raises(CancelledError, match="Nothing was written"):
        fit_probe(
            job(store, labels, out=tmp_path / "model"),
            lambda progress: said.append(progress.message),
            lambda: any(after in text for text in said),
        )
    assert after in said[-1]
    assert not list(tmp_path.iterdir())


def test_labels_of_one_block_give_a_map_and_no_accuracy(store: Path, labels: Path) -> None:
    outcome = fit_probe(job(store, labels, block_m=1e7))
    assert outcome.validation is None
    assert outcome.model.probe.thresholds is None
    (warning,) = outcome.model.validation["warnings"]
    assert "one block" in warning
    assert "no figure speaks for it" in warning
    lines = report_lines(probe_report(outcome.model))
    assert any(warning in line for line in lines)
    assert not any("left-out regions" in line for line in lines)


def test_positives_are_told_from_a_background_without_them(store: Path, tmp_path: Path) -> None:
    sea = np.argwhere(truth() == 0)[::4]
    path = write_labels(
        tmp_path / "sea.gpkg", [centre(*chip) for chip in sea.tolist()], n=[*range(len(sea))]
    )
    first = fit_first(job(store, path, field=None, background=200, prevalence=0.3))
    assert first.samples.task == "positive"
    assert int(first.samples.target.sum()) == len(sea)
    assert len(first.samples) == len(sea) + 200
    assert first.model.probe.prevalence == 0.3
    positives = {tuple(v) for v in first.samples.vectors[first.samples.target].tolist()}
    background = {tuple(v) for v in first.samples.vectors[~first.samples.target].tolist()}
    assert not positives & background
    assert judge(first).model.validation["spatial"]["figures"]["auc"]["value"] > 0.8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "forest"}, "'forest' is no kind of probe"),
        ({"folds": 1}, "1 folds were asked for"),
        ({"unknown_error": 1.5}, "error rate of unknown is 1.5"),
        ({"block_m": -3.0}, "block size is -3"),
        ({"buffer_m": float("nan")}, "buffer is nan"),
        ({"strength": -1.0}, "strength is -1"),
        ({"prevalence": 0.0}, "prevalence is 0"),
        ({"rule": "half"}, "'half' is not a rule"),
        ({"conflicts": "mean"}, "'mean' is not drop or majority"),
        ({"task": "clustering"}, "'clustering' is not a task"),
        ({"field": "absent"}, "absent"),
        ({"task": "number"}, "class"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"labels_nodata": 0.0}, "is no raster"),
        ({"tolerance_days": 5.0}, "no field of dates"),
        ({"min_share": 0.8}, "rule 'centre', which uses none"),
        ({"prevalence": 0.2}, "A prevalence was asked for, which means nothing"),
        ({"background": 9}, "A number of background places was asked for"),
    ],
)
def test_what_cannot_be_used_is_one_clear_error(
    store: Path, labels: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        fit_probe(job(store, labels, out=tmp_path / "model", **changes))
    assert not list(tmp_path.iterdir())


def test_missing_files_and_collections_are_named(store: Path, labels: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.gpkg"):
        fit_probe(job(store, tmp_path / "none.gpkg"))
    with pytest.raises(InputError, match="in a folder that exists"):
        fit_probe(job(store, labels, out=tmp_path / "no" / "model"))
    other = job(store, labels)
    with pytest.raises(CollectionNotFoundError):
        fit_probe(type(other)(store, "sea", labels, field="class"))


class _Checked(HTMLParser):
    """Sees that every tag is closed, and collects the tags and the text."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    "changes",
    [
        {"field": "class", "curve": True},
        {"field": "height"},
        {"field": "both", "separator": ";"},
        {"field": None},
        {"field": "class", "block_m": 1e7},
    ],
    ids=["classes", "number", "multilabel", "positive", "not judged"],
)
def test_reports_stand_alone_and_hold_the_same_data(
    store: Path, labels: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    model = fit_probe(job(store, labels, **changes)).model
    report = probe_report(model)
    for name in ("report.json", "report.html"):
        write_report(report, tmp_path / name)
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert data["validation"].get("warnings") == list(model.validation["warnings"])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = _Checked(text)
    assert not {"script", "link", "img", "iframe", "b"} & set(page.seen)
    assert "url(" not in text
    for warning in model.validation["warnings"]:
        assert warning in page.text
    assert model.sha256 in page.text
    assert ("svg" in page.seen) == ("spatial" in model.validation)
    if model.probe.task == "classes":
        assert CLASSES[0] in page.text
        assert CLASSES[0] not in text
    lines = report_lines(data)
    assert all(len(line.splitlines()) <= 1 for line in lines)


def test_a_report_made_from_the_file_is_the_same(store: Path, labels: Path, tmp_path: Path) -> None:
    outcome = fit_probe(job(store, labels, out=tmp_path / "model"))
    write_report(probe_report(outcome.model), tmp_path / "first.html")
    write_report(probe_report(ProbeModel.load(tmp_path / "model")), tmp_path / "second.html")
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


@pytest.mark.parametrize("name", ["report.pdf", "report", "no/report.html"])
def test_reports_that_cannot_be_written_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        write_report({}, tmp_path / name)


def test_a_report_and_its_model_are_written_both_or_neither(
    store: Path, labels: Path, tmp_path: Path
) -> None:
    report = probe_report(fit_probe(job(store, labels)).model)

    def full() -> None:
        raise StorageFullError("no space")

    with pytest.raises(StorageFullError):
        write_report(report, tmp_path / "report.html", also=full)
    assert not list(tmp_path.iterdir())
    done: list[int] = []
    with pytest.raises(ValueError, match="JSON"):
        write_report({"x": float("nan")}, tmp_path / "report.json", also=lambda: done.append(1))
    assert not done
    assert not list(tmp_path.iterdir())
