"""The two streams that a process prints to: both silent, or the first one kept free.

The descriptors are exchanged too, for the processes that a verb starts.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO


@contextmanager
def silenced() -> Iterator[None]:
    """Discard all output."""
    with open(os.devnull, "w") as sink, redirect_stderr(sink), _sent(sink, sink.fileno(), (1, 2)):
        yield


@contextmanager
def diverted() -> Iterator[None]:
    """Send what is printed to standard error, so that standard output is free for a report."""
    with _sent(sys.stderr, 2, (1,)):
        yield


@contextmanager
def _sent(stream: TextIO, target: int, descriptors: tuple[int, ...]) -> Iterator[None]:
    sys.stdout.flush()
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(stream))
        for descriptor in descriptors:
            kept = os.dup(descriptor)
            os.dup2(target, descriptor)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, descriptor)
        yield
