"""Write the table of benchmarks/results/demos.json into README.md.

So all figures of the table are of one run of ``python -m benchmarks.demos FOLDER``; ``python docs/demo_table.py`` then
writes the page.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import marks

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results" / "demos.json"
BEGIN, END = "<!-- demos: python docs/demo_table.py -->", "<!-- end of demos -->"
PLANNERS = {"behaviour": "behaviour policy", "unguided": "one unguided plan", "guided": "guided mean of 16"}


def draw(result: dict[str, Any]) -> str:
    """Return a table with a line for each seed, and one with the ranges; below it, what it was measured on."""
    seeds = result["seeds"]
    lines = [["`--seed`", *PLANNERS.values(), "guided / behaviour", "minutes"], ["---", *["---:"] * 5]]
    for seed, one in seeds.items():
        lines.append([seed, *(say(one[name]) for name in PLANNERS), f"{ratio(one):.2f}", f"{one['minutes']:.1f}"])
    means = (span((one[name]["return_mean"] for one in seeds.values()), 0) for name in PLANNERS)
    last = [span(map(ratio, seeds.values()), 2), span((one["minutes"] for one in seeds.values()), 1)]
    lines.append(["range", *means, *last])
    drawn = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    machine = result["machine"]
    return f"{drawn}\n{machine['date']}: {machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}.\n"


def say(one: dict[str, Any]) -> str:
    """Return a mean return and its interval."""
    low, high = one["return_ci95"]
    return f"{one['return_mean']:.0f} [{low:.0f}, {high:.0f}]"


def ratio(one: dict[str, Any]) -> float:
    """Return how many times the behaviour policy's mean return the guided planner's is."""
    return float(one["guided"]["return_mean"] / one["behaviour"]["return_mean"])


def span(numbers: Iterable[float], digits: int) -> str:
    """Return the least and the greatest of some numbers."""
    found = list(numbers)
    return f"{min(found):.{digits}f} to {max(found):.{digits}f}"


def fill(page: str) -> str:
    """Return the page with the table of the last run."""
    return marks.fill(f"{BEGIN}\n", END, draw(json.loads(RESULTS.read_text())), page)


def main() -> None:
    """Write it into the page."""
    PAGE.write_text(fill(PAGE.read_text()))


if __name__ == "__main__":
    main()
