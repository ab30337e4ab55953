"""Write the tables of benchmarks/results/latency.json and threads.json into docs/planning.md.

So all figures of a table are of one run. The files are made by ``make bench BENCH="--json FILE"`` and
``python -m benchmarks.threads --json FILE``; ``python docs/latency.py`` then writes the page.
"""

import json
from pathlib import Path
from typing import Any

import marks

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "planning.md", ROOT / "benchmarks" / "results"


def draw(result: dict[str, Any]) -> str:
    """Return the tables of planning calls: a caption, and a table for each size of the networks."""
    return f"{caption(result['machine'])}\n\n" + "\n".join(table(result, size) for size in result["sizes"])


def caption(machine: dict[str, Any]) -> str:
    """Return what it was measured on."""
    flags = [name for name in ("avx2", "avx512f", "amx_bf16") if name in machine["cpu_flags"]]
    device = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores ({', '.join(flags)})"
    return f"Measured on {machine['date']}: {device}, torch {machine['torch']}, load average {machine['load_average']}."


def table(result: dict[str, Any], size: str) -> str:
    """Return the table of one size."""
    rows = [row for row in result["rows"] if row["size"] == size]
    threads = sorted({number for row in rows for number in row["threads"]}, key=int)
    parts = result["sizes"][size]
    widths = "/".join(map(str, parts["widths"]))
    headings = [f"{size} (H = {parts['horizon']}, widths {widths})", *(f"ms, {count(number)}" for number in threads)]
    headings += ["times stock", "plans a second", "of its networks", "p99, ms", "longest, ms"]
    headings += [f"times {result['older']}"] if result["older"] else []
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)]]
    for row in rows:
        best = row["threads"][str(row["best_threads"])]
        numbers = [row["threads"].get(number, {}).get("ms") for number in threads]
        numbers += [row.get("times_stock"), row["plans_per_second"], best.get("of_networks")]
        numbers += [best["p99_ms"], best["longest_ms"]]
        numbers += [best.get("times_older")] if result["older"] else []
        lines.append([row["name"], *map(show, numbers)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def count(threads: str) -> str:
    """Return a number of threads in words."""
    return "1 thread" if threads == "1" else f"{threads} threads"


def show(number: float | None) -> str:
    """Return a number in about three digits."""
    if number is None:
        return ""
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def draw_threads(result: dict[str, Any]) -> str:
    """Return the table of what more threads cost or bring."""
    rows = result["rows"]
    plans = list(dict.fromkeys(row["plans"] for row in rows))
    headings = ["networks", "waiting", "beside", *(f"{number} plans" for number in plans)]
    lines = [headings, [*["---"] * 3, *["---:"] * len(plans)]]
    for key in dict.fromkeys((row["size"], row["policy"], row["busy"]) for row in rows):
        size, policy, busy = key
        found = [row for row in rows if (row["size"], row["policy"], row["busy"]) == key]
        lines.append([size, policy, "a busy process" if busy else "", *(show(row["ratio"]) for row in found)])
    drawn = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"{caption(result['machine'])}\n\n{drawn}"


def put(name: str, drawn: str, page: str) -> str:
    """Return the page with a drawing between the marks of its name."""
    begin, end = f"<!-- {name}: python docs/latency.py -->", f"<!-- end of {name} -->"
    return marks.fill(f"{begin}\n", end, drawn, page)


def fill(page: str) -> str:
    """Return the page with the tables of the last runs."""
    for name, function in (("latency", draw), ("threads", draw_threads)):
        page = put(name, function(json.loads((RESULTS / f"{name}.json").read_text())), page)
    return page


def main() -> None:
    """Write them into the page."""
    PAGE.write_text(fill(PAGE.read_text()))


if __name__ == "__main__":
    main()
