from pathlib import Path

import pytest
from pydantic import ValidationError

from embed_server.errors import SettingError
from embed_server.settings import (
    HOST,
    LimitSettings,
    SecuritySettings,
    ServerSettings,
    Settings,
)


def test_the_defaults_are_safe() -> None:
    settings = Settings(store=Path("store"))
    assert HOST == "127.0.0.1"
    assert settings.server.port == 0
    assert settings.server.ready_file is None
    assert not settings.server.stop_with_stdin
    assert (settings.limits.max_k, settings.limits.max_items) == (50_000, 10_000)


def test_every_start_has_its_own_long_token() -> None:
    first, second = (SecuritySettings().token.get_secret_value() for _ in range(2))
    assert first != second
    assert len(first) >= 40


def test_the_token_is_not_shown() -> None:
    settings = Settings(store=Path("store"))
    assert settings.security.token.get_secret_value() not in f"{settings!r} {settings}"


def test_the_environment_sets_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERRAKIN_LIMIT_MAX_K", "50")
    monkeypatch.setenv("TERRAKIN_TOKEN", "a-token-of-my-own")
    settings = Settings(store=Path("store"))
    assert settings.limits.max_k == 50
    assert settings.security.token.get_secret_value() == "a-token-of-my-own"
    assert LimitSettings(max_k=7).max_k == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TERRAKIN_LIMIT_MAX_K", "0"),
        ("TERRAKIN_LIMIT_MAX_K", "50001"),
        ("TERRAKIN_LIMIT_STOP_WAIT_S", "long"),
        ("TERRAKIN_TOKEN", "short"),
    ],
)
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=name) as caught:
        Settings(store=Path("store"))
    assert "short" not in str(caught.value)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_beyond_the_range_is_refused(port: int) -> None:
    with pytest.raises(ValidationError):
        ServerSettings(port=port)


def test_the_port_that_was_bound_replaces_zero() -> None:
    settings = Settings(store=Path("store"), limits=LimitSettings(max_k=5))
    settled = settings.at_port(4321)
    assert settled.server.url == "http://127.0.0.1:4321"
    assert settled.limits == settings.limits
    assert settled.security.token == settings.security.token
