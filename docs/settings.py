"""Make the table of all settings from their definition, and put it into docs/planning.md.

Usage: ``python docs/settings.py``, with the package installed.
"""

from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from marks import fill

from vgp_lightning.export.card import read_meanings
from vgp_lightning.pipeline.settings import CHOICES, DEFAULTS, EXPORT_DEFAULTS, RANGES, WHOLE

PAGE = Path(__file__).parent / "planning.md"
BEGIN, END = "<!-- made by python docs/settings.py -->\n", "<!-- end of what docs/settings.py made -->\n"

# Export defaults that depend on the training.
OF_THE_TRAINING = {
    "planning_horizon": "that of the training",
    "num_inference_steps": f"{EXPORT_DEFAULTS['num_inference_steps']}, at most the training's noise levels",
}
# Names in place of a range's end, in words.
ENDS = {"levels": "the training's noise levels", "planning_horizon": "`planning_horizon`"}


def make_table() -> str:
    """Return the table in Markdown: name, default of a call, default of an export, accepted values, meaning."""
    lines = ["| setting | default | export's default | values | meaning |", "|---|---|---|---|---|"]
    for name, meaning in read_meanings().items():
        default: Any = dict(DEFAULTS)[name]
        exported = OF_THE_TRAINING.get(name, _word(dict(EXPORT_DEFAULTS)[name]) if name in EXPORT_DEFAULTS else "")
        lines.append(f"| `{name}` | {_word(default)} | {exported} | {_values(name)} | {meaning} |")
    return "\n".join([*lines, ""])


def _values(name: str) -> str:
    """Return the choices of a setting, or its range, in words."""
    if name in CHOICES:
        return ", ".join(_word(choice) for choice in CHOICES[name])
    low, high = RANGES[name]
    end = ENDS[high] if isinstance(high, str) else f"{high:g}"
    kind = "whole number" if name in WHOLE else "number"
    limits = "" if low == -inf else f" >= {low:g}" if high == inf else f" from {low:g} to {end}"
    return f"{kind}{limits}{', None' if dict(DEFAULTS)[name] is None else ''}"


def _word(value: float | str | None) -> str:
    return f"`{value}`" if isinstance(value, str) else str(value)


put = partial(fill, BEGIN, END)  # (the table, the page) -> the page with it


if __name__ == "__main__":
    PAGE.write_text(put(make_table(), PAGE.read_text()))
