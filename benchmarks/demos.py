"""Run `vgp demo` with several seeds, each with trainings of its own, and keep what they returned.

The data are nearly the same: the seeds of their episodes overlap.

    python -m benchmarks.demos runs/demos                  # five seeds; about a quarter of an hour each on two cores

A seed whose report exists is not run again, so an interrupted command goes on with the next one. The returns go to
benchmarks/results/demos.json; `python docs/demo_table.py` draws the table of README.md from it.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
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


def main() -> None:
    """Run what is missing, and write all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where everything goes, outside of the repository")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="of data and trainings")
    given = parser.parse_args()
    seeds = {str(seed): shorten(run(seed, given.folder / f"seed-{seed}")) for seed in given.seeds}
    write_report({"machine": describe_machine(), "seeds": seeds}, TARGET)
    print(f"{TARGET}; `python docs/demo_table.py` draws the table of README.md")


if __name__ == "__main__":
    main()
