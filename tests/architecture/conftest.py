"""The sources as syntax trees: what every module imports, and where."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Import:
    """One name that a module imports; ``late`` inside a function, ``relative`` with dots."""

    target: str
    late: bool
    relative: bool
    typing_only: bool


@dataclass(frozen=True)
class Module:
    """One source file; ``name`` with dots, below the repository's root."""

    path: Path
    name: str
    tree: ast.Module

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def imports(self) -> Iterator[Import]:
        """All imports as absolute names; ``from a import b`` gives ``a.b``."""
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        for node, late, typing_only in _walk(self.tree, late=False, typing_only=False):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, late, False, typing_only)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    parents = package.split(".")
                    kept = parents[: len(parents) - node.level + 1]
                    base = ".".join([*kept, base] if base else kept)
                for alias in node.names:
                    yield Import(f"{base}.{alias.name}", late, bool(node.level), typing_only)


def _walk(node: ast.AST, *, late: bool, typing_only: bool) -> Iterator[tuple[ast.AST, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        inside = late or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        typed = typing_only or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        yield child, inside, typed
        yield from _walk(child, late=inside, typing_only=typed)


def _read(folder: str) -> list[Module]:
    modules = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        modules.append(Module(path, ".".join(parts), tree))
    assert modules, f"{folder} holds no module"
    return modules


@pytest.fixture(scope="session")
def modules_of() -> Callable[[str], list[Module]]:
    """The modules of a folder of the repository."""
    return _read


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
