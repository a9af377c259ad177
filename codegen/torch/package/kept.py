"""Compiled kernels, kept by name for the next process, in `LASPC_CACHE` or `~/.cache/laspc`.

A file ends with the digest of its name and of the rest: one that is cut short, altered or called otherwise is
made anew. A folder that others can write to is refused, since they could write a digest too.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import Callable, Optional

_DIGEST_BYTES = 32
_STALE_SECONDS = 3600
"""Nobody writes one file for so long."""


def kept(name: str, make: Callable[[], bytes]) -> bytes:
    """The content kept under a name, or else made now. Raises RuntimeError where others can write to the folder."""
    folder = _cache_folder()
    found = None if folder is None else _read(folder, name)
    if found is not None:
        return found
    content = make()
    if folder is not None:
        _write(folder, name, content)
    return content


def _read(folder: Path, name: str) -> Optional[bytes]:
    """The content of a file that is whole and this user's."""
    try:
        # A FIFO of that name must not stop the process.
        descriptor = os.open(folder / name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not _is_own(status):
                return None
            data = file.read()
    except OSError:
        return None
    content = data[:-_DIGEST_BYTES]
    return content if _digest(name, content) == data[-_DIGEST_BYTES:] else None


def _write(folder: Path, name: str, content: bytes) -> None:
    """Where it cannot be written it is made again the next time."""
    _remove_stale(folder)
    staged = None
    try:
        # Renamed into place whole, so that nobody loads half a file.
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
            staged = file.name
            file.write(content + _digest(name, content))
        os.replace(staged, folder / name)
    except BaseException as error:
        if staged is not None:
            Path(staged).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise


def _remove_stale(folder: Path) -> None:
    """Removes what a process that was killed left."""
    for path in folder.glob("*.part"):
        try:
            if time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                path.unlink()
        except OSError:
            pass


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).digest()


def _cache_folder() -> Optional[Path]:
    """None where there is none and none can be made."""
    try:
        folder = _named_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):
        return None
    if not _is_own(status):
        raise RuntimeError(
            f"others can write to the cache folder {folder}: remove it, or name another in LASPC_CACHE"
        )
    return folder


def _named_folder() -> Path:
    named = os.environ.get("LASPC_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "laspc"


def _is_own(status: os.stat_result) -> bool:
    """Can nobody else write to it? Root could anyway."""
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid in (0, os.getuid()) and not status.st_mode & 0o022
