"""The plugin as it is packaged, without QGIS: only what needs no qgis can be imported here."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def _package_script():
    spec = importlib.util.spec_from_file_location("package", ROOT / ".ci" / "package.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The package is built once, before the test modules import from it.
_folder = tempfile.TemporaryDirectory(prefix="terrakin-package-")
_script = _package_script()
_zip = _script.build(ROOT, Path(_folder.name))
with zipfile.ZipFile(_zip) as archive:
    archive.extractall(Path(_folder.name) / "plugins")
sys.path.insert(0, str(Path(_folder.name) / "plugins"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def script():
    """The module .ci/package.py."""
    return _script


@pytest.fixture(scope="session")
def package() -> Path:
    """The zip."""
    return _zip


@pytest.fixture(scope="session")
def unzipped() -> Path:
    """The unzipped plugin."""
    return Path(_folder.name) / "plugins" / "terrakin"
