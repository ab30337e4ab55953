"""Make the index of the configs that ship with the package from their first lines, and put it into docs/configs.md.

Usage: ``python docs/config_index.py``, with the package installed.
"""

from functools import partial
from pathlib import Path

from marks import fill

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "configs.md"
BEGIN, END = "<!-- made by python docs/config_index.py -->\n", "<!-- end of what docs/config_index.py made -->\n"
WHAT = {
    "": "A run",
    "data": "What a planner learns from, and how far it looks: the paper's numbers",
    "cpu": "Small networks for two cores, after a `data/` config",
    "gpu": "Small networks, trained for longer on a GPU",
    "hardware": "Machines",
    "inpainting": "Mazes by one plan to the goal",
    "critic": "A critic that chooses by default: `vgp critic FOLDER -c critic/NAME.yaml`",
    "evaluate": "Settings of planning: `vgp evaluate FOLDER -c evaluate/NAME.yaml`",
}


def make_index() -> str:
    """Return a table for each folder of configs, in Markdown."""
    folder = ROOT / "configs"
    lines = []
    for place, what in WHAT.items():
        lines += [f"## {what}", "", "| config | what it is for |", "|---|---|"]
        for path in sorted((folder / place).glob("*.yaml")):
            name = path.relative_to(folder).as_posix()
            first = path.read_text().splitlines()[0].removeprefix("# ")
            lines.append(f"| [{name}](../configs/{name}) | {first} |")
        lines.append("")
    return "\n".join(lines)


put = partial(fill, BEGIN, END)  # (the index, the page) -> the page with it


if __name__ == "__main__":
    PAGE.write_text(put(make_index(), PAGE.read_text()))
