"""What a second thread brings or costs a planning call: by the number of plans, idle and beside a busy process.

python -m benchmarks.threads [--json FILE] [--threads 2] [--rounds 5] [--plans 1 16 64 320 800]

Threads wait for each other either without giving up their cores, which is OpenMP's default, or passively
(``OMP_WAIT_POLICY=passive``). One denoising step is timed with one and with more threads alternately; the table shows
the ratio of the medians, below 1 where the threads are faster. The busy process is a loop that takes one core.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import ENVIRONMENT, describe_machine
from benchmarks.plan_rows import BEST, SIZES, Row, make_folder
from benchmarks.worker import Worker, start_worker
from vgp_lightning.report.files import write_report

POLICIES = ("default", "passive")
# It ends with this process, however that ends.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
SECONDS = 0.15  # of a row, with each number of threads, in each round
HOPELESS = 20.0  # the ratio at which one round is enough


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Take so many cores meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def compare(process: Worker, size: str, plans: int, threads: int, rounds: int) -> dict[str, Any]:
    """Return the milliseconds of a denoising step with one and with more threads, and their ratio."""
    request = {"row": Row(size, "", BEST | {"batch_size": plans, "num_inference_steps": 1}).request()}
    for number in (1, threads):
        process.ask(request | {"threads": number, "seconds": 0, "most": 1})  # which warms up
    seconds: dict[int, list[float]] = {1: [], threads: []}
    for _ in range(rounds):
        for number, taken in seconds.items():
            answer = process.ask(request | {"threads": number, "seconds": SECONDS, "most": 100})
            taken += answer[1:] or answer  # the first of several follows the other number
        if statistics.median(seconds[threads]) > HOPELESS * statistics.median(seconds[1]):
            break
    one, more = (1000 * statistics.median(taken) for taken in seconds.values())
    return {"size": size, "plans": plans, "one_ms": one, "more_ms": more, "ratio": more / one}


def measure(threads: int, rounds: int, numbers: list[int]) -> list[dict[str, Any]]:
    """Measure all rows."""
    rows = []
    with ExitStack() as stack:
        folders = {size: Path(stack.enter_context(tempfile.TemporaryDirectory())) for size in SIZES}
        for size, folder in folders.items():
            make_folder(SIZES[size], folder)
        for policy in POLICIES:
            environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
            environment |= {"OMP_WAIT_POLICY": "passive"} if policy == "passive" else {}
            for size, folder in folders.items():
                with start_worker([sys.executable, "-P"], folder, environment) as process:
                    for beside in (0, 1):
                        with busy(beside):
                            for plans in numbers:
                                row = compare(process, size, plans, threads, rounds)
                                rows.append({"policy": policy, "busy": beside, **row})
    return rows


def main() -> None:
    """Measure, print the table, and write the numbers as JSON if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plans", type=int, nargs="+", default=[1, 16, 64, 320, 800])
    options = parser.parse_args()
    machine = describe_machine()
    rows = measure(options.threads, options.rounds, options.plans)
    table = Table(title=f"time with {options.threads} threads / time with one; {os.cpu_count()} cores")
    for heading in ("networks", "waiting", "busy processes", *(f"{plans} plans" for plans in options.plans)):
        table.add_column(heading, justify="right")
    for key in dict.fromkeys((row["size"], row["policy"], row["busy"]) for row in rows):
        found = [row for row in rows if (row["size"], row["policy"], row["busy"]) == key]
        table.add_row(*map(str, key), *(f"{row['ratio']:.2f}" for row in found))
    Console().print(table)
    if options.json is not None:
        write_report({"machine": machine, "threads": options.threads, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
