"""Starting and stopping the real server with QProcess."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest


@pytest.fixture
def module(terrakin):  # noqa: ARG001 - makes the package importable
    from terrakin.core import server_process

    return server_process


@pytest.fixture
def errors(terrakin):  # noqa: ARG001
    from terrakin.core import errors

    return errors


def alive(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()


def never() -> bool:
    return False


def program(folder: Path, text: str) -> str:
    """Write an executable script; return its path."""
    path = folder / "terrakin"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_starts_and_stops(module, command, data):
    lines: list[str] = []
    process = module.ServerProcess(str(command), str(data / "store"), lines.append)
    ready = process.wait_ready(never)
    pid = process.pid
    assert ready.url.startswith("http://127.0.0.1:")
    assert process.poll() is module.State.READY
    assert alive(pid)
    process.stop()
    assert not alive(pid)
    assert process.poll() is module.State.ENDED
    assert lines, "the server's messages reach the log"
    process.stop()


def test_closing_its_input_is_enough(module, command, data):
    process = module.ServerProcess(str(command), str(data / "store"))
    process.wait_ready(never)
    process.ask_to_stop()
    assert process._process.waitForFinished(10_000)
    assert process._process.exitCode() == 0
    process.stop()


def test_environment_of_qgis_does_not_leak(module, monkeypatch):
    for name in module.QGIS_ONLY_VARIABLES:
        monkeypatch.setenv(name, "/qgis/bundle")
    monkeypatch.setenv("KEPT", "yes")
    environment = module.server_environment()
    assert not [name for name in module.QGIS_ONLY_VARIABLES if environment.contains(name)]
    assert environment.value("KEPT") == "yes"


def test_starts_although_qgis_has_its_own_pythonhome(module, command, data, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    process = module.ServerProcess(str(command), str(data / "store"))
    process.wait_ready(never)
    process.stop()


def test_command_that_is_not_installed(module, errors, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "_usual_folders", lambda: [str(tmp_path)])
    with pytest.raises(
        errors.CommandNotFoundError, match=r"repository.*README.*Settings > Options"
    ):
        module.find_command("")


def test_command_is_found_on_the_path(module, monkeypatch, tmp_path):
    path = program(tmp_path, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.find_command("") == path


def test_configured_command_that_is_wrong(module, errors):
    with pytest.raises(errors.CommandNotFoundError, match=r"/no/such/terrakin.*Options"):
        module.find_command("/no/such/terrakin")


def test_server_that_ends_at_once_says_why(module, errors, tmp_path):
    command = program(tmp_path, "echo 'The store is of another format.' >&2; exit 1")
    process = module.ServerProcess(command, str(tmp_path))
    with pytest.raises(errors.ServerStartError, match=r"exit code 1.*of another format"):
        process.wait_ready(never)


def test_real_server_on_a_file_instead_of_a_store(module, errors, command, tmp_path):
    (tmp_path / "file").write_text("no store")
    process = module.ServerProcess(str(command), str(tmp_path / "file"))
    with pytest.raises(errors.ServerStartError, match=r"It said: .*file"):
        process.wait_ready(never)


def test_server_that_is_never_ready_is_stopped(module, errors, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "READY_WITHIN_S", 0.5)
    process = module.ServerProcess(program(tmp_path, "read line"), str(tmp_path))
    pid = process.pid
    with pytest.raises(errors.ServerStartError, match="not ready within"):
        process.wait_ready(never)
    assert not alive(pid)


def test_cancelled_start_leaves_no_process(module, errors, tmp_path):
    process = module.ServerProcess(program(tmp_path, "read line"), str(tmp_path))
    pid = process.pid
    with pytest.raises(errors.CancelledError):
        process.wait_ready(lambda: True)
    assert not alive(pid)


def test_server_that_ignores_everything_is_killed(module, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STOP_WITHIN_MS", 400)
    # An endless loop of the shell itself: no child that would live on.
    command = program(tmp_path, "trap '' TERM; while :; do :; done")
    process = module.ServerProcess(command, str(tmp_path))
    process._process.waitForStarted(2000)
    pid = process.pid
    assert alive(pid)
    process.stop(patience_ms=400)
    assert not alive(pid)


def test_ready_file_is_private_and_removed(module, command, data):
    process = module.ServerProcess(str(command), str(data / "store"))
    process.wait_ready(never)
    path = Path(process._ready_path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    process.stop()
    assert not path.parent.exists()
