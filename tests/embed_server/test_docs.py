"""docs/api.md is the contract: it and the code name the same routes, codes and settings."""

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

import embeddings.errors
from embed_server import errors
from embed_server.app import create_app
from embed_server.models import (
    Collection,
    EmbedRasterInputs,
    EmbedReport,
    JobStatus,
    Problem,
)
from embed_server.processes import change_models, probe_models
from embed_server.search_models import (
    ExamplesRequest,
    FilterRequest,
    SearchAnswer,
    SearchRequest,
    SqlAnswer,
    SqlRequest,
)
from embed_server.settings import LimitSettings, SecuritySettings, Settings

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")

COMMAND_LINE_ONLY = {
    errors.ServerError,
    errors.PortTakenError,
    errors.ReadyFileError,
    errors.SettingError,
    errors.StdinMissingError,
}
NEVER_ANSWERED = {embeddings.errors.TerrakinError, embeddings.errors.CancelledError}


def without_names(path: str) -> str:
    """Call every parameter of a path ID: its name is not part of the interface."""
    return re.sub(r"\{[^}]*\}", "ID", path)


def documented_routes() -> set[tuple[str, str]]:
    rows = re.findall(r"^\| (`(?:GET|POST|DELETE|PUT) .*?) \|", TEXT, re.MULTILINE)
    found = re.findall(r"`([A-Z]+) (/[^`]*)`", "\n".join(rows))
    return {(method, without_names(path)) for method, path in found}


def documented_codes() -> set[tuple[int, str]]:
    rows = re.findall(r"^\| (\d{3}) \| (.*?) \|$", TEXT, re.MULTILINE)
    return {(int(status), code) for status, codes in rows for code in re.findall("`(.*?)`", codes)}


def real_routes(app: FastAPI) -> set[tuple[str, str]]:
    described = app.openapi()["paths"].items()
    found = {
        (method.upper(), without_names(path)) for path, methods in described for method in methods
    }
    assert app.openapi_url is not None
    return found | {("GET", app.openapi_url)}


def subclasses(base: type[Exception]) -> set[type[Exception]]:
    return {base}.union(*(subclasses(child) for child in base.__subclasses__()))


def test_every_route_is_documented_and_exists(store: Path) -> None:
    app = create_app(Settings(store=store))
    assert documented_routes() == real_routes(app)
    hidden = [route for route in app.routes if not getattr(route, "include_in_schema", True)]
    assert [getattr(route, "path", None) for route in hidden] == [app.openapi_url]


def test_every_code_is_documented_with_its_status_and_exists() -> None:
    real = {(status.value, error.code) for error, status in errors.STATUS.items()}
    assert documented_codes() == real | {(500, errors.INTERNAL_CODE)}


def test_every_exception_of_the_two_packages_is_in_the_table() -> None:
    ours = {
        error
        for error in subclasses(embeddings.errors.TerrakinError)
        if error.__module__ in (embeddings.errors.__name__, errors.__name__)
    }
    assert ours - COMMAND_LINE_ONLY - NEVER_ANSWERED == set(errors.STATUS)


def test_every_setting_is_documented_and_exists() -> None:
    real = {
        f"{kind.model_config['env_prefix']}{name}".upper()
        for kind in (LimitSettings, SecuritySettings)
        for name in kind.model_fields
    }
    assert set(re.findall(r"TERRAKIN_[A-Z_]+", TEXT)) == real


@pytest.mark.parametrize(
    ("model", "heading"),
    [
        (Collection, "Collection"),
        (SearchRequest, "Search"),
        (SearchAnswer, "Search"),
        (ExamplesRequest, "Search"),
        (FilterRequest, "Search"),
        (SqlRequest, "SQL"),
        (SqlAnswer, "SQL"),
        (JobStatus, "Jobs"),
        (EmbedRasterInputs, "Jobs"),
        (EmbedReport, "Jobs"),
        *(
            (model, "Jobs")
            for name, model in (vars(probe_models) | vars(change_models)).items()
            if name.startswith(("Probe", "Change"))
        ),
        (Problem, "Errors"),
    ],
)
def test_every_field_is_documented(model: type[BaseModel], heading: str) -> None:
    section = re.search(rf"^##+ {heading}$(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert section is not None
    quoted = set(re.findall(r'"([A-Za-z0-9_]+)"', section[1])) | set(
        re.findall(r"`([A-Za-z0-9_]+)`", section[1])
    )
    assert {field.alias or name for name, field in model.model_fields.items()} <= quoted
