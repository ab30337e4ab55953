"""Run `vgp demo` with several seeds, each with data and trainings of its own, and keep what they returned.

    python -m benchmarks.demos runs/demos                  # five seeds; about 10 minutes each on two idle cores

A seed whose report exists is not run again, so an interrupted command goes on with the next one. The returns go to
benchmarks/results/demos.json, and a table of them is printed.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.results_page import interval, table
from vgp_lightning.demo import PLANNERS
from vgp_lightning.report.documents import read_json
from vgp_lightning.report.files import write_report

TARGET = Path(__file__).parent / "results" / "demos.json"


def run(seed: int, folder: Path) -> dict[str, Any]:
    """Run the demo with a seed, if that was not done yet, and return its report."""
    report = folder / "report.json"
    if not report.is_file():
        command = ["demo", "--seed", str(seed), "--output_dir", str(folder)]
        subprocess.run([sys.executable, "-m", "vgp_lightning.cli", *command], check=True)
    return read_json(report)


def shorten(report: dict[str, Any]) -> dict[str, Any]:
    """Return of a report what is kept: each planner's mean return and interval, and the minutes of the whole."""
    means = {name: {key: report[name][key] for key in ("return_mean", "return_ci95")} for name in PLANNERS}
    return means | {"minutes": round(sum(report["seconds"].values()) / 60, 1)}


def tabulate(seeds: dict[str, Any]) -> str:
    """Return a line for each seed, and one with the ranges."""
    headings = ["`--seed`", "behaviour policy", "one unguided plan", "guided best of 16", "guided / behaviour"]
    lines = []
    for seed, one in seeds.items():
        returns = [interval(each["return_mean"], each["return_ci95"]) for each in planners(one)]
        lines.append([seed, *returns, f"{ratio(one):.2f}", f"{one['minutes']:.1f}"])
    means = zip(*([each["return_mean"] for each in planners(one)] for one in seeds.values()), strict=True)
    ranges = [*(span(each, 0) for each in means), span([ratio(one) for one in seeds.values()], 2)]
    lines.append(["range", *ranges, span([one["minutes"] for one in seeds.values()], 1)])
    return table([*headings, "minutes"], lines)


def planners(one: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the statistics of a seed's three planners."""
    return [one[name] for name in PLANNERS]


def ratio(one: dict[str, Any]) -> float:
    """Return how many times the behaviour policy's mean return the guided planner's is."""
    return float(one["guided"]["return_mean"] / one["behaviour"]["return_mean"])


def span(numbers: Any, digits: int) -> str:
    """Return the least and the greatest of some numbers."""
    return f"{min(numbers):.{digits}f} to {max(numbers):.{digits}f}"


def main() -> None:
    """Run what is missing, and write all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where everything goes, outside of the repository")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="of data and trainings")
    given = parser.parse_args()
    seeds = {str(seed): shorten(run(seed, given.folder / f"seed-{seed}")) for seed in given.seeds}
    write_report({"machine": describe_machine(), "seeds": seeds}, TARGET)
    print(tabulate(seeds))


if __name__ == "__main__":
    main()
