"""How long planning calls take: of this package, of diffusers' own class, of an older version; one and two threads.

python -m benchmarks.plan_latency [--json FILE] [--threads 1 2] [--seconds 3] [--calls 1000] [--rounds 5]
    [--only TEXT ...] [--against NAME=PYTHON]

All rows take turns in each round, so that a drift of the machine's speed affects all of them. Beside each call the
networks that it evaluates are evaluated alone, with the same inputs. ``--against`` measures an older version too:
PYTHON is the interpreter of an environment that has it, NAME is its heading in the table. It gets the same weights, and
its process waits while this one measures.

The tail needs many calls: ``--only recipes --only 16 --calls 5000 --seconds 200``.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from rich.console import Console
from rich.table import Table

from benchmarks import network_calls, plan_calls
from benchmarks.machine import describe_machine
from benchmarks.plan_rows import KINDS, LEVELS, PROGRAMS, ROWS, SIZES, STOCK, Row, make_folder
from benchmarks.worker import Worker, start_worker
from vgp_lightning.report.files import write_report

WIDTH = 140  # of the tables, also where there is no terminal
FEWEST = 3  # calls that are timed of a row, however slow it is


@dataclass
class Timed:
    """A row that is being measured: seconds of its calls, of its networks alone, and of the older version's calls."""

    row: Row
    call: Callable[[], Any]
    evaluations: list[Callable[[], Any]]
    older: Worker | None
    calls: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))  # by the number of threads
    networks: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    olders: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    ratios: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))  # older / this, of each round

    def measure(self, threads: int, seconds: float, most: int) -> None:
        """Time calls for so many seconds, at least one; of several the first warms up, and does not count."""
        torch.set_num_threads(threads)
        calls, networks = [], []
        for taken in plan_calls.time_calls(self.call, seconds, most):
            calls.append(taken)
            if self.evaluations:
                networks += plan_calls.time_calls(lambda: network_calls.repeat(self.evaluations), 0, 1)
        calls, networks = calls[1:] or calls, networks[1:] or networks
        self.calls[threads] += calls
        self.networks[threads] += networks
        if self.older is not None:
            request = {"row": self.row.request(), "threads": threads, "seconds": seconds / 2, "most": most}
            olders = self.older.ask(request)
            self.olders[threads] += olders[1:] or olders
            self.ratios[threads].append(float(np.median(olders[1:] or olders) / np.median(calls)))

    def forget(self) -> None:
        """Drop what has been measured."""
        for numbers in (self.calls, self.networks, self.olders, self.ratios):
            numbers.clear()

    def summarise(self) -> dict[str, Any]:
        """Return the row as the JSON holds it, with its milliseconds for each number of threads."""
        by_threads = {}
        for threads, calls in self.calls.items():
            p50, p99, longest = (1000 * float(np.percentile(calls, share)) for share in (50, 99, 100))
            one = {"ms": p50, "p99_ms": p99, "longest_ms": longest, "calls": len(calls)}
            if self.networks.get(threads):
                one["networks_ms"] = 1000 * float(np.median(self.networks[threads]))
                # Of each call and the evaluations right after it, so that what slows both down does not count.
                one["of_networks"] = float(np.median(np.array(calls) / self.networks[threads]))
            if self.olders.get(threads):
                one["older_ms"] = 1000 * float(np.median(self.olders[threads]))
                one["times_older"] = float(np.median(self.ratios[threads]))
            by_threads[str(threads)] = one
        best = min(by_threads, key=lambda threads: by_threads[threads]["ms"])
        row = {"size": self.row.size, "name": self.row.name, "threads": by_threads, "best_threads": int(best)}
        row["plans_per_second"] = 1000 * self.row.plans / by_threads[best]["ms"]
        return row


def measure(rows: list[Row], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the rows in turns, and return them as the JSON holds them."""
    older = dict([options.against.split("=", 1)]) if options.against else {}
    with ExitStack() as stack:
        folders = {size: Path(stack.enter_context(tempfile.TemporaryDirectory())) for size in SIZES}
        olders: dict[str, Worker] = {}
        for size, folder in folders.items():
            make_folder(SIZES[size], folder)
            for python in older.values():
                olders[size] = stack.enter_context(
                    start_worker([python, "-I"], folder)
                )  # neither this folder nor PYTHONPATH
        subjects = []
        for row in rows:
            try:
                subjects.append(prepare(row, folders[row.size], olders.get(row.size)))
            except ValueError as error:
                if row.kind not in PROGRAMS:
                    raise
                Console(stderr=True).print(f"left out, {row.name}: {error}", markup=False)  # a package is missing
        for turn in range(options.rounds + 1):
            for subject in subjects:
                for threads in options.threads:
                    made = subject.calls[threads]
                    if len(made) < FEWEST or sum(made) < options.seconds / 2:
                        share = (options.seconds / options.rounds, 1 + options.calls // options.rounds)
                        subject.measure(threads, *(share if turn else (0, 1)))
            if turn == 0:  # which warms up
                for subject in subjects:
                    subject.forget()
    return relate([subject.summarise() for subject in subjects])


def relate(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row how many times as fast it is as the stock class at its size, if that was measured."""
    stock = {row["size"]: best_ms(row) for row in measured if row["name"] == STOCK}
    for row in measured:
        if row["size"] in stock:
            row["times_stock"] = stock[row["size"]] / best_ms(row)
    return measured


def prepare(row: Row, folder: Path, older: Worker | None) -> Timed:
    """Make a row's call, record its network evaluations, and compare its plan with the older version's."""
    call = KINDS[row.kind](row, folder)
    if row.kind != "planner":
        return Timed(row, call, [], None)
    evaluations = network_calls.record(call)
    if older is not None:
        ours, theirs = KINDS[row.kind](row, folder)().actions.cpu().numpy(), np.array(older.ask({"row": row.request()}))
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, atol=1e-3):
            raise ValueError(f"{row.size}, {row.name}: the older version makes another plan, so it does other work")
    return Timed(row, call, evaluations, older)


def best_ms(row: dict[str, Any]) -> float:
    """Return the milliseconds of a call with the better number of threads."""
    return float(row["threads"][str(row["best_threads"])]["ms"])


def make_table(measured: list[dict[str, Any]], size: str, options: argparse.Namespace) -> Table:
    """Return the table of one size of the networks."""
    table = Table(title=f"{size}: H = {SIZES[size].horizon}, T = {LEVELS}, widths {SIZES[size].widths}")
    headings = ["row", *(f"ms, {threads} thread{'s' * (threads > 1)}" for threads in options.threads)]
    headings += ["times stock", "plans a second", "of its networks", "p99", "longest"]
    if options.against:
        headings.append(f"times {options.against.split('=')[0]}")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "row" else "right", no_wrap=heading == "row")
    for row in measured:
        if row["size"] != size:
            continue
        best = row["threads"][str(row["best_threads"])]
        numbers = [row["threads"].get(str(threads), {}).get("ms") for threads in options.threads]
        numbers += [row.get("times_stock"), row["plans_per_second"], best.get("of_networks")]
        numbers += [best["p99_ms"], best["longest_ms"]]
        numbers += [best.get("times_older")] if options.against else []
        cells = ["" if number is None else f"{number:.2f}" if number < 10 else f"{number:.1f}" for number in numbers]
        table.add_row(row["name"], *cells)
    return table


def main() -> None:
    """Measure, print the tables, and write the numbers as JSON if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=3, help="of each row with each number of threads")
    parser.add_argument("--calls", type=int, default=1000, help="the most of each row with each number of threads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], help="a part of a row's size and name; may be repeated")
    parser.add_argument("--against", metavar="NAME=PYTHON", help="an older version and its environment's interpreter")
    options = parser.parse_args()
    rows = [row for row in ROWS if all(part in f"{row.size}, {row.name}" for part in options.only)]
    if not rows:
        parser.error(f"no row has {options.only} in its size and name")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    machine = describe_machine()
    begin = time.perf_counter()
    measured = measure(rows, options)
    console = Console()
    console.width = max(console.width, WIDTH)
    for size in SIZES:
        if any(row["size"] == size for row in measured):
            console.print(make_table(measured, size, options))
    console.print(f"{machine['gpu'] or machine['cpu']}; {time.perf_counter() - begin:.0f} s", markup=False)
    if options.json is not None:
        against = options.against.split("=")[0] if options.against else None
        sizes = {name: asdict(size) for name, size in SIZES.items()}
        result = {"machine": machine, "sizes": sizes, "levels": LEVELS, "older": against, "rows": measured}
        write_report(result, options.json)


if __name__ == "__main__":
    main()
