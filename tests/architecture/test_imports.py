"""Who may import whom. docs/ARCHITECTURE.md says why; a rule that is not tested does not exist."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from typing import Any

import pytest

ModulesOf = Callable[[str], list[Any]]

PACKAGES = ("embeddings", "embed_server", "qgis_plugin")

# In every table a name stands for a module or for a package with all that is in it.
EMBEDDINGS = [
    {"errors", "types", "places", "spacing", "spec", "grid", "codec", "atomic", "analysis"},
    {"store", "sources", "encoders", "index"},
]
"""All others stand above: search, export, pipeline and what uses them."""

SERVER = [
    {"models", "search_models", "errors", "settings", "console", "options", "client_inputs"},
    {"ready_file", "job", "client", "search_request", "turns"},
    {"service", "jobs", "processes", "security"},
    {"routes"},
    {"app"},
    {"runner", "demo", "world_demo"},
    {"commands"},
    {"cli"},
]

PLUGIN = [{"core"}, {"algorithms"}, {"gui"}, {"plugin"}, {""}]
"""The empty name is the package itself, which holds classFactory."""

WITH_QGIS = {"qgis", "osgeo", "processing"}


def _rank(layers: list[set[str]], name: str) -> int:
    for rank, layer in enumerate(layers):
        if name in layer:
            return rank
    return len(layers)


def _part(name: str) -> str:
    """``embeddings.store.reader`` is of the part ``store``."""
    return [*name.split("."), ""][1]


def _inside(modules: list[Any], package: str) -> list[tuple[str, str]]:
    """All (importer, imported) within one package."""
    known = {module.name for module in modules}
    edges = []
    for module in modules:
        for item in module.imports():
            if item.target.split(".")[0] == package:
                target = item.target if item.target in known else item.target.rpartition(".")[0]
                edges.append((module.name, target))
    return edges


@pytest.mark.parametrize(
    ("package", "layers"),
    [("embeddings", EMBEDDINGS), ("embed_server", SERVER), ("qgis_plugin", PLUGIN)],
)
def test_layers_know_only_what_is_below_them(
    modules_of: ModulesOf, package: str, layers: list[set[str]]
) -> None:
    edges = _inside(modules_of(package), package)
    assert len(edges) > 20
    wrong = [
        f"{importer} imports {imported}"
        for importer, imported in edges
        if imported != package and _rank(layers, _part(importer)) < _rank(layers, _part(imported))
    ]
    assert wrong == []


def test_every_server_module_has_its_layer(modules_of: ModulesOf) -> None:
    parts = {_part(module.name) for module in modules_of("embed_server")} - {""}
    assert parts == set().union(*SERVER)


def _top(modules: list[Any], *, late_too: bool = True) -> dict[str, set[str]]:
    """Which top-level packages each module imports."""
    return {
        module.name: {
            item.target.split(".")[0] for item in module.imports() if late_too or not item.late
        }
        for module in modules
    }


def test_embeddings_know_neither_http_nor_qgis(modules_of: ModulesOf) -> None:
    forbidden = {
        "embed_server",
        "qgis_plugin",
        "qgis",
        "fastapi",
        "starlette",
        "uvicorn",
        "pydantic",
        "click",
    }
    wrong = {name: tops & forbidden for name, tops in _top(modules_of("embeddings")).items()}
    assert {name: tops for name, tops in wrong.items() if tops} == {}


def test_only_sources_may_use_the_network(modules_of: ModulesOf) -> None:
    network = {"requests", "urllib", "http", "socket", "httpx", "aiohttp", "fsspec", "ftplib"}
    users = {name for name, tops in _top(modules_of("embeddings")).items() if tops & network}
    remote_stores = {"embeddings.store.objects"}
    assert {name for name in users if _part(name) != "sources"} <= remote_stores


def test_only_the_reader_imports_duckdb(modules_of: ModulesOf) -> None:
    users = {
        name
        for package in ("embeddings", "embed_server")
        for name, tops in _top(modules_of(package)).items()
        if "duckdb" in tops
    }
    assert users == {"embeddings.store.reader"}


@pytest.mark.parametrize("package", PACKAGES)
def test_torch_is_never_imported_at_import(modules_of: ModulesOf, package: str) -> None:
    heavy = {"torch", "torchvision", "timm", "transformers", "dask", "distributed"}
    early = _top(modules_of(package), late_too=False)
    assert {name for name, tops in early.items() if tops & heavy} == set()


def test_the_server_knows_the_plugin_and_qgis_not(modules_of: ModulesOf) -> None:
    users = _top(modules_of("embed_server"))
    assert {n for n, tops in users.items() if tops & {"qgis", "qgis_plugin"}} == set()


def test_the_service_knows_no_fastapi(modules_of: ModulesOf) -> None:
    web = {"fastapi", "starlette", "uvicorn"}
    users = {n for n, tops in _top(modules_of("embed_server")).items() if tops & web}
    lower = SERVER[0] | SERVER[1] | {"service", "jobs", "processes"}
    allowed = {"errors"}  # the one table of statuses registers itself with FastAPI
    assert {_part(name) for name in users} & lower <= allowed


def test_the_plugin_needs_only_the_standard_library_and_qgis(modules_of: ModulesOf) -> None:
    wrong = [
        f"{module.name} imports {item.target}"
        for module in modules_of("qgis_plugin")
        for item in module.imports()
        if not item.relative
        and item.target.split(".")[0] not in WITH_QGIS | set(sys.stdlib_module_names)
    ]
    assert wrong == []


def test_the_plugin_takes_qt_from_qgis_and_itself_by_dots(modules_of: ModulesOf) -> None:
    wrong = [
        f"{module.name} imports {item.target}"
        for module in modules_of("qgis_plugin")
        for item in module.imports()
        if item.target.split(".")[0] in {"PyQt5", "PyQt6", "PySide2", "PySide6"}
        or (item.target.split(".")[0] == "qgis_plugin" and not item.relative)
    ]
    assert wrong == []


def test_the_plugins_core_has_no_widget_and_no_iface(modules_of: ModulesOf) -> None:
    wrong = [
        f"{module.name} imports {item.target}"
        for module in modules_of("qgis_plugin")
        if _part(module.name) == "core"
        for item in module.imports()
        if "QtWidgets" in item.target
        or item.target.startswith("qgis.gui")
        or item.target.endswith("iface")
    ]
    assert wrong == []


def test_the_plugin_parses_on_python_3_9(modules_of: ModulesOf) -> None:
    for module in modules_of("qgis_plugin"):
        ast.parse(module.text, filename=str(module.path), feature_version=(3, 9))


def _calls(modules: list[Any]) -> list[tuple[str, ast.Call]]:
    return [
        (f"{module.name}: {ast.unparse(node)}", node)
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_unpickles_or_evaluates(modules_of: ModulesOf, package: str) -> None:
    """pickle may be named for its exceptions; nothing may be loaded with it."""
    modules = modules_of(package)
    unsafe = {"dill", "cloudpickle", "joblib", "marshal", "shelve", "cPickle"}
    assert {name for name, tops in _top(modules).items() if tops & unsafe} == set()
    loaders = {"pickle.load", "pickle.loads", "pickle.Unpickler", "eval", "exec", "__import__"}
    assert [where for where, call in _calls(modules) if ast.unparse(call.func) in loaders] == []
    taken = {item.target for module in modules for item in module.imports()}
    assert taken & loaders == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_checkpoints_and_arrays_are_loaded_without_code(
    modules_of: ModulesOf, package: str
) -> None:
    for where, call in _calls(modules_of(package)):
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if ast.unparse(call.func) == "torch.load":
            assert given.get("weights_only") == "True", where
        if ast.unparse(call.func) == "np.load":
            assert given.get("allow_pickle", "False") == "False", where
