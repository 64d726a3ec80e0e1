"""The rules of the house and of the plugin hub, read from the plugin's syntax trees."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

LAYERS = ("core", "algorithms", "gui", "plugin")
PURE = ("core.errors", "core.wire", "core.endpoints", "core.provenance", "core.version")
FORBIDDEN_MODULES = {
    *("pickle", "marshal", "shelve", "subprocess", "socket", "random", "http", "requests"),
    *("urllib.request", "xml", "ctypes", "embeddings", "embed_server", "PyQt5", "PyQt6"),
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "exec_"}
OLD_ENUM = re.compile(
    r"\b(Qt\.(?!\w+\.)(?:[A-Z]\w+)|QgsWkbTypes\.(?!Type\b)\w+|Qgis\.(?:Info|Warning|Critical|"
    r"Success)\b|QProcess\.(?:NotRunning|Running|FailedToStart)\b|QgsTask\.CanCancel\b|"
    r"QgsProcessing\.Type\w+|QgsProcessingParameterNumber\.(?:Integer|Double)\b)"
)


def modules(folder: Path) -> dict[str, ast.Module]:
    """The plugin's modules by dotted name."""
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): ast.parse(
            path.read_text(), str(path), feature_version=(3, 9)
        )
        for path in sorted(folder.rglob("*.py"))
    }


def imports(name: str, tree: ast.Module) -> list[tuple[int, str]]:
    """All imports as (level, dotted module); relative ones are resolved within the plugin."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: -node.level] if node.level else []
            found.append((node.level, ".".join([*base, node.module or ""]).strip(".")))
    return found


@pytest.fixture(scope="module")
def trees(unzipped):
    return modules(unzipped)


def test_imports_are_relative_or_standard_or_qgis(trees):
    allowed = {*sys.stdlib_module_names, "qgis"}
    wrong = [
        (name, module)
        for name, tree in trees.items()
        for level, module in imports(name, tree)
        if level == 0 and module.split(".")[0] not in allowed
    ]
    assert wrong == []


def test_nothing_dangerous_is_imported_or_called(trees):
    wrong = []
    for name, tree in trees.items():
        for _, module in imports(name, tree):
            parts = module.split(".")
            prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
            wrong += [(name, found) for found in prefixes & FORBIDDEN_MODULES]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                wrong += [(name, node.func.id)] if node.func.id in FORBIDDEN_CALLS else []
            if isinstance(node, ast.Attribute) and node.attr == "exec_":
                wrong.append((name, "exec_"))
            if isinstance(node, ast.Assert):
                wrong.append((name, "assert"))
    assert wrong == []


def test_layers_know_only_what_lies_below(trees):
    wrong = []
    for name, tree in trees.items():
        own = name.split(".")[0]
        if own not in LAYERS:
            continue
        for level, module in imports(name, tree):
            other = module.split(".")[0]
            if level and other in LAYERS and LAYERS.index(other) > LAYERS.index(own):
                wrong.append((name, module))
    assert wrong == []


def test_core_has_no_widgets_and_no_iface(trees):
    wrong = []
    for name, tree in trees.items():
        if name.startswith("core"):
            wrong += [
                (name, module)
                for _, module in imports(name, tree)
                if module.startswith(("qgis.gui", "qgis.utils", "qgis.PyQt.QtWidgets"))
            ]
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            wrong += [(name, "iface")] if "iface" in names else []
    assert wrong == []


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_load_without_qgis(name, unzipped):
    code = (
        f"import sys; sys.path.insert(0, {str(unzipped.parent)!r}); import terrakin.{name}; "
        "print([m for m in sys.modules if m.startswith('qgis')])"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_enums_are_scoped_for_qt6(unzipped):
    wrong = [
        (path.name, match.group(0))
        for path in unzipped.rglob("*.py")
        for match in OLD_ENUM.finditer(path.read_text())
    ]
    assert wrong == []
    assert OLD_ENUM.search("x = Qt.RightDockWidgetArea")
    assert OLD_ENUM.search("QgsTask.CanCancel")
    assert not OLD_ENUM.search("Qt.DockWidgetArea.RightDockWidgetArea")


def test_metadata(unzipped):
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read(unzipped / "metadata.txt", encoding="utf-8")
    general = parser["general"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", general["version"])
    assert general["qgisMinimumVersion"] == "3.22"
    assert general["qgisMaximumVersion"] == "4.99"
    assert "supportsQt6" not in general
    assert "plugin" not in general["name"].lower()
    assert general["hasProcessingProvider"] == "yes"
    assert general["license"] == "GPL-2.0-or-later"
    assert (unzipped / general["icon"]).is_file()
    assert general["version"] in general["changelog"]
    assert "README" in general["about"], "it says where the command comes from"
    for key in ("homepage", "tracker", "repository"):
        assert general[key].startswith("https://")


def test_version_is_the_one_in_metadata(unzipped):
    from terrakin.core.version import icon_path, plugin_version

    assert f"version={plugin_version()}" in (unzipped / "metadata.txt").read_text()
    assert Path(icon_path("terrakin.svg")).is_file()


def test_every_icon_named_in_the_code_exists(unzipped):
    named = {
        match
        for path in unzipped.rglob("*.py")
        for match in re.findall(r'(?:icon_path\(|ICON = |_action\()"(\w+\.svg)"', path.read_text())
    }
    icons = {path.name for path in (unzipped / "icons").iterdir()}
    assert named == icons
