"""Figures that several rooms draw: plans, episodes, returns, calibration, bars. Arrays in, a figure out.

Shapes: K plans, H steps of a plan, L steps of an episode, A action and O observation dimensions, T = A + O, action
first.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from vgp_lightning.report.names import name_dimensions

MAX_DIMENSIONS = 8  # more panels would be too small to read
_MAX_DOTS = 2000  # more would hide each other
# Okabe and Ito's colours, which colour-blind readers can distinguish.
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"


# ---------------------------------------------------------------- plans, episodes, returns


def plot_plans(plans: ArrayLike, windows: ArrayLike, names: Sequence[str], title: str) -> Figure:
    """Draw plans over windows of the dataset, with one panel for each of the first dimensions.

    Args:
        plans: (K, H, T), in the units of ``windows``.
        windows: (K', H', T).
        names: Names of the T dimensions.
        title: Title of the figure.

    Raises:
        ValueError: If the shapes do not match.
    """
    groups = {"dataset": (np.asarray(windows), GREY), "plans": (np.asarray(plans), BLUE)}
    for label, (lines, _) in groups.items():
        if lines.ndim != 3 or len(lines) == 0 or lines.shape[2] != len(names):
            raise ValueError(f"{label} have shape {lines.shape}: (K, H, {len(names)}) is needed for {len(names)} names")
    return _plot_lines(groups, names, title)


def plot_episode(actions: ArrayLike, observations: ArrayLike, title: str, env_id: str | None = None) -> Figure:
    """Draw the actions (L, A) and observations (L, O) of an episode, the first of these dimensions."""
    actions, observations = np.asarray(actions), np.asarray(observations)
    names = name_dimensions(env_id, actions.shape[1], observations.shape[1])
    lines = np.hstack([actions, observations])[None]
    return _plot_lines({"episode": (lines, BLUE)}, [*names.actions, *names.observations], title)


def _plot_lines(groups: Mapping[str, tuple[NDArray[Any], str]], names: Sequence[str], title: str) -> Figure:
    """Draw groups of lines (K, H, T), each with a colour, with a panel for each of the first T dimensions."""
    shown = min(len(names), MAX_DIMENSIONS)
    columns = min(shown, 2)
    rows = -(-shown // columns)
    figure = Figure(figsize=(4.5 * columns, 0.8 + 1.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for i, panel in enumerate(panels):
        if i >= shown:
            panel.axis("off")
            continue
        for label, (lines, colour) in groups.items():
            # Few lines are opaque, many are transparent.
            opacity = max(0.2, 1 / len(lines) ** 0.5)
            drawn = panel.plot(lines[:, :, i].T, color=colour, alpha=opacity, linewidth=1.2)
            drawn[0].set_label(label)
        panel.set_ylabel(names[i])
        tidy(panel)
        if i >= shown - columns:
            panel.set_xlabel("step")
            panel.tick_params(labelbottom=True)
    figure.align_ylabels()
    figure.suptitle(title if shown == len(names) else f"{title} ({shown} of {len(names)} dimensions)")
    if len(groups) > 1:
        legend = figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(groups))
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)
    return figure


def plot_returns(
    returns: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[float] | None],
    title: str = "Return of each episode, mean and its 95 % confidence interval",
) -> Figure:
    """Draw the return of each episode as a dot, and each group's mean with its confidence interval.

    Args:
        returns: The returns of each group, such as ``{"behaviour": [...], "guided": [...]}``.
        intervals: For each of the same names [low, high] of the mean; None: no interval is drawn.
        title: Title of the figure.

    Raises:
        ValueError: If a group is empty, or has no entry in ``intervals``.
    """
    if missing := [name for name, values in returns.items() if name not in intervals or len(values) == 0]:
        raise ValueError(f"no returns or no interval for {missing}: there are intervals for {list(intervals)}")
    figure = Figure(figsize=(max(5.0, 1.5 + 1.7 * len(returns)), 4), layout="constrained")
    panel = figure.subplots()
    rng = np.random.default_rng(0)  # the horizontal jitter has no meaning, but must be the same in each drawing
    for i, (name, values) in enumerate(returns.items()):
        panel.scatter(i + rng.uniform(-0.15, 0.15, len(values)), values, s=16, color=BLUE, alpha=0.5, linewidths=0)
        mean, interval = float(np.mean(values)), intervals[name]
        if interval is not None:
            panel.plot([i + 0.28] * 2, interval, color=ORANGE, linewidth=2, solid_capstyle="butt")
        panel.plot(i + 0.28, mean, "o", color=ORANGE, markersize=6)
        panel.annotate(f"{mean:,.0f}" if abs(mean) >= 100 else f"{mean:.3g}", (i + 0.34, mean), va="center", fontsize=9)
    panel.set_xticks(range(len(returns)), list(returns))
    panel.set_xlim(-0.5, len(returns) - 0.25)
    panel.set_ylabel("return")
    panel.set_title(title, fontsize=10)
    tidy(panel)
    return figure


# ---------------------------------------------------------------- calibration and bars


def plot_calibration(
    predicted: ArrayLike, realised: ArrayLike, curve: ArrayLike, title: str, complete: ArrayLike | None = None
) -> Figure:
    """Draw realised over predicted returns, the line on which both are equal, and the calibration curve.

    Args:
        predicted: (n,), of which at most 2000 are drawn, evenly spaced.
        realised: (n,).
        curve: (m, 2), means of predicted and realised returns, of groups of increasing prediction.
        title: Title of the figure.
        complete: (n,), which realised returns are complete; None: all are, and they are those of windows.
    """
    predicted, realised = np.asarray(predicted, dtype=np.float64), np.asarray(realised, dtype=np.float64)
    whole = np.ones(len(predicted), dtype=bool) if complete is None else np.asarray(complete)
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    panel = figure.subplots()
    shown = np.unique(np.linspace(0, len(predicted) - 1, min(len(predicted), _MAX_DOTS)).round().astype(int))
    for label, mask, colour in (("truncated by the time limit", ~whole, ORANGE), ("complete", whole, BLUE)):
        dots = shown[mask[shown]]
        if len(dots):
            name = label if complete is not None else "windows"
            panel.scatter(predicted[dots], realised[dots], s=9, color=colour, alpha=0.35, linewidths=0, label=name)
    ends = [min(predicted.min(), realised.min()), max(predicted.max(), realised.max())]
    panel.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, label="predicted = realised")
    panel.plot(*np.asarray(curve).T, "o-", color="black", markersize=4, linewidth=1.5, label="means of deciles")
    panel.set_xlabel("predicted return")
    panel.set_ylabel("realised return")
    panel.set_title(title, fontsize=10)
    for handle in panel.legend(fontsize=8, frameon=False).legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    tidy(panel)
    return figure


def plot_bars(
    groups: Mapping[str, Sequence[float | None]],
    labels: Sequence[str],
    axis: str,
    title: str,
    line: float | None = None,
) -> Figure:
    """Draw groups of bars side by side.

    Args:
        groups: For each group a number for each label, or None for no bar; at most three groups.
        labels: Labels below the bars.
        axis: Label of the vertical axis.
        title: Title of the figure.
        line: Height of a reference line; None: there is none.

    Raises:
        ValueError: If a group does not have one number for each label.
    """
    if wrong := {name: len(bars) for name, bars in groups.items() if len(bars) != len(labels)}:
        raise ValueError(f"{len(labels)} labels, but there are bars {wrong}")
    longest = max(map(len, labels))
    upright = longest > 4 and len(labels) > 6
    size = max(5.0, 1.5 + 0.45 * len(labels) * max(1.4, len(groups))), 3.6 + (0.08 * longest if upright else 0)
    figure = Figure(figsize=size, layout="constrained")
    panel = figure.subplots()
    width = 0.8 / len(groups)
    for i, (name, bars) in enumerate(groups.items()):
        heights = np.array([np.nan if bar is None else bar for bar in bars], dtype=np.float64)
        places = np.arange(len(labels)) + (i - (len(groups) - 1) / 2) * width
        panel.bar(places, heights, width, color=(BLUE, GREY, ORANGE)[i], label=name)
    panel.axhline(0, color="black", linewidth=0.8)
    if line is not None:
        panel.axhline(line, color=GREY, linestyle="--", linewidth=1)
    panel.set_xticks(range(len(labels)), labels, rotation=90 if upright else 0)
    panel.set_ylabel(axis)
    panel.set_title(title, fontsize=10)
    if len(groups) > 1:
        panel.legend(fontsize=8, frameon=False)
    tidy(panel)
    return figure


# ---------------------------------------------------------------- any figure


def figure_to_image(figure: Figure) -> NDArray[np.uint8]:
    """Return a figure as pixels (height, width, 3)."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return np.asarray(Image.open(stream).convert("RGB"))


def tidy(panel: Axes) -> None:
    """Hide the upper and right spine, and put a light grid behind the lines."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", alpha=0.3)
    panel.set_axisbelow(True)
