import json
import os
import stat
from pathlib import Path

import pytest

from embed_server.errors import ReadyFileError
from embed_server.ready_file import ReadyFile, default_path

READY = ReadyFile("http://127.0.0.1:8080", "the-secret-token", 123, "0.1.0")

posix_only = pytest.mark.skipif(os.name == "nt", reason="Windows has no such file modes")


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "ready.json"
    READY.write(path)
    assert ReadyFile.read(path) == READY
    assert json.loads(path.read_text()) == READY.announcement(path) | {"token": READY.token}
    assert [entry.name for entry in path.parent.iterdir()] == ["ready.json"]


@posix_only
def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text("{}")
    path.chmod(0o644)
    before = os.umask(0)
    try:
        READY.write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_token_is_in_neither_announcement_nor_repr(tmp_path: Path) -> None:
    shown = f"{READY.announcement(tmp_path)} {READY!r}"
    assert READY.token not in shown
    assert set(READY.announcement(tmp_path)) == {"url", "pid", "version", "ready_file"}


def test_it_is_removed_by_its_own_server_only(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    READY.write(path)
    ReadyFile(READY.url, "another-token", 456, "0.1.0").remove(path)
    assert path.exists()
    READY.remove(path)
    assert not path.exists()
    READY.remove(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "\x00", '{"url": "x", "token": "y"}'])
def test_another_file_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ready.json"
    path.write_text(text)
    with pytest.raises(ReadyFileError, match="is not the ready file"):
        ReadyFile.read(path)
    READY.remove(path)
    assert path.read_text() == text


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ReadyFileError, match="terrakin serve"):
        ReadyFile.read(tmp_path / "none.json")


def test_a_place_that_cannot_be_written_is_an_error_without_leftovers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReadyFileError, match="cannot be written"):
        READY.write(tmp_path / "file" / "ready.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ReadyFileError, match="cannot be written"):
        READY.write(tmp_path / "folder")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_the_default_place_is_the_users_and_names_the_port() -> None:
    path = default_path(8123)
    assert path.is_absolute()
    assert path.parts[-3:] == ("terrakin", "servers", "8123.json")
