"""The docs are a contract: commands, routes, error codes, settings and algorithms stand there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from embed_server import cli
from embed_server.app import create_app
from embed_server.settings import LimitSettings, SecuritySettings, Settings
from embeddings import errors
from embeddings.store import Store
from embeddings.store.schema import ITEM_COLUMNS


@pytest.fixture(scope="module")
def docs(root: Path) -> dict[str, str]:
    files = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in files}


@pytest.fixture(scope="module")
def everything(docs: dict[str, str]) -> str:
    return "\n".join(docs.values())


def _leaves(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _leaves(command, *path, name)
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(_leaves(cli.terrakin)), ids=" ".join)
def test_every_command_is_in_the_docs(everything: str, path: tuple[str, ...]) -> None:
    written = " ".join(path)
    assert f"terrakin {written}" in everything or f"`{written}`" in everything


def test_every_command_in_the_docs_exists(docs: dict[str, str]) -> None:
    known = {" ".join(path) for path in _leaves(cli.terrakin)}
    groups = {words.split()[0] for words in known}
    for name, text in docs.items():
        for block in re.findall(r"```(?:sh|bash|console)?\n(.*?)```", text, re.DOTALL):
            for line in re.findall(r"^\$? ?terrakin (\w+)(?: (\w+))?", block, re.MULTILINE):
                assert line[0] in groups, f"{name}: terrakin {line[0]}"
                assert line[0] in known or " ".join(line) in known, f"{name}: terrakin {line}"


def test_every_route_is_in_the_interface(docs: dict[str, str], tmp_path: Path) -> None:
    Store.create(tmp_path / "store")
    described = create_app(Settings(store=tmp_path / "store")).openapi()["paths"]
    table = re.sub(r"\{[^}]*\}", "{}", docs["docs/api.md"])
    routes = {
        f"`{method.upper()} {re.sub(r'{[^}]*}', '{}', path)}`"
        for path, methods in described.items()
        for method in methods
    }
    assert len(routes) >= 12
    assert {route for route in routes if route not in table} == set()
    written = set(re.findall(r"`(?:GET|POST|DELETE) /[^`?]*`", table))
    assert {route for route in written if route not in routes} <= {"`GET /api`"}


def test_every_error_code_is_in_the_interface(docs: dict[str, str]) -> None:
    codes = {
        value.code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.TerrakinError)
    }
    missing = {code for code in codes if f"`{code}`" not in docs["docs/api.md"]}
    # The root and a job's own end are never answered to a request.
    assert missing <= {"error", "cancelled"}


@pytest.mark.parametrize("settings", [LimitSettings, SecuritySettings])
def test_every_setting_is_in_the_docs(everything: str, settings: Any) -> None:
    prefix = settings.model_config["env_prefix"]
    for field in settings.model_fields:
        assert f"{prefix}{field}".upper() in everything


def test_every_column_and_key_is_in_the_data_format(docs: dict[str, str]) -> None:
    names = [*ITEM_COLUMNS, "embedding", "geo", "emb", "terrakin:spec", "terrakin:scenes"]
    assert [name for name in names if f"`{name}`" not in docs["docs/data-format.md"]] == []


def test_every_processing_algorithm_is_in_the_docs(
    everything: str, modules_of: Callable[[str], Any]
) -> None:
    found = [
        name
        for module in modules_of("qgis_plugin")
        if module.name.startswith("qgis_plugin.algorithms.")
        for name in re.findall(r'^    ID = "([a-z]+)"', module.text, re.MULTILINE)
    ]
    assert len(found) >= 2
    assert [name for name in found if f"terrakin:{name}" not in everything] == []


def test_links_between_the_docs_lead_somewhere(root: Path, docs: dict[str, str]) -> None:
    broken = []
    for name, text in docs.items():
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target and not (root / name).parent.joinpath(target).exists():
                broken.append(f"{name}: {target}")
    assert broken == []


def test_every_target_of_make_says_what_it_does(root: Path) -> None:
    text = (root / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert targets
    for target in targets[1].split():
        assert re.search(rf"^{target}:", text, re.MULTILINE), target
    described = set(re.findall(r"^([a-z-]+):.*  ## ", text, re.MULTILINE))
    assert {"help", "setup", "demo", "test", "lint", "types", "serve", "package"} <= described
