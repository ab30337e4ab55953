"""Make the list of messages and their cures from the table of wrong uses in tests/wrong_uses.py.

Usage: ``python docs/troubleshooting.py``. A test compares the page with the table, and each row with what vgp says.
"""

import sys
from functools import partial
from pathlib import Path

from marks import fill

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
BEGIN, END = "<!-- made by python docs/troubleshooting.py -->\n", "<!-- end of what docs/troubleshooting.py made -->\n"
# What the rows' short names stand for, on the page.
SHOWN = {
    "ART/": "",
    "PIPE": "exports/hopper",
    "BARE": "exports/hopper",
    "RUNS": "runs/denoiser",
    "RUN": "runs/denoiser/version_0",
    "CKPT": "last.ckpt",
    "FILE": "file.txt",
    "DIR": "folder",
}


def make_list() -> str:
    """Return the list in Markdown: of each message an example that causes it, and what to do."""
    sys.path.insert(0, str(ROOT / "tests"))
    from wrong_uses import ROWS

    lines = ["| message | said by | what to do |", "|---|---|---|"]
    for row in ROWS:
        if row.cure is not None:
            line = " ".join(_show(word) for word in row.arguments.split(" "))
            message = f"{row.message.rstrip()}{'' if row.message.endswith('?') else ' ...'}"
            lines.append(f"| {_code(message)} | {_code(f'vgp {line}')} | {row.cure} |")
    return "\n".join([*lines, ""])


def _show(word: str) -> str:
    for name, shown in SHOWN.items():
        if word == name or word.startswith((f"{name}/", name if name.endswith("/") else f"{name}/")):
            return shown + word.removeprefix(name)
    return word


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


put = partial(fill, BEGIN, END)  # (the list, the page) -> the page with it


if __name__ == "__main__":
    PAGE.write_text(put(make_list(), PAGE.read_text()))
