"""Mazes: their walls, where observations tell positions in them, and plans drawn there.

Shapes: N observations, K candidates for each, H steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from vgp_lightning.report.figures import BLUE, GREY, ORANGE


@dataclass(frozen=True)
class Maze:
    """The walls of a maze, and where flat observations tell positions in it."""

    walls: NDArray[np.float64]  # (W, 2), the middles of square walls
    width: float  # of a wall
    position: slice  # the two dimensions of an observation that say where the body is
    goal: slice  # those that say where it is to go


def find_maze(environment: gymnasium.Env[Any, Any]) -> Maze | None:
    """Return the maze of an environment that has one, as those of gymnasium_robotics do; None: it has none.

    Where wrappers change what is observed, it is their observations whose places are told.
    """
    maze = getattr(environment.unwrapped, "maze", None)
    while isinstance(environment, FlattenObservation):  # that of make_environments, and a dataset's own
        environment = environment.env
    observed = environment.observation_space
    if maze is None or not isinstance(observed, spaces.Dict):
        return None
    places, first = {}, 0
    for name, space in observed.items():  # as FlattenObservation joins them
        places[name] = slice(first, first := first + spaces.flatdim(space))
    if not {"achieved_goal", "desired_goal"} <= set(places):
        return None
    cells = [
        maze.cell_rowcol_to_xy(np.array([row, column]))
        for row, line in enumerate(maze.maze_map)
        for column, cell in enumerate(line)
        if cell == 1
    ]
    walls = np.array(cells, dtype=np.float64).reshape(-1, 2)
    return Maze(walls, float(maze.maze_size_scaling), places["achieved_goal"], places["desired_goal"])


def plot_paths(
    paths: ArrayLike, goals: ArrayLike, best: Sequence[int], maze: Maze, title: str, names: Sequence[str] | None = None
) -> Figure:
    """Draw candidates in a maze, the chosen one bold, from the start (a dot) to the goal (a star), in N panels.

    Args:
        paths: (N, K, H, 2), positions.
        goals: (N, 2).
        best: N numbers of the chosen candidates.
        maze: Its walls.
        title: Heads the picture.
        names: N headings of the panels; default: none.
    """
    lines, stars = np.asarray(paths), np.asarray(goals)
    count = len(lines)
    columns = min(count, 6 if names else 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(3.2, 2.4 * columns), 0.5 + 2.5 * rows), layout="constrained")
    half = maze.width / 2
    low, high = maze.walls.min(axis=0) - half, maze.walls.max(axis=0) + half
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
