"""The zip: what is in it, that it is the same every time, and what the hub's scanners say."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import pytest


def test_one_top_folder_with_what_the_hub_wants(package):
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"terrakin"}
    assert {"terrakin/__init__.py", "terrakin/metadata.txt", "terrakin/LICENSE"} <= set(names)
    assert names == sorted(names)
    wrong = ("__pycache__", ".pyc", "\\", "..", "/.")
    assert not [name for name in names if any(part in name for part in wrong)]


def test_is_small(package):
    assert package.stat().st_size < 1024 * 1024


def test_is_named_after_its_version(package, script, root):
    version = script.read_metadata(root / "metadata.txt")["version"]
    assert package.name == f"terrakin-{version}.zip"


def test_is_the_same_every_time(package, script, root, tmp_path):
    assert script.build(root, tmp_path).read_bytes() == package.read_bytes()


@pytest.fixture
def small_root(tmp_path, root):
    """A repository with the least that can be packaged."""
    (tmp_path / "qgis_plugin" / "icons").mkdir(parents=True)
    (tmp_path / "qgis_plugin" / "__init__.py").write_text("")
    (tmp_path / "qgis_plugin" / "icons" / "terrakin.svg").write_text("<svg/>")
    for name in ("metadata.txt", "LICENSE"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    return tmp_path


def test_compiled_files_stay_out(script, small_root):
    cache = small_root / "qgis_plugin" / "__pycache__"
    cache.mkdir()
    (cache / "x.pyc").write_bytes(b"")
    with zipfile.ZipFile(script.build(small_root, small_root / "build")) as archive:
        assert not [name for name in archive.namelist() if "pyc" in name]


@pytest.mark.parametrize("name", [".hidden", "library.dll", "notes.md", "run.sh"])
def test_stray_files_stop_the_build(script, small_root, name):
    (small_root / "qgis_plugin" / name).write_text("stray")
    with pytest.raises(script.PackageError, match=name):
        script.build(small_root, small_root / "build")


@pytest.mark.parametrize(
    ("line", "change", "part"),
    [
        ("version=", "version=1.0", "not X.Y.Z"),
        ("author=", "author=a/b", "slash"),
        ("about=", "about=", "lacks about"),
        ("icon=", "icon=icons/missing.svg", "missing.svg"),
    ],
)
def test_bad_metadata_stops_the_build(script, small_root, line, change, part):
    path = small_root / "metadata.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change if x.startswith(line) else x for x in lines))
    with pytest.raises(script.PackageError, match=part):
        script.build(small_root, small_root / "build")


def test_bandit_finds_nothing(unzipped):
    """All of bandit's tests, all severities, nothing skipped."""
    done = subprocess.run(
        [sys.executable, "-m", "bandit", "-q", "-r", "-f", "json", str(unzipped)],
        capture_output=True,
        text=True,
    )
    report = json.loads(done.stdout)
    assert report["metrics"]["_totals"]["loc"] > 1000
    assert report["metrics"]["_totals"]["nosec"] == 0
    assert [(r["filename"], r["line_number"], r["test_id"]) for r in report["results"]] == []


def test_detect_secrets_finds_nothing(unzipped):
    """The command always exits with 0, so its report is read."""
    done = subprocess.run(
        [sys.executable, "-m", "detect_secrets", "scan", "--all-files", "."],
        cwd=unzipped,
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert len(report["plugins_used"]) > 15
    assert report["results"] == {}


def test_detect_secrets_would_find_one(tmp_path):
    """The check above can fail."""
    secret = "".join(["AKIA", "IOSFODNN7", "EXAMPLA"])
    (tmp_path / "leak.py").write_text(f"key = '{secret}'\n")
    done = subprocess.run(
        [sys.executable, "-m", "detect_secrets", "scan", "--all-files", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "leak.py" in json.loads(done.stdout)["results"]
