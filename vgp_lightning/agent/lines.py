"""A file of lines, each an object of JSON, to which several processes append. Arrays in it are kept to the bit.

Whoever reads or appends holds a lock meanwhile, which is the caller's.
"""

import base64
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vgp_lightning.report.folders import naming

_SYNC = 1.0  # seconds after which lasting lines are forced to the disk; only a power cut loses those of the last


class Lines:
    """Reads what others have appended since it looked last, and appends.

    Attributes:
        path: The file; it need not exist.
        count: Lines that have been read or appended.
    """

    def __init__(self, path: Path) -> None:
        """Begin at the first line."""
        self.path = path
        self.count = 0
        self._end = 0  # what has been read, in bytes
        self._synced = time.monotonic()

    def read(self, take: Callable[[dict[str, Any]], None], cure: str) -> None:
        """Hand on the lines that are new. A torn last line, of a process that was killed, is cut off.

        Args:
            take: Is given each line.
            cure: What a user can do about a damaged line, for the message.

        Raises:
            ValueError: If a line is not JSON, or ``take`` cannot read it.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self._end)
                new = file.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        if len(whole) < len(new):
            os.truncate(self.path, self._end + len(whole))
        for line in whole.splitlines():
            self.count += 1
            try:
                take(json.loads(line, object_hook=_decode))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"line {self.count} of {self.path} is damaged ({type(error).__name__}: {error}): {cure}"
                ) from error
        self._end += len(whole)

    def append(self, line: Mapping[str, Any], *, lasting: bool) -> None:
        """Append a line in one call.

        Args:
            line: Numbers, texts, arrays, and mappings of them.
            lasting: Whether a power cut may lose no more such lines than those of the last second.
        """
        data = json.dumps(line, default=_encode).encode() + b"\n"
        with naming(self.path), open(self.path, "ab", buffering=0, opener=_open_no_link) as file:
            while data:  # a disk that is nearly full takes a part, and then refuses the rest
                written = file.write(data)
                data = data[written:]
                self._end += written
            if lasting and time.monotonic() - self._synced > _SYNC:
                os.fsync(file.fileno())
                self._synced = time.monotonic()
        self.count += 1


def _open_no_link(path: str, flags: int) -> int:
    """Open a file, but not through a link that somebody has put in its place."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _encode(value: Any) -> Any:
    """Return an array as JSON can hold it, to the bit."""
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} cannot be stored")
    data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    return {"dtype": value.dtype.str, "shape": value.shape, "base64": data}


def _decode(value: dict[str, Any]) -> Any:
    """Return the array of its JSON; other objects as they are."""
    if value.keys() != {"dtype", "shape", "base64"}:
        return value
    data = np.frombuffer(base64.b64decode(value["base64"]), dtype=np.dtype(value["dtype"]))
    return data.reshape(value["shape"]).copy()
