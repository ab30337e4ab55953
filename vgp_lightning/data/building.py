"""Files and folders of the cache: each is built atomically, once for all processes, and again if it is damaged."""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

_BUILDING = ".building-"
_LEFTOVER = re.compile(rf"[0-9a-f]{{32}}{re.escape(_BUILDING)}.*")  # a cache's name is 32 digits; all else is not ours
# At most 16 MiB of a file are read for its checksum: reading gigabytes at every start would take longer than it helps.
_BLOCK, _BLOCKS = 1 << 18, 64


def built(path: Path, folder: Path, write: Callable[[Path], None], files: Sequence[str] = ()) -> None:
    """Build a file or folder of the cache atomically, if it is missing or damaged.

    It is built beside the cache's folder and then renamed. A lock makes other processes wait. What the build of a
    killed process left is removed by the next build. A manifest with sizes and checksums tells whether it is damaged:
    ``manifest.json`` in a folder, ``NAME.json`` beside a file.

    Args:
        path: To build: the cache's folder, or a file in it.
        folder: The cache's folder.
        write: Writes the file or folder to the path that it is given.
        files: The files that a folder consists of; none if a file is built.

    Raises:
        ValueError: If the disk is full, or the folder cannot be written to.
    """
    if _damage(path, files) is None:
        return
    cache_dir = folder.parent
    with explained(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(cache_dir)
        with FileLock(f"{folder}.lock"):
            damage = _damage(path, files)
            if damage is None:
                return
            if os.path.lexists(path):
                print(f"vgp: the cache {path} is built again: {damage}", file=sys.stderr)
            building = Path(tempfile.mkdtemp(prefix=f"{folder.name}{_BUILDING}", dir=cache_dir))
            try:
                _build(path, building, write, files)
            finally:
                shutil.rmtree(building, ignore_errors=True)


@contextmanager
def explained(cache_dir: Path) -> Iterator[None]:
    """Say what a user can do if files cannot be written into a folder of caches.

    Raises:
        ValueError: If the disk is full, or the folder cannot be written to.
    """
    choose = "choose another folder: XDG_CACHE_HOME=FOLDER, or, for vgp fit, --data.cache_dir FOLDER"
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = ""
            with suppress(OSError):
                free = f", {shutil.disk_usage(cache_dir).free / 1e6:.0f} MB are free"
            limit = " (or a limit on the size of files is reached)" if error.errno == errno.EFBIG else ""
            raise ValueError(
                f"no space is left in {cache_dir} to build the datasets' cache{limit}{free}: free some, or {choose}"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ValueError(
                f"the datasets' cache {cache_dir} cannot be written to ({error}); it may belong to another user: "
                f"{choose}"
            ) from error
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            raise ValueError(f"the datasets' cache {cache_dir} is no folder ({error}): {choose}") from error
        raise


def _build(path: Path, building: Path, write: Callable[[Path], None], files: Sequence[str]) -> None:
    target = building / path.name
    write(target)
    manifest = _manifest(target, files)
    manifest.write_text(json.dumps({file.name: _fingerprint(file) for file in _members(target, files)}, indent=1))
    for file in (manifest, *_members(target, files)):
        _sync(file)
    if not files:
        # The manifest first: with the other order, a process that is killed in between leaves a file without one.
        _move(manifest, _manifest(path, files), building)
    _move(target, path, building)


def _move(source: Path, destination: Path, building: Path) -> None:
    """Rename, also where a damaged folder lies: a file replaces no folder, and a folder none that is not empty."""
    if os.path.lexists(destination) and (source.is_dir() or destination.is_dir()):
        destination.rename(building / f"damaged {destination.name}")
    source.rename(destination)


def _members(path: Path, files: Sequence[str]) -> list[Path]:
    return [path / name for name in files] or [path]


def _manifest(path: Path, files: Sequence[str]) -> Path:
    return path / "manifest.json" if files else path.with_name(f"{path.name}.json")


def _fingerprint(path: Path) -> dict[str, Any]:
    """Return the size of a file and a checksum of it: of blocks that are evenly spread, if it is large."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        count = min(_BLOCKS, -(-size // _BLOCK))
        for number in range(count):
            file.seek((size - _BLOCK) * number // (count - 1) if size > _BLOCK else 0)
            digest.update(file.read(_BLOCK))
    return {"bytes": size, "blake2b": digest.hexdigest()}


def _damage(path: Path, files: Sequence[str]) -> str | None:
    """Return what is wrong with a file or folder of the cache, or None."""
    manifest = _manifest(path, files)
    try:
        written = json.loads(manifest.read_text())
    except FileNotFoundError:
        return f"it has no {manifest.name}, which this version writes"
    except (OSError, ValueError, RecursionError):
        return f"{manifest} is damaged"
    for file in _members(path, files):
        try:
            found = _fingerprint(file)
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"
        if not isinstance(written, dict) or written.get(file.name) != found:
            return f"{file} is not as {manifest.name} says"
    return None


def _remove_leftovers(cache_dir: Path) -> None:
    """Remove unfinished builds of processes that are gone: nobody holds their lock."""
    for building in cache_dir.iterdir():
        if _LEFTOVER.fullmatch(building.name):
            lock = FileLock(cache_dir / f"{building.name.split(_BUILDING)[0]}.lock", timeout=0)
            with suppress(Timeout, OSError), lock:
                shutil.rmtree(building, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a file to the disk. Otherwise a power failure after the renaming could leave it empty."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
