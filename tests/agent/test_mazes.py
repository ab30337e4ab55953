"""Mazes: walls and positions as the simulator has them, and paths that are drawn where they run."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation, FlattenObservation, TransformObservation

from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.mazes import Maze, find_maze, plot_paths


def test_a_point_maze_tells_its_walls_and_where_point_and_goal_are():
    pytest.importorskip("gymnasium_robotics")
    environments = make_environments("PointMaze_UMaze-v3", 1)
    observations, _ = environments.reset(seed=3)
    environment = environments.envs[0].unwrapped
    maze = find_maze(environments.envs[0])
    np.testing.assert_array_equal(observations[0, maze.position], environment.point_env.data.qpos)
    np.testing.assert_array_equal(observations[0, maze.goal], environment.goal)
    assert maze.width == 1
    # A U of 7 free cells in 5 x 5; the middle of the frame's first cell lies two cells left of and above the centre.
    assert len(maze.walls) == 25 - 7
    assert [-2, 2] in maze.walls.tolist()
    environments.close()


def test_an_environment_without_walls_or_without_a_goal_has_no_maze():
    class Hall(gymnasium.Env):
        observation_space = spaces.Box(-1, 1, (3,))
        action_space = spaces.Box(-1, 1, (1,))

    hall = Hall()
    assert find_maze(hall) is None
    hall.maze = object()
    assert find_maze(hall) is None
    hall.observation_space = spaces.Dict({"observation": Hall.observation_space})
    assert find_maze(hall) is None


class Cellar(gymnasium.Env):
    """A maze of one wall, whose goal is observed first."""

    observation_space = spaces.Dict(desired_goal=spaces.Box(-1, 1, (2,)), achieved_goal=spaces.Box(-1, 1, (2,)))
    action_space = spaces.Box(-1, 1, (1,))
    maze = SimpleNamespace(maze_map=[[1, 0]], maze_size_scaling=4.0, cell_rowcol_to_xy=lambda cell: 4.0 * cell)


def test_places_are_those_of_the_observations_that_wrappers_leave():
    plain = find_maze(FlattenObservation(Cellar()))
    assert find_maze(FlattenObservation(FlattenObservation(Cellar()))).position == plain.position
    assert (plain.goal, plain.position) == (slice(0, 2), slice(2, 4))
    assert (plain.walls.tolist(), plain.width) == ([[0, 0]], 4)

    longer = spaces.Dict({"a clock": spaces.Box(0, 1, (1,)), **Cellar.observation_space.spaces})
    timed = TransformObservation(Cellar(), lambda observed: {"a clock": np.zeros(1), **observed}, longer)
    found = find_maze(FlattenObservation(timed))
    assert (found.position, found.goal) == (slice(1, 3), slice(3, 5))
    assert find_maze(FlattenObservation(FilterObservation(Cellar(), ["desired_goal"]))) is None


def test_every_candidate_is_drawn_the_chosen_one_over_them_from_the_dot_to_the_star():
    maze = Maze(np.array([[0.0, 0.0], [2.0, 4.0]]), 1.0, slice(0, 2), slice(2, 4))
    paths = np.random.default_rng(0).uniform(size=(2, 3, 5, 2))
    goals = np.array([[1.0, 2.0], [3.0, 4.0]])
    figure = plot_paths(paths, goals, [2, 0], maze, "Plans", ["first", "second"])
    assert [axes.get_title() for axes in figure.axes] == ["first", "second"]
    for axes, candidates, goal, best in zip(figure.axes, paths, goals, (2, 0), strict=True):
        *lines, chosen, start, star = [line.get_xydata() for line in axes.lines]
        np.testing.assert_array_equal(lines, candidates)
        np.testing.assert_array_equal(chosen, candidates[best])
        assert (start.tolist(), star.tolist()) == ([candidates[best, 0].tolist()], [goal.tolist()])
        assert len(axes.patches) == 2
        assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 2.5), (-0.5, 4.5))


def test_panels_without_names_stand_three_in_a_row():
    maze = Maze(np.zeros((1, 2)), 1.0, slice(0, 2), slice(2, 4))
    figure = plot_paths(np.zeros((4, 1, 2, 2)), np.zeros((4, 2)), [0] * 4, maze, "Plans")
    assert len(figure.axes) == 6
    assert sum(len(axes.lines) > 0 for axes in figure.axes) == 4
