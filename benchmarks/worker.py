"""A process that makes planning calls on request: an older version's, or one with another environment."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks import plan_calls


@dataclass(frozen=True)
class Worker:
    """The process, which waits while it is asked nothing."""

    requests: IO[str]
    answers: IO[str]

    def ask(self, request: dict[str, Any]) -> list[Any]:
        """Return the answer to a request, as ``plan_calls`` describes both.

        Raises:
            ValueError: If the process has ended.
        """
        print(json.dumps(request), file=self.requests, flush=True)
        answer = self.answers.readline()
        if not answer:
            raise ValueError("the process that was to plan has ended: see its message above")
        return list(json.loads(answer))


@contextmanager
def start_worker(python: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Worker]:
    """Start a process with the planner of a folder.

    Args:
        python: An interpreter and its options.
        folder: A pipeline folder.
        environment: The environment's variables; None: this process's.
    """
    command = [*python, plan_calls.__file__, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Worker(process.stdin, process.stdout)
        finally:
            process.kill()
