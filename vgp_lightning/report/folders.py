"""Output folders: made and tried before the work, and named where writing fails."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def prepare(folder: Path) -> None:
    """Make a folder and write a temporary file in it, so that what is wrong with it is found before any work.

    Raises:
        OSError: If it cannot be made or written; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"0")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path into an error of the operating system that names none, such as that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
