"""Mazes: walls and positions as the simulator has them, and paths that are drawn where they run."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation, FlattenObservation, TransformObservation

from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.mazes import Maze, end_at_goal, find_maze, follow_plans


def test_a_point_maze_tells_its_walls_and_where_point_and_goal_are():
    pytest.importorskip("gymnasium_robotics")
    environments = make_environments("PointMaze_UMaze-v3", 1)
    observations, _ = environments.reset(seed=3)
    environment = environments.envs[0].unwrapped
    maze = find_maze(environments.envs[0])
    np.testing.assert_array_equal(observations[0, maze.position], environment.point_env.data.qpos)
    np.testing.assert_array_equal(observations[0, maze.goal], environment.goal)
    positions, velocities = maze.state
    observations, *_ = environments.step(np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(observations[0, list(positions)], environment.point_env.data.qpos)
    np.testing.assert_array_equal(observations[0, list(velocities)], environment.point_env.data.qvel)
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
    maze = SimpleNamespace(
        maze_map=[[1, 0]], maze_size_scaling=4.0, maze_height=0.5, cell_rowcol_to_xy=lambda cell: 4.0 * cell
    )


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


def test_a_point_whose_position_and_velocity_a_wrapper_hides_is_in_a_maze_but_cannot_be_led():
    pytest.importorskip("gymnasium_robotics")
    environments = make_environments("PointMaze_UMaze-v3", 1)
    point = environments.envs[0].unwrapped
    maze = find_maze(FlattenObservation(FilterObservation(point, ["achieved_goal", "desired_goal"])))
    environments.close()
    assert (maze.position, maze.goal, maze.state) == (slice(0, 2), slice(2, 4), None)


def test_only_a_point_can_be_led_along_the_states_of_a_plan():
    with pytest.raises(ValueError, match="follow_states is for mazes with a point in them"):
        follow_plans(find_maze(FlattenObservation(Cellar())))


def test_plans_that_are_to_reach_the_goal_end_there_and_are_free_elsewhere():
    reach = end_at_goal(Maze(np.zeros((1, 2)), 1.0, slice(0, 2), slice(2, 4)))
    ((step, last),) = reach(np.array([[1.0, 2, 3, 4, 5]])).items()
    assert step == -1
    np.testing.assert_array_equal(last, [[3, 4, np.nan, np.nan, np.nan]])


def test_where_a_point_is_observed_twice_both_end_at_the_goal_and_it_rests():
    reach = end_at_goal(Maze(np.zeros((1, 2)), 1.0, slice(0, 2), slice(2, 4), ((4, 5), (6, 7))))
    ((_, last),) = reach(np.array([[1.0, 2, 3, 4, 1, 2, 0, 0]])).items()
    np.testing.assert_array_equal(last, [[3, 4, np.nan, np.nan, 3, 4, 0, 0]])
