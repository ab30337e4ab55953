"""Markup: pieces of HTML from plain values. All that is not markup yet is escaped where it enters."""

import html
import math
import shlex
from collections.abc import Iterable, Sequence
from typing import Any


class Markup(str):
    """Text that is HTML already."""


def escape(value: object) -> Markup:
    """Return a value as HTML: text is escaped, markup stays."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def join(parts: Iterable[object]) -> Markup:
    """Return values one after the other as HTML."""
    return Markup("".join(escape(part) for part in parts))


def tag(name: str, /, *parts: object, **attributes: object) -> Markup:
    """Return an element, with its content and attributes escaped.

    Args:
        name: The element's.
        parts: Its content.
        attributes: ``class_`` stands for class, ``view_box`` for view-box; one that is None is left out.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    opening = "".join(f' {key}="{html.escape(str(value))}"' for key, value in given.items())
    if name in ("img", "meta"):
        return Markup(f"<{name}{opening}>")
    return Markup(f"<{name}{opening}>{join(parts)}</{name}>")


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """Return a table, whose first column names the rows; where it is too wide, it scrolls by itself.

    Args:
        caption: What it shows, for readers and screen readers.
        heads: Headings of the columns; empty: there are none.
        rows: The cells; numbers are set by ``number`` and aligned to the right.
    """
    cells = [list(row) for row in rows]
    right = [bool(cells) and all(_is_number(one) for one in column) for column in zip(*cells, strict=True)]
    kinds = ["number" if one else None for one in right]
    heading = [tag("th", one, scope="col", class_=kind) for one, kind in zip(heads, kinds, strict=False)]
    body = []
    for first, *others in cells:
        tds = [tag("td", _cell(one), class_=kind) for one, kind in zip(others, kinds[1:], strict=True)]
        body.append(tag("tr", tag("th", _cell(first), scope="row"), *tds))
    head = tag("thead", tag("tr", *heading)) if heads else ""
    inner = tag("table", tag("caption", caption), head, tag("tbody", *body))
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> object:
    return value if isinstance(value, str) else number(value)


def number(value: Any) -> str:
    """Return a value as readers write it: 3,090, 0.123, yes, none."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def interval(ends: Sequence[float] | None) -> str:
    """Return a 95 % interval as text, or that there is none."""
    if ends is None:
        return "no interval: too few episodes"
    rounded = max(map(abs, ends)) >= 1000  # both: 995 to 1,866
    low, high = (f"{end:,.0f}" if rounded else number(end) for end in ends)
    return f"95 % interval {low} to {high}"


def details(summary: str, *parts: object) -> Markup:
    """Return parts that open by a click or a key."""
    return tag("details", tag("summary", summary), *parts)


def command(words: Sequence[object]) -> Markup:
    """Return a command to copy, with its words quoted for the shell; a line ends before an option, not within."""
    pieces: list[list[str]] = [[]]
    for word in map(str, words):
        if word.startswith("--"):
            pieces.append([])
        pieces[-1].append(word)
    lines = [shlex.join(piece) for piece in pieces]
    spans = [tag("span", line) if i else escape(line) for i, line in enumerate(lines)]
    return tag("pre", tag("code", join(part for span in spans for part in (span, " "))), tabindex="0")


def options(given: Iterable[tuple[str, Any]]) -> list[str]:
    """Return options as words of a command: --name value; null, true and false as the command line takes them."""
    plain = {None: "null", True: "true", False: "false"}
    words = []
    for name, value in given:
        words += [f"--{name}", plain[value] if value is None or isinstance(value, bool) else str(value)]
    return words


def figure(picture: object, what: str, good: str, bad: str) -> Markup:
    """Return a picture, and below it what it shows and what good and bad look like."""
    lines = [tag("p", what), tag("p", tag("b", "Good: "), good, " ", tag("b", "Bad: "), bad, class_="reading")]
    return tag("figure", picture, tag("figcaption", *lines))
