"""Files in folders that somebody else may have made: written atomically, and no link followed out of the folder."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from vgp_lightning.report.folders import naming


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON, atomically.

    Raises:
        ValueError: If a number is not finite, which JSON cannot express.
    """
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    replace_file(path, lambda file: file.write(text.encode()))


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically: until it is complete, the file at the path is the one before it.

    The temporary file beside it is created exclusively (``O_EXCL``) under a random name. So no link that lies in the
    folder decides what is written: a link at the path itself is replaced, its target stays as it is.

    Args:
        path: The file.
        write: Writes the content to the open file that it is given.

    Raises:
        OSError: If it cannot be written; the message names it.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        with naming(path), partial.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_links(folder: Path, names: Sequence[str] | None = None) -> None:
    """Refuse a folder with a link that leads out of it, at any depth.

    The cache of the Hugging Face hub is allowed: there the files of ``snapshots/REVISION`` are links to ``blobs/`` of
    the same repository.

    Args:
        folder: The folder; it may itself be a link, since the user has named it.
        names: The entries at its top to look at, where the folder holds other things too; None: all.

    Raises:
        ValueError: If there is such a link.
    """
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    for entry in _entries(root, names):
        if entry.is_symlink():
            target = Path(os.path.realpath(entry))
            if not any(target.is_relative_to(place) for place in allowed):
                raise ValueError(
                    f"{folder / entry.relative_to(root)} is a link to {target}, outside of {folder}: links out of a "
                    "folder are not followed. Put a copy in its place, if you trust it"
                )


def _entries(root: Path, names: Sequence[str] | None) -> Iterator[Path]:
    """Yield all that is in a folder, at any depth, without going through links."""
    for place, folders, files in os.walk(root):
        if names is not None and Path(place) == root:
            folders[:] = [name for name in folders if name in names]  # the others are not walked through
            files = [name for name in files if name in names]
        yield from (Path(place, name) for name in (*folders, *files))
