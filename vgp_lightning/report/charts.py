"""Charts: drawings of numbers as inline SVG, whose colours follow the page's style, light and dark.

Lengths are in pixels of a drawing that is WIDTH wide; the page scales it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from vgp_lightning.report.markup import Markup, number, tag

WIDTH = 360
_LEFT, _RIGHT = 8, 16
_ROW, _BAR = 46, 18  # heights of a row of dots and of a bar
_MOST_DOTS = 1000  # more would hide each other
_COLOURS = ("blue", "orange", "grey")


@dataclass(frozen=True)
class Row:
    """Values of one name, and their mean with its interval.

    Attributes:
        name: What they are of.
        values: One each; empty: there is only the mean.
        labels: What each value says of itself under the mouse; as many, or none.
        mean: Their mean.
        ends: Its interval; None: there is none.
    """

    name: str
    values: Sequence[float]
    mean: float
    ends: Sequence[float] | None
    labels: Sequence[str] = ()


class _Scale:
    """Turns numbers into places between two ends of the drawing."""

    def __init__(self, values: Sequence[float], first: float, last: float) -> None:
        low, high = min(values), max(values)
        margin = 0.04 * (high - low) or max(abs(low) * 0.1, 0.5)
        self.low, self.high, self._first, self._last = low - margin, high + margin, first, last
        ticks = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        self.ticks = [float(tick) for tick in ticks if self.low <= tick <= self.high]

    def __call__(self, value: float) -> float:
        return round(self._first + (value - self.low) / (self.high - self.low) * (self._last - self._first), 1)


def draw_rows(rows: Sequence[Row], axis: str, what: str, reference: float | None = None) -> Markup:
    """Draw for each row its values as dots, and its mean with the interval.

    Args:
        rows: At least one.
        axis: What the numbers are.
        what: The drawing in words.
        reference: A number to compare with, drawn as a dashed line; None: there is none.
    """
    ends = [end for row in rows for end in (row.mean, *row.values, *(row.ends or ()))]
    scale = _Scale(ends if reference is None else [*ends, reference], _LEFT + 6, WIDTH - _RIGHT - 6)
    bottom = _ROW * len(rows) + 4
    parts = _ticks_below(scale, bottom, axis)
    for i, row in enumerate(rows):
        top = _ROW * i
        if reference is not None:  # not through the name
            parts.append(_line(scale(reference), top + 16, scale(reference), top + _ROW, "stroke dashed ink"))
        parts.append(tag("text", _clip(row.name, WIDTH - 2 * _LEFT), tag("title", row.name), x=_LEFT, y=top + 12))
        shown = np.unique(np.linspace(0, len(row.values) - 1, min(len(row.values), _MOST_DOTS)).round().astype(int))
        for j in shown.tolist() if len(row.values) else []:
            # The height has no meaning; the golden ratio spreads it evenly.
            y = round(top + 20 + 12 * (j * 0.618 % 1), 1)
            title = tag("title", row.labels[j]) if row.labels else ""
            parts.append(tag("circle", title, cx=scale(row.values[j]), cy=y, r=3, class_="fill faint blue"))
        y = top + (38 if row.values else 26)
        if row.ends is not None:
            first, last = map(scale, row.ends)
            # With bars at its ends, because it may be narrower than the dot.
            for line in ((first, y, last, y), (first, y - 5, first, y + 5), (last, y - 5, last, y + 5)):
                parts.append(_line(*line, "stroke orange"))
        parts.append(tag("circle", cx=scale(row.mean), cy=y, r=4, class_="fill orange"))
    return _svg(parts, bottom + 34, what)


def draw_bars(bars: Sequence[tuple[str, float | None]], axis: str, what: str, reference: float | None = None) -> Markup:
    """Draw a horizontal bar for each name, with its number.

    Args:
        bars: Names and numbers; None: there is none.
        axis: What the numbers are.
        what: The drawing in words.
        reference: A number to compare with, drawn as a dashed line; None: there is none.
    """
    names = min(170, 8 + round(6.2 * max(len(name) for name, _ in bars)))
    numbers = [value for _, value in bars if value is not None]
    scale = _Scale([0.0, *numbers, *([] if reference is None else [reference])], _LEFT + names, WIDTH - _RIGHT - 30)
    bottom = _BAR * len(bars) + 4
    parts = _ticks_below(scale, bottom, axis)
    written: list[Markup] = []
    for i, (name, value) in enumerate(bars):
        middle = _BAR * i + 13
        parts.append(tag("text", _clip(name, names), tag("title", name), x=_LEFT, y=middle))
        if value is None:
            written.append(tag("text", "none", x=scale(0) + 4, y=middle, class_="soft"))
            continue
        left, right = sorted((scale(0), scale(value)))
        width = max(round(right - left, 1), 0.5)
        parts.append(tag("rect", x=left, y=middle - 9, width=width, height=11, class_="fill blue"))
        written.append(tag("text", number(value), x=right + 4, y=middle, class_="soft"))
    if reference is not None:
        parts.append(_line(scale(reference), 0, scale(reference), bottom, "stroke dashed ink"))
    return _svg([*parts, *written], bottom + 34, what)


@dataclass(frozen=True)
class Curve:
    """Points that are joined.

    Attributes:
        name: For the legend; empty: it has no entry.
        points: x and y each; y None: the line is interrupted.
        kind: Of the line: a colour (blue, orange, grey, ink), and dashed or thin.
        dots: Whether the points are marked.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    kind: str
    dots: bool = False


def draw_curves(curves: Sequence[Curve], axes: tuple[str, str], what: str, zero: bool = False) -> Markup:
    """Draw curves over common axes.

    Args:
        curves: At least one, with at least one point.
        axes: What x and y are.
        what: The drawing in words.
        zero: Whether the vertical axis has to contain 0.
    """
    known = [(x, y) for curve in curves for x, y in curve.points if y is not None]
    legend = [curve for curve in curves if curve.name]
    top, bottom = 26 + 15 * len(legend), 246 + 15 * len(legend)
    vertical = _Scale([y for _, y in known] + ([0.0] if zero else []), bottom, top)
    left = 14 + round(6.2 * max((len(f"{tick:,.6g}") for tick in vertical.ticks), default=1))
    across = _Scale([x for x, _ in known], left, WIDTH - _RIGHT)
    parts = _ticks_below(across, bottom, axes[0], first=left, high=top)
    for tick in vertical.ticks:
        parts.append(_line(left, vertical(tick), WIDTH - _RIGHT, vertical(tick), "grid"))
        parts.append(tag("text", f"{tick:,.6g}", x=left - 5, y=vertical(tick) + 4, text_anchor="end", class_="soft"))
    parts.append(tag("text", axes[1], x=_LEFT, y=top - 10, class_="soft"))
    for i, curve in enumerate(legend):
        parts.append(_line(left, 15 * i + 8, left + 18, 15 * i + 8, f"stroke {curve.kind}"))
        parts.append(tag("text", curve.name, x=left + 24, y=15 * i + 12))
    for curve in curves:
        for run in _runs(curve.points):
            places = " ".join(f"{across(x)},{vertical(y)}" for x, y in run)
            parts.append(tag("polyline", points=places, class_=f"stroke {curve.kind}"))
            if curve.dots or len(run) == 1:
                dots = [(across(x), vertical(y), f"{number(x)}, {number(y)}") for x, y in run]
                kind = f"fill {curve.kind.split()[0]}"
                parts += [tag("circle", tag("title", text), cx=x, cy=y, r=3.5, class_=kind) for x, y, text in dots]
    return _svg(parts, bottom + 34, f"{what} Vertical axis: {axes[1]}.")


def curves_of(named: Mapping[str, Sequence[float | None]]) -> list[Curve]:
    """Return numbers of steps 0, 1, ... as curves; the first is the reference for the others, dashed."""
    kinds = ("grey dashed", *_COLOURS)
    return [
        Curve(name, [(float(x), y) for x, y in enumerate(numbers)], kind)
        for (name, numbers), kind in zip(named.items(), kinds, strict=False)
    ]


def _runs(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """Return the points between those that have no y."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def _ticks_below(scale: _Scale, bottom: float, axis: str, first: float = _LEFT, high: float = 0) -> list[Markup]:
    """Return the horizontal axis with its numbers and name, and a grid above it."""
    parts = [_line(scale(tick), high, scale(tick), bottom, "grid") for tick in scale.ticks]
    parts += [
        tag("text", f"{tick:,.6g}", x=scale(tick), y=bottom + 14, text_anchor="middle", class_="soft")
        for tick in scale.ticks
    ]
    parts.append(_line(first, bottom, WIDTH - _RIGHT, bottom, "axis"))
    parts.append(tag("text", axis, x=WIDTH - _RIGHT, y=bottom + 30, text_anchor="end", class_="soft"))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _clip(name: str, width: float) -> str:
    """Return a name that fits into a width: of a long one the beginning and the end, in which names differ."""
    most = max(4, int(width / 6.2))
    end = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - end]}…{name[-end:]}"


def _svg(parts: Sequence[Markup], height: float, what: str) -> Markup:
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=what)
