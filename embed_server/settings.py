"""What can be set, one validated class per concern.

Where the server listens comes from the command line; limits and token from the environment.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from embed_server.errors import SettingError

FromEnvironment = TypeVar("FromEnvironment", bound=BaseSettings)

HOST = "127.0.0.1"
"""The only address the server ever listens on. Not a setting: the interface is for this machine."""


def new_token() -> SecretStr:
    """Make the secret that clients of one run of the server must show."""
    return SecretStr(secrets.token_urlsafe(32))


class ServerSettings(BaseModel):
    """Where the server listens and how it is found and stopped: options of the command."""

    model_config = ConfigDict(frozen=True)

    port: int = Field(default=0, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    ready_file: Path | None = Field(
        default=None,
        description="The file that tells clients url and token; by default in the user's state "
        "folder, named after the port.",
    )
    stop_with_stdin: bool = Field(
        default=False, description="Stop when standard input closes, as it does with the parent."
    )

    @property
    def url(self) -> str:
        """The server's base URL, without a slash at the end."""
        return f"http://{HOST}:{self.port}"


class LimitSettings(BaseSettings):
    """How much one client may ask for."""

    model_config = SettingsConfigDict(env_prefix="TERRAKIN_LIMIT_", frozen=True)

    max_body_bytes: int = Field(default=1024**2, ge=1, description="Size of a request's body.")
    max_k: int = Field(
        default=50_000, ge=1, le=50_000, description="Places in the answer to one search."
    )
    max_items: int = Field(default=10_000, ge=1, description="Items on one page.")
    max_queued_jobs: int = Field(default=16, ge=1, description="Jobs waiting for their turn.")
    max_ended_jobs: int = Field(default=100, ge=1, description="Ended jobs that are remembered.")
    max_sql: int = Field(default=2, ge=1, description="SQL queries at once, of up to 2 GB each.")
    sql_wait_s: float = Field(
        default=10.0, ge=0, le=600, description="Seconds an SQL query waits for its turn."
    )
    max_log_lines: int = Field(default=200, ge=1, description="Latest log lines kept of a job.")
    stop_wait_s: float = Field(
        default=30.0, ge=0, description="Seconds a running job gets to stop when the server stops."
    )


class SecuritySettings(BaseSettings):
    """Who is let in."""

    model_config = SettingsConfigDict(env_prefix="TERRAKIN_", frozen=True)

    token: SecretStr = Field(
        default_factory=new_token,
        min_length=16,
        description="The bearer token; made anew at each start unless it is set.",
    )


class Settings(BaseModel):
    """All settings of one server. Raises SettingError if the environment sets a bad value."""

    model_config = ConfigDict(frozen=True)

    store: Path
    server: ServerSettings = Field(default_factory=ServerSettings)
    limits: LimitSettings = Field(default_factory=lambda: _from_environment(LimitSettings))
    security: SecuritySettings = Field(default_factory=lambda: _from_environment(SecuritySettings))

    def at_port(self, port: int) -> Settings:
        """Return the same settings with the port that was really bound."""
        return self.model_copy(update={"server": self.server.model_copy(update={"port": port})})


def _from_environment(kind: type[FromEnvironment]) -> FromEnvironment:
    try:
        return kind()
    except ValidationError as error:
        prefix = kind.model_config.get("env_prefix", "")
        # Without the values: one of them may be the token.
        found = "; ".join(
            f"{prefix}{'.'.join(map(str, e['loc']))}".upper() + f": {e['msg']}"
            for e in error.errors(include_input=False)
        )
        raise SettingError(
            f"The environment sets a value that is not allowed: {found}. Change or unset it."
        ) from None
