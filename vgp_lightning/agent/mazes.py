"""Mazes: their walls, where observations hold positions in them, and the goal as a condition on plans.

Shapes: N observations, O observation dimensions.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray

from vgp_lightning.agent.behaviours import WaypointBehaviour
from vgp_lightning.agent.controllers import Controller, PositionController
from vgp_lightning.agent.planning import Conditions
from vgp_lightning.report.scene import Aerial


@dataclass(frozen=True)
class Maze:
    """The walls of a maze, and where flat observations hold positions in it.

    Attributes:
        walls: (W, 2), the centres of square walls.
        width: Width of a wall.
        position: The two observation dimensions with the position of the body.
        goal: The two with the position of the goal.
        state: The two positions and the two velocities of a point; None: the body is no point.
        height: Height of the walls.
    """

    walls: NDArray[np.float64]
    width: float
    position: slice
    goal: slice
    state: tuple[tuple[int, int], tuple[int, int]] | None = None
    height: float = 0.0

    @property
    def corners(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The corner of the outer walls with the smallest x and y, and the opposite one; (2,) each."""
        half = self.width / 2
        return self.walls.min(axis=0) - half, self.walls.max(axis=0) + half


def find_maze(environment: gymnasium.Env[Any, Any]) -> Maze | None:
    """Return the maze of an environment of gymnasium_robotics; None: it has none.

    Position and goal are places in the observations that the environment's wrappers return.
    """
    maze = getattr(environment.unwrapped, "maze", None)
    while isinstance(environment, FlattenObservation):  # make_environments adds one, a dataset may have another
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
    state, seen = None, places.get("observation", slice(0, 0))  # a wrapper may have removed it
    if hasattr(environment.unwrapped, "point_env") and seen.stop - seen.start == 4:
        x, y, along_x, along_y = range(seen.start, seen.stop)
        state = (x, y), (along_x, along_y)
    width = float(maze.maze_size_scaling)
    height = float(maze.maze_height) * width  # as the walls are built
    return Maze(walls, width, places["achieved_goal"], places["desired_goal"], state, height)


def need_maze(maze: Maze | None, option: str, env_id: str) -> Maze:
    """Return the maze that an option is about.

    Raises:
        ValueError: If there is none.
    """
    if maze is None:
        raise ValueError(f"{option} is for mazes, and {env_id} is none: leave it out")
    return maze


def end_at_goal(maze: Maze) -> Conditions:
    """Return the condition that plans end at the goal, a point at rest there, as in the paper's code.

    The observation of a point has its position twice, as what was achieved and in its state: both are at the goal.
    What follows the plan's states holds the last one, so that any other velocity would drive it away from the goal.
    """

    def condition(observations: NDArray[np.floating]) -> dict[int, NDArray[np.floating]]:
        last = np.full_like(observations, np.nan)
        last[:, maze.position] = observations[:, maze.goal]
        if maze.state is not None:
            last[:, maze.state[0]] = observations[:, maze.goal]
            last[:, maze.state[1]] = 0
        return {-1: last}

    return condition


def look_down(maze: Maze, observations: NDArray[np.floating] | None) -> Aerial:
    """Return the view of a maze from above.

    Args:
        maze: The maze.
        observations: (H, O), of a plan whose positions are marked; None: there is no plan.
    """
    points = np.zeros((0, 2)) if observations is None else observations[:, maze.position]
    return Aerial(*maze.corners, maze.height, points)


def choose_way(
    maze: Maze | None, env_id: str, reach_goal: bool, follow_states: bool
) -> tuple[Conditions | None, Controller | None]:
    """Return the conditions and the controller that the options ``reach_goal`` and ``follow_states`` ask for.

    Raises:
        ValueError: If an option is on and there is no maze, or no point in it to be led.
    """
    return (
        end_at_goal(need_maze(maze, "reach_goal", env_id)) if reach_goal else None,
        follow_plans(need_maze(maze, "follow_states", env_id)) if follow_states else None,
    )


def follow_plans(maze: Maze) -> Controller:
    """Return what leads a point along the states of a plan, with the gains of the behaviour that collects such data.

    Raises:
        ValueError: If the body in the maze is no point.
    """
    if maze.state is None:
        raise ValueError("follow_states is for mazes with a point in them, which forces move: leave it out")
    return PositionController(*maze.state, WaypointBehaviour.GAIN, WaypointBehaviour.DAMPING)
