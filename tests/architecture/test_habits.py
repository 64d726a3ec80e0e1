"""Habits of the house that a reader would otherwise have to check by eye."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ModulesOf = Callable[[str], list[Any]]

PACKAGES = ("embeddings", "embed_server", "qgis_plugin")
MOST_LINES = 400


@pytest.mark.parametrize("package", PACKAGES)
def test_files_stay_small(modules_of: ModulesOf, package: str) -> None:
    long = {m.name: n for m in modules_of(package) if (n := len(m.text.splitlines())) > MOST_LINES}
    assert long == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is_for(modules_of: ModulesOf, package: str) -> None:
    silent = [
        m.name for m in modules_of(package) if m.text.strip() and not ast.get_docstring(m.tree)
    ]
    assert silent == []


@pytest.mark.parametrize("package", PACKAGES)
def test_exceptions_to_the_tools_say_why(modules_of: ModulesOf, package: str) -> None:
    bare = re.compile(r"#\s*(type:\s*ignore(\[[^]]*\])?|nosec.*)\s*$")
    found = [
        f"{module.name}:{number}"
        for module in modules_of(package)
        for number, line in enumerate(module.text.splitlines(), start=1)
        if bare.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_error_is_swallowed(modules_of: ModulesOf, package: str) -> None:
    """No bare except, and no broad one that does nothing."""
    found = [
        f"{module.name}:{node.lineno}"
        for module in modules_of(package)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or (
                ast.unparse(node.type) in {"Exception", "BaseException"}
                and all(isinstance(s, ast.Pass | ast.Continue | ast.Return) for s in node.body)
            )
        )
    ]
    assert found == []


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_behaves_otherwise_in_ci(modules_of: ModulesOf, package: str) -> None:
    asked = re.compile(r"""environ(\.get\(|\[)["'](CI|GITHUB_ACTIONS)["']|getenv\(["']CI["']""")
    assert [m.name for m in modules_of(package) if asked.search(m.text)] == []


def test_the_server_never_listens_to_the_world(modules_of: ModulesOf) -> None:
    world = [m.name for m in modules_of("embed_server") if "0.0.0.0" in m.text]
    assert world == []


def test_one_error_tree_with_stable_codes(modules_of: ModulesOf) -> None:
    (errors,) = (m for m in modules_of("embeddings") if m.name == "embeddings.errors")
    classes = {n.name: n for n in errors.tree.body if isinstance(n, ast.ClassDef)}
    codes: dict[str, str] = {}
    for name, node in classes.items():
        bases = {ast.unparse(base) for base in node.bases}
        assert bases <= {"Exception", *classes}, f"{name} stands outside the tree"
        values = [
            ast.literal_eval(s.value)
            for s in node.body
            if isinstance(s, ast.Assign | ast.AnnAssign) and s.value is not None
        ]
        assert len(values) == 1, f"{name} has no code of its own"
        codes[name] = values[0]
    assert len(set(codes.values())) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes.values())


def test_the_version_stands_in_one_place(root: Path) -> None:
    metadata = (root / "metadata.txt").read_text(encoding="utf-8")
    version = re.search(r"^version=(\S+)$", metadata, re.MULTILINE)
    assert version
    assert 'dynamic = ["version"]' in (root / "pyproject.toml").read_text(encoding="utf-8")
    literal = f'"{version[1]}"'
    holders = [
        path.relative_to(root).as_posix()
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
        if literal in path.read_text(encoding="utf-8")
    ]
    assert holders == []
