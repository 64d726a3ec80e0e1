"""``make demo`` hands a scene and the options of ``terrakin demo`` on."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from embed_server.commands.serve import demo
from embeddings.types import LonLat

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_scene_and_options_reach_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["SCENE=a.tif b.tif", "ARGS=--at -76.657,34.718 --nodata 255"]
    make = ["make", "--dry-run", "--silent", "-o", ".venv/run", "demo", *given]
    printed = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [line] = [line for line in printed.splitlines() if "terrakin demo" in line]
    arguments = shlex.split(line)[2:]

    asked: dict[str, object] = {}
    monkeypatch.setattr("embed_server.demo.run", lambda files, _, **o: asked.update(o, files=files))
    done = CliRunner().invoke(demo, arguments)
    assert done.exit_code == 0, done.output
    assert asked["files"] == ("a.tif", "b.tif")
    assert (asked["at"], asked["nodata"]) == (LonLat(-76.657, 34.718), "255")
