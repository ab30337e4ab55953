"""Denoising: pictures of plans on their way out of the noise, and of plans in mazes.

Shapes: N observations, K candidates for each, S denoising steps, H steps of a plan, O observation dimensions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from vgp_lightning.agent.mazes import Maze
from vgp_lightning.diagnostics.candidates import Candidates, to_raw
from vgp_lightning.diagnostics.findings import Findings
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.report.figures import BLUE, GREY, ORANGE, figure_to_image, tidy
from vgp_lightning.report.names import name_dimensions

_MAZE_PANELS = 6
_STRIP_COLUMNS = 6
_STRIP_ACTIONS, _STRIP_OBSERVATIONS = 2, 4  # dimensions
_FPS, _REST = 3.0, 6  # frames per second, and for how many more of them the last picture stays
_TITLE = "Denoising of one plan: all candidates, the chosen one bold"


def draw_denoising(findings: Findings, pipeline: ValueGuidedPlannerPipeline, candidates: Candidates) -> None:
    """Draw the first observation's candidates as they lose their noise, over the steps of the plan."""
    actions, levels, best = pipeline.action_dim, candidates.levels, int(candidates.best[0])
    # The observation dimensions that the chosen plan changes most.
    changes = candidates.chosen[0, :, pipeline.frame.action_entries :].std(axis=0)
    dimensions = np.sort(np.argsort(-changes, kind="stable")[:_STRIP_OBSERVATIONS])
    shown_actions = range(min(actions, _STRIP_ACTIONS))
    called = name_dimensions(pipeline.task.get("env_id"), actions, pipeline.observation_dim)
    names = [called.actions[i] for i in shown_actions] + [called.observations[i] for i in dimensions]
    lines = to_raw(pipeline, candidates.history)[..., [*shown_actions, *(actions + dimensions)]]  # (S, K, H, D)
    shown = _spread(len(levels), _STRIP_COLUMNS)
    headings = [levels[i] for i in shown]
    findings.figures["denoising"] = plot_denoising(lines[shown], best, headings, names, _TITLE)
    low, high = lines.min(axis=(0, 1, 2)), lines.max(axis=(0, 1, 2))
    figures = []
    for i, level in enumerate(levels):
        figure = plot_denoising(lines[[i]], best, [level], names, "")
        for panel, bottom, top in zip(figure.axes, low, high, strict=True):
            panel.set_ylim(bottom, top)
        figures.append(figure)
    findings.films["denoising"] = _film(figures)


def draw_maze(
    findings: Findings,
    pipeline: ValueGuidedPlannerPipeline,
    candidates: Candidates,
    standing: NDArray[np.floating],
    maze: Maze,
) -> None:
    """Draw in a maze the first observation's candidates as they lose their noise, and plans from several places.

    Args:
        findings: Where the pictures go.
        pipeline: The planner.
        candidates: What it plans from the observations.
        standing: The observations (N, O).
        maze: The maze.
    """
    actions, levels, best = pipeline.action_dim, candidates.levels, int(candidates.best[0])
    goal = standing[:1, maze.goal]
    paths = to_raw(pipeline, candidates.history)[..., actions:][..., maze.position]  # (S, K, H, 2)
    shown = _spread(len(levels), _STRIP_COLUMNS)
    findings.figures["denoising_maze"] = plot_paths(
        paths[shown],
        np.repeat(goal, len(shown), axis=0),
        [best] * len(shown),
        maze,
        _TITLE,
        [levels[i] for i in shown],
    )
    findings.films["denoising_maze"] = _film(
        [plot_paths(paths[[i]], goal, [best], maze, "", [level]) for i, level in enumerate(levels)]
    )
    some = _spread(len(standing), _MAZE_PANELS)
    findings.figures["plans"] = plot_paths(
        to_raw(pipeline, candidates.trajectories[some])[..., actions:][..., maze.position],
        standing[some][:, maze.goal],
        candidates.best[some].tolist(),
        maze,
        "Plans from visited places, to the goal (star)",
    )


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return at most so many of the numbers 0 to count - 1, evenly spaced, with the first and the last."""
    numbers: NDArray[np.int64] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
    return numbers


def _film(figures: Sequence[Figure]) -> tuple[list[NDArray[np.uint8]], float]:
    """Return the frames of a film of figures, and the frames per second."""
    frames = [figure_to_image(figure) for figure in figures]
    return frames + frames[-1:] * _REST, _FPS


def plot_denoising(history: ArrayLike, best: int, levels: Sequence[str], names: Sequence[str], title: str) -> Figure:
    """Draw candidates as they lose their noise: a column for each noise level, a row for each of D dimensions.

    Args:
        history: (S, K, H, D), in the environment's units.
        best: Index of the chosen candidate, drawn bold.
        levels: S names.
        names: D names.
        title: Title of the figure.
    """
    lines = np.asarray(history)
    levels_, _, horizon, dimensions = lines.shape
    size = (max(4.5, 1.2 + 1.9 * levels_), 0.9 + 1.15 * dimensions)
    figure = Figure(figsize=size, layout="constrained")
    panels: Any = figure.subplots(dimensions, levels_, squeeze=False, sharex=True, sharey="row")
    opacity = max(0.15, 0.8 / lines.shape[1] ** 0.5)
    for i, j in np.ndindex(dimensions, levels_):
        panel: Axes = panels[i, j]
        panel.plot(lines[j, :, :, i].T, color=GREY, alpha=opacity, linewidth=0.8)
        panel.plot(lines[j, best, :, i], color=BLUE, linewidth=2)
        panel.set_xlim(0, max(horizon - 1, 1))
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        tidy(panel)
        panel.tick_params(labelsize=7)
        if i == 0:
            panel.set_title(levels[j], fontsize=9)
        if i == dimensions - 1:
            panel.set_xlabel("step", fontsize=8)
        if j == 0:
            panel.set_ylabel(names[i], fontsize=8)
    figure.align_ylabels()
    figure.suptitle(title, fontsize=10)
    return figure


def plot_paths(
    paths: ArrayLike, goals: ArrayLike, best: Sequence[int], maze: Maze, title: str, names: Sequence[str] | None = None
) -> Figure:
    """Draw candidates in a maze, the chosen one bold, from the start (a dot) to the goal (a star), in N panels.

    Args:
        paths: (N, K, H, 2), positions.
        goals: (N, 2).
        best: Indices of the N chosen candidates.
        maze: The maze.
        title: Title of the figure.
        names: Titles of the N panels; None: they have none.
    """
    lines, stars = np.asarray(paths), np.asarray(goals)
    count = len(lines)
    columns = min(count, 6 if names else 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(3.2, 2.4 * columns), 0.5 + 2.5 * rows), layout="constrained")
    half = maze.width / 2
    low, high = maze.corners
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for i, panel in enumerate(panels):
        panel.axis("off")
        if i >= count:
            continue
        for x, y in maze.walls:
            panel.fill([x - half, x + half, x + half, x - half], [y - half, y - half, y + half, y + half], "0.8")
        for path in lines[i]:
            panel.plot(*path.T, color=GREY, alpha=0.5, linewidth=0.8)
        panel.plot(*lines[i, best[i]].T, color=BLUE, linewidth=1.2)
        panel.plot(*lines[i, best[i], 0], "o", color="black", markersize=5)
        panel.plot(*stars[i], "*", color=ORANGE, markersize=13)
        panel.set_aspect("equal")
        panel.set_xlim(low[0], high[0])
        panel.set_ylim(low[1], high[1])
        if names:
            panel.set_title(names[i], fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure
