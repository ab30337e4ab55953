"""Behaviour policies for collecting data: bundled gaits, waypoints in mazes, random actions, exported pipelines.

Shapes: N environments, O observation and A action dimensions, both flat, in the environment's units.
"""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from vgp_lightning.agent.deployment import load_pipeline
from vgp_lightning.agent.environments import Agent
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.report.documents import read_json

ASSETS = Path(__file__).parent / "assets"


class _Streams:
    """A random generator for each environment, seeded for each episode, and the noise level u ~ U(0, 1) of the episode.

    Behaviours multiply their noise by the level, which makes episodes of mixed quality.
    """

    def __init__(self) -> None:
        self.generators: list[np.random.Generator] = []
        self.levels: NDArray[np.float64] = np.zeros(0)  # (N,)

    def reset(self, seeds: Sequence[int | None]) -> list[int]:
        """Begin an episode for each seed that is not None, and return the indices of these environments."""
        if len(seeds) != len(self.generators):
            self.generators = [np.random.default_rng(0) for _ in seeds]  # idle environments never get a seed
            self.levels = np.zeros(len(seeds))
        begun = [i for i, seed in enumerate(seeds) if seed is not None]
        for i in begun:
            # A pair, because gymnasium draws the initial state from default_rng(seed).
            self.generators[i] = np.random.default_rng((seeds[i], 1))  # type: ignore[arg-type]
            self.levels[i] = self.generators[i].uniform()
        return begun

    def normal(self, dimension: int) -> NDArray[np.float64]:
        """Draw (N, dimension) standard normal numbers, each row from its own generator."""
        return np.stack([generator.standard_normal(dimension) for generator in self.generators])


class LinearBehaviour:
    """action = clip(bias + W @ observation), with noise that differs from episode to episode.

    An episode's seed gives a noise level u ~ U(0, 1). For the whole episode each weight is multiplied by
    1 + weight_noise * u * n, with n ~ N(0, 1) for each weight: the noise is relative, so the units of observations do
    not matter. Biases have no noise. At each step action_noise * u * n with new n ~ N(0, 1) is added to each action
    before it is clipped to its bounds. So episodes range from the clean policy (u = 0) to a bad one.
    """

    def __init__(
        self,
        weights: NDArray[np.float64],
        bias: NDArray[np.float64],
        action_space: spaces.Box,
        *,
        weight_noise: float = 0.0,
        action_noise: float = 0.0,
    ) -> None:
        self.weights = weights  # (A, O)
        self.bias = bias  # (A,)
        self.low, self.high = action_space.low.ravel(), action_space.high.ravel()  # (A,) each
        self.weight_noise = weight_noise
        self.action_noise = action_noise
        self._streams = _Streams()
        self._perturbed = np.zeros((0, *weights.shape))  # (N, A, O)

    def reset(self, seeds: Sequence[int | None]) -> None:
        """Draw noise level and weights of the episodes that begin."""
        if len(seeds) != len(self._perturbed):
            self._perturbed = np.repeat(self.weights[None], len(seeds), axis=0)
        for i in self._streams.reset(seeds):
            relative = self.weight_noise * self._streams.levels[i]
            self._perturbed[i] = self.weights * (
                1 + relative * self._streams.generators[i].standard_normal(self.weights.shape)
            )

    def act(self, observations: NDArray[np.floating], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the clipped actions (N, A)."""
        actions = self.bias + np.einsum("nao,no->na", self._perturbed, observations)
        actions += self.action_noise * self._streams.levels[:, None] * self._streams.normal(len(self.bias))
        clipped: NDArray[np.float32] = np.clip(actions, self.low, self.high).astype(np.float32)
        return clipped


class RandomBehaviour:
    """Uniformly random actions between the bounds of the action space.

    Raises:
        ValueError: If a dimension has no bounds.
    """

    def __init__(self, action_space: spaces.Box) -> None:
        if not action_space.is_bounded("both"):
            raise ValueError(f"random actions need bounds on every dimension, but the action space is {action_space}")
        self.low, self.high = action_space.low.ravel(), action_space.high.ravel()  # (A,) each
        self._streams = _Streams()

    def reset(self, seeds: Sequence[int | None]) -> None:
        """Seed the generators of the episodes that begin."""
        self._streams.reset(seeds)

    def act(self, observations: NDArray[np.floating], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return random actions (N, A)."""
        return np.stack([stream.uniform(self.low, self.high) for stream in self._streams.generators]).astype(np.float32)


class WaypointBehaviour:
    """Follow a point maze's shortest path to the goal, cell by cell, with a PD controller.

    The next cell follows from the point's cell at each step, by breadth-first search from the goal's cell. The
    controller goes to the centre of the next cell, and in the goal's cell to the goal. As for LinearBehaviour, an
    episode's seed gives a noise level u ~ U(0, 1), and action_noise * u * N(0, 1) is added to actions at each step.

    Raises:
        ValueError: If the environments are not point mazes.
    """

    # The gains with which D4RL collected its maze2d datasets.
    GAIN, DAMPING = 10.0, 1.0

    def __init__(self, environments: VectorEnv, *, action_noise: float = 0.0) -> None:
        self.maze: Any = getattr(environments.envs[0].unwrapped, "maze", None)  # type: ignore[attr-defined]
        shapes = (environments.single_observation_space.shape, environments.single_action_space.shape)
        if self.maze is None or shapes != ((8,), (2,)):
            raise ValueError(
                f"the waypoint behaviour is for PointMaze_*-v3, with observations (8,) and actions (2,): "
                f"these environments have {shapes[0]} and {shapes[1]}, and {'a' if self.maze else 'no'} maze"
            )
        self.action_noise = action_noise
        self._streams = _Streams()
        self._next: dict[tuple[int, int], dict[tuple[int, int], tuple[int, int]]] = {}  # goal cell: {cell: next cell}

    def reset(self, seeds: Sequence[int | None]) -> None:
        """Draw the noise levels of the episodes that begin."""
        self._streams.reset(seeds)

    def act(self, observations: NDArray[np.floating], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the clipped actions (N, 2) for observations (N, 8): position, goal, position and velocity."""
        positions, goals, velocities = observations[:, :2], observations[:, 2:4], observations[:, 6:8]
        targets = np.stack([self._target(position, goal) for position, goal in zip(positions, goals, strict=True)])
        actions = self.GAIN * (targets - positions) - self.DAMPING * velocities
        actions += self.action_noise * self._streams.levels[:, None] * self._streams.normal(2)
        clipped: NDArray[np.float32] = np.clip(actions, -1, 1).astype(np.float32)
        return clipped

    def _target(self, position: NDArray[np.floating], goal: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the target (2,) from a position: the next cell's centre, or the goal if it is in this cell."""
        cell, last = self._cell(position), self._cell(goal)
        if last not in self._next:
            self._next[last] = self._search(last)
        if cell == last or cell not in self._next[last]:
            return goal
        centre: NDArray[np.floating] = self.maze.cell_rowcol_to_xy(self._next[last][cell])
        return centre

    def _cell(self, xy: NDArray[np.floating]) -> tuple[int, int]:
        row, column = self.maze.cell_xy_to_rowcol(xy)
        return int(row), int(column)

    def _search(self, goal: tuple[int, int]) -> dict[tuple[int, int], tuple[int, int]]:
        """Search breadth-first from the goal's cell, and return each reachable cell's next cell towards it."""
        onward = {goal: goal}
        queue = deque([goal])
        while queue:
            row, column = queue.popleft()
            for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                inside = 0 <= cell[0] < self.maze.map_length and 0 <= cell[1] < self.maze.map_width
                if inside and self.maze.maze_map[cell[0]][cell[1]] != 1 and cell not in onward:  # 1: a wall
                    onward[cell] = (row, column)
                    queue.append(cell)
        return onward


def describe_behaviours() -> str:
    """Return a list of the names that ``make_behaviour`` knows, for the help of ``vgp collect``."""
    lines = {
        "random": "uniform actions, in any environment with bounded actions",
        "waypoint": "from cell to cell to the goal, in PointMaze; takes action_noise",
        **{
            path.stem: f"a gait of {read_json(path)['env_id']}; takes weight_noise and action_noise"
            for path in sorted(ASSETS.glob("*.json"))
        },
        "FILE.json": "a linear policy of yours: weights, a list for each action, and bias",
        "FOLDER": "an exported planner, by its pipeline folder",
    }
    width = max(map(len, lines)) + 2
    return "behaviours:\n" + "\n".join(f"  {name:<{width}}{what}" for name, what in lines.items())


def make_behaviour(
    name: str, environments: VectorEnv, *, weight_noise: float = 0.0, action_noise: float = 0.0
) -> Agent:
    """Make a behaviour policy by its name.

    Args:
        name: ``random``, ``waypoint``, a bundled behaviour such as ``hopper-linear``, the path of a JSON file like the
            bundled ones (``weights`` (A, O) and ``bias`` (A,)), or the folder of an exported pipeline.
        environments: The environments to act in.
        weight_noise: Relative noise of the weights, for linear behaviours.
        action_noise: Noise of the actions in their units, for linear and waypoint behaviours.

    Raises:
        ValueError: If the name is unknown, or the behaviour does not fit the environments or has no such noise.
    """
    action_space = environments.single_action_space
    if not isinstance(action_space, spaces.Box):
        raise ValueError(f"behaviours need Box actions, but these environments have {action_space}")
    bundled = {path.stem: path for path in sorted(ASSETS.glob("*.json"))}
    path = bundled.get(name, Path(name))
    linear = path.suffix == ".json" and path.is_file()
    if not (0 <= weight_noise < np.inf and 0 <= action_noise < np.inf):
        raise ValueError(
            f"weight_noise is {weight_noise} and action_noise {action_noise}: finite numbers are needed, none negative"
        )
    if weight_noise and not linear:
        raise ValueError(
            f"weight_noise is {weight_noise}, but behaviour {name!r} has no weights to perturb: set it to 0"
        )
    if action_noise and not linear and name != "waypoint":
        raise ValueError(f"action_noise is {action_noise}, but behaviour {name!r} has none: set it to 0")
    if name == "random":
        return RandomBehaviour(action_space)
    if name == "waypoint":
        return WaypointBehaviour(environments, action_noise=action_noise)
    expected = (spaces.flatdim(action_space), spaces.flatdim(environments.single_observation_space))  # (A, O)
    if linear:
        content = read_json(path)
        if content.get("kind") != "linear":
            raise ValueError(f"{path} is not a linear behaviour: it needs the keys kind ('linear'), weights and bias")
        weights, bias = (np.asarray(content.get(key, ()), dtype=np.float64) for key in ("weights", "bias"))
        if weights.shape != expected or bias.shape != expected[:1]:
            raise ValueError(
                f"{path} has weights {weights.shape} and bias {bias.shape}, "
                f"but the environments need weights {expected} and bias {expected[:1]}: (actions, observations)"
            )
        return LinearBehaviour(weights, bias, action_space, weight_noise=weight_noise, action_noise=action_noise)
    if (path / "model_index.json").is_file():
        pipeline = load_pipeline(path)  # on a GPU if there is one
        if (pipeline.action_dim, pipeline.observation_dim) != expected:
            raise ValueError(
                f"{path} plans {(pipeline.action_dim, pipeline.observation_dim)} (actions, observations), "
                f"but the environments have {expected}"
            )
        return PlanningAgent(pipeline)
    raise ValueError(
        f"unknown behaviour {name!r}: choose random, waypoint, {', '.join(bundled)}, the path of a linear "
        "behaviour's .json, or the folder of an exported pipeline (with model_index.json)"
    )
