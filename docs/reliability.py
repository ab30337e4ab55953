"""Run the suites of tests/faults, the slow cases too, and write how many cases ended how into docs/reliability.md.

``python docs/reliability.py`` runs everything, which takes about half an hour on two cores. Options go to pytest: with
``-k kills`` the other groups keep their rows.
"""

import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import marks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: python docs/reliability.py -->", "<!-- end -->"
HEAD = "| group | tried | right | clear | failed |\n|---|---:|---:|---:|---:|\n"


def run(options: list[str]) -> list[dict[str, str]]:
    """Run the suites and return their cases."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tally.jsonl")
        path.touch()
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", "tests/faults", *options]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"VGP_TALLY": str(path)}, check=False)
        return [json.loads(line) for line in path.read_text().splitlines()]


def count(cases: list[dict[str, str]]) -> dict[str, collections.Counter[str]]:
    """Return {group: {outcome: number}}."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for case in cases:
        counts[case["group"]][case["outcome"]] += 1
    return counts


def read(page: str) -> dict[str, collections.Counter[str]]:
    """Return the counts that the page has."""
    table = page.split(BEGIN)[1].split(END)[0]
    counts = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[1].isdigit():
            counts[cells[0]] = collections.Counter(right=int(cells[2]), clear=int(cells[3]), failed=int(cells[4]))
    return counts


def write(page: str, counts: dict[str, collections.Counter[str]]) -> str:
    """Return the page with these counts in its table."""
    rows = "".join(
        f"| {group} | {one.total()} | {one['right']} | {one['clear']} | {one['failed']} |\n"
        for group, one in sorted(counts.items())
    )
    return marks.fill(f"{BEGIN}\n", END, f"{HEAD}{rows}", page)


def main() -> None:
    """Run, count, write; name the cases that failed."""
    cases = run(sys.argv[1:])
    page = PAGE.read_text()
    PAGE.write_text(write(page, read(page) | count(cases)))
    failed = [f"{case['group']}: {case['case']}" for case in cases if case["outcome"] == "failed"]
    print("\n".join([f"{len(cases)} cases, {len(failed)} failed", *failed]))
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
