"""Compiled kernels are kept for the next process, and taken only when they are whole and this user's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest
from load import FOLDER  # noqa: F401  (makes the package importable)
from package_under_test.kept import kept

CONTENT = bytes(range(40))


@pytest.fixture()
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LASPC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maker:
    """Counts how often it is asked."""

    count = 0

    def __call__(self) -> bytes:
        self.count += 1
        return CONTENT


def test_once(folder: Path) -> None:
    make = Maker()
    assert kept("a", make) == kept("a", make) == CONTENT
    assert make.count == 1
    assert folder.stat().st_mode & 0o777 == 0o700


def test_altered_files_are_made_anew(folder: Path) -> None:
    make = Maker()
    kept("a", make)
    path = folder / "a"
    whole = path.read_bytes()
    flipped = [
        whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :]
        for at in range(len(whole))
        for bit in range(8)
    ]
    cut = [whole[:length] for length in range(len(whole))]
    for data in [*flipped, *cut, whole + whole]:
        path.write_bytes(data)
        before = make.count
        assert kept("a", make) == CONTENT
        assert make.count == before + 1
        assert path.read_bytes() == whole
    path.rename(folder / "b")
    before = make.count
    assert kept("b", make) == CONTENT
    assert make.count == before + 1


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs the permissions of POSIX")
def test_what_others_can_write_to(folder: Path) -> None:
    make: Callable[[], bytes] = Maker()
    kept("a", make)
    folder.chmod(0o770)
    with pytest.raises(RuntimeError, match="others can write to the cache folder .*: remove it"):
        kept("a", make)


def test_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASPC_CACHE", "/dev/null/cache")
    assert kept("a", Maker()) == CONTENT


def test_what_killed_processes_left(folder: Path) -> None:
    kept("a", Maker())
    for name, time in [("old.part", 1.0), ("new.part", None)]:
        (folder / name).touch()
        if time is not None:
            os.utime(folder / name, (time, time))
    kept("b", Maker())
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "new.part"]
