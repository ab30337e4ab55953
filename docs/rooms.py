"""Draw the rooms of vgp_lightning from their imports, and put the drawing into CONTRIBUTING.md.

Usage: ``python docs/rooms.py``, with any Python; the package is read, not imported.
"""

import ast
from collections.abc import Iterator
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path

from marks import fill

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vgp_lightning"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
ROOMS = sorted({file.split("/")[0] for file in FILES if "/" in file})

# Which column a room is drawn in, from the ground up; its floor follows from the imports.
COLUMNS = (
    ("data", "training", "export", "distillation", "cli"),
    ("pipeline", "agent", "evaluation", "tuning"),
    ("report", "diagnostics"),
    ("recordings", "play"),
)
WIDTH = 19
BEGIN, END = "<!-- made by python docs/rooms.py -->\n", "<!-- end of what docs/rooms.py made -->\n"


# ---------------------------------------------------------------- imports


def unit(file: str) -> str:
    """Return the room in which a file lies, or the name of a file at the top."""
    return file.split("/")[0].removesuffix(".py")


def parsed(file: str) -> ast.Module:
    """Return the syntax tree of a file of the package."""
    return ast.parse((PACKAGE / file).read_text())


def imports(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """Return (module, names) of every import, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level + (node.module or ""), [alias.name for alias in node.names])


def imports_of_ours(tree: ast.AST, file: str) -> set[str]:
    """Return what a file imports of the package: ``room/file.py``, or ``room`` where it is the room's door.

    Raises:
        ValueError: If a file beside the rooms imports relatively.
    """
    found = set()
    for module, names in imports(tree):
        if module.startswith("."):
            if "/" not in file:
                raise ValueError(f"{file} imports {module}: only files inside a room import relatively")
            parts = [unit(file), *filter(None, module.lstrip(".").split("."))]
        elif module == "vgp_lightning" and names == ["__version__"]:
            continue
        elif module == "vgp_lightning" or module.startswith("vgp_lightning."):
            parts = module.split(".")[1:]
        else:
            continue
        for tail in [[name] for name in names] or [[]]:
            path = "/".join([*parts, *tail])
            places = [path, "/".join(parts)]
            files = [f"{place}.py" for place in places if f"{place}.py" in FILES]
            found.add(files[0] if files else next((place for place in places if place in ROOMS), path))
    return found


def arrows() -> dict[str, set[str]]:
    """Return which rooms each room uses."""
    used: dict[str, set[str]] = {room: set() for room in ROOMS}
    for file in FILES:
        room = unit(file)
        if room in used:
            used[room] |= {unit(other) for other in imports_of_ours(parsed(file), file)} & set(ROOMS) - {room}
    return used


# ---------------------------------------------------------------- drawing


def floors(used: dict[str, set[str]]) -> dict[str, int]:
    """Return the floor of each room: one above the highest room that it uses; 0 is the ground floor.

    Raises:
        graphlib.CycleError: If rooms use each other in a circle.
    """
    floor: dict[str, int] = {}
    for room in TopologicalSorter(used).static_order():
        floor[room] = 1 + max((floor[other] for other in used[room]), default=-1)
    return floor


def draw() -> str:
    """Return the plan of the floors and the table of the rooms, as Markdown.

    Raises:
        ValueError: If ``COLUMNS`` leaves out a room, or two rooms would be drawn in one place.
    """
    used = arrows()
    floor = floors(used)
    place = {room: (floor[room], number) for number, column in enumerate(COLUMNS) for room in column}
    if sorted(place) != ROOMS or len(set(place.values())) < len(place):
        raise ValueError(f"COLUMNS in docs/rooms.py needs each room once, one on each floor of a column: {place}")
    lines = []
    for level in range(max(floor.values()), -1, -1):
        cells, below = [], []
        for column in COLUMNS:
            stack = sorted(column, key=floor.__getitem__)
            (above, *_) = [room for room in stack if floor[room] >= level] or [None]
            (*_, under) = [None, *(room for room in stack if floor[room] < level)]
            # A line runs down from a room to the next one of its column, if it uses that one.
            linked = above is not None and under is not None and under in used[above]
            cells.append(above if above is not None and floor[above] == level else "│" if linked else "")
            below.append("" if not linked else "▼" if under is not None and floor[under] == level - 1 else "│")
        lines += [_row(f"floor {level}" if level else "ground floor", cells), _row("", below)]
    table = [
        f"| `{room}` | {_what(room)} | {', '.join(sorted(used[room], key=lambda r: (-floor[r], r))) or 'no room'} |"
        for room in sorted(place, key=lambda room: (-floor[room], place[room]))
    ]
    head = ["| room | what it does | uses |", "|---|---|---|"]
    return "\n".join(["```", *lines[:-1], "```", "", *head, *table, ""])


def _row(name: str, cells: list[str]) -> str:
    return (f"{name:<14}" + "".join(f"{cell:^{WIDTH}}" for cell in cells)).rstrip()


def _what(room: str) -> str:
    """Return the first line of the room's docstring."""
    return (ast.get_docstring(parsed(f"{room}/__init__.py")) or "").splitlines()[0]


put = partial(fill, BEGIN, END)  # (the drawing, the page) -> the page with it


if __name__ == "__main__":
    page = ROOT / "CONTRIBUTING.md"
    page.write_text(put(draw(), page.read_text()))
