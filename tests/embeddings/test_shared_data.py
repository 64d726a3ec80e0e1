"""What a test run says of the evaluation data: how many tests used it, and how many missed it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
TESTS = """
def test_one(shared):
    assert shared.is_dir()

def test_two(shared):
    assert shared.is_dir()

def test_other():
    pass
"""


def summary(folder: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return [line for line in done.stdout.splitlines() if line.startswith("shared_data: ")]


def test_the_run_tells_how_many_tests_used_the_evaluation_data(tmp_path: Path) -> None:
    tests = tmp_path / "repository" / "tests"
    tests.mkdir(parents=True)
    shutil.copy(CONFTEST, tests)
    (tests / "test_it.py").write_text(TESTS)
    assert summary(tests) == ["shared_data: 0 ran, 2 skipped"]
    assert summary(tests, "-k", "other") == []
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert summary(tests) == ["shared_data: 2 ran, 0 skipped"]
