"""One process at a time has an output, though another may be removing its folder just then."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from embeddings.change import output_lock
from embeddings.change.output_lock import held
from embeddings.errors import StoreError, StoreLockedError

posix = pytest.mark.skipif(os.name == "nt", reason="nobody can remove an open file there")


def _check_held(out: Path) -> None:
    """The output is held for as long as the block lasts, and leaves nothing."""
    with held(out) as folder:
        (folder / "run.json").touch()
        with pytest.raises(StoreLockedError, match="Another process"), held(out):
            pass
        assert (folder / "run.json").exists()
    assert not list(out.parent.iterdir())


@posix
@pytest.mark.parametrize("opened", [False, True], ids=["before", "after"])
def test_a_folder_removed_round_the_opening_of_the_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    real, removed = os.open, []

    def ended(path: Any, *more: Any, **options: Any) -> int:
        """Open a file; round the first lock, another process ends and removes the folder."""
        if removed or not str(path).endswith(".lock"):
            return real(path, *more, **options)
        removed.append(path)
        found = real(path, *more, **options) if opened else None
        shutil.rmtree(Path(path).parent)
        return real(path, *more, **options) if found is None else found

    monkeypatch.setattr(os, "open", ended)
    _check_held(tmp_path / "score.tif")
    assert removed


@posix
@pytest.mark.parametrize("next_one", [False, True], ids=["no other", "another"])
def test_a_lock_on_a_file_that_lost_its_name_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, next_one: bool
) -> None:
    real, removed = FileLock.acquire, []

    def acquire(self: FileLock, *more: Any, **options: Any) -> Any:
        """Lock, after another process let go; that one, done, had removed the file before."""
        found = real(self, *more, **options)
        if not removed:
            removed.append(self.lock_file)
            shutil.rmtree(Path(self.lock_file).parent)
            if next_one:
                Path(self.lock_file).parent.mkdir()
                Path(self.lock_file).touch()
        return found

    monkeypatch.setattr(FileLock, "acquire", acquire)
    _check_held(tmp_path / "score.tif")
    assert removed


def test_the_lock_is_the_last_that_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what the next process writes there as soon as it has a lock would be removed."""
    real, left = shutil.rmtree, []

    def rmtree(folder: Path, **options: Any) -> None:
        left.extend(path.name for path in folder.iterdir())
        real(folder, **options)

    monkeypatch.setattr(output_lock.shutil, "rmtree", rmtree)
    with held(tmp_path / "score.tif") as folder:
        (folder / "run.json").touch()
    assert left == [".lock"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / ".score.tif.staging").touch()
    with pytest.raises(StoreError, match="could not be written"), held(tmp_path / "score.tif"):
        pass
