"""Scenes: marks appear where the simulator itself draws what stands there, and the camera is as it was afterwards."""

import mujoco
import numpy as np
import pytest

from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.mazes import find_maze, look_down
from vgp_lightning.report.film import draw_frame

pytest.importorskip("gymnasium_robotics")


@pytest.fixture(scope="module")
def room(request):
    environments = make_environments(getattr(request, "param", "PointMaze_Medium-v3"), 1, render_mode="rgb_array")
    observations, _ = environments.reset(seed=1)
    yield environments.envs[0], observations[0]
    environments.close()


def look(room, points):
    """Return a picture from above, in which positions are marked."""
    environment, observation = room
    maze = find_maze(environment)
    plan = np.repeat(observation[None], len(points), axis=0)
    plan[:, maze.position] = np.reshape(points, (-1, 2))
    frame, error = draw_frame(environment, 480, look_down(maze, plan))
    assert error is None
    return frame.astype(int)


def centre(differs):
    """Return (x, y) of the middle of the pixels."""
    assert differs.sum() > 10
    return np.argwhere(differs).mean(axis=0)[::-1]


def free_places(environment):
    """Return the middles of the first and the last free cell, from the maze's own map."""
    maze = environment.unwrapped.maze
    cells = np.argwhere(np.array([[cell != 1 for cell in row] for row in maze.maze_map]))
    return [maze.cell_rowcol_to_xy(cell) for cell in cells[[0, -1]]]


def move_goal(environment, place):
    """Move what the simulator draws at the goal."""
    inmost = environment.unwrapped
    inmost.goal = np.array(place)
    inmost.update_target_site_pos()
    mujoco.mj_forward(inmost.model, inmost.data)


MAZES = ["PointMaze_Medium-v3", pytest.param("AntMaze_UMaze-v5", marks=pytest.mark.slow)]


@pytest.mark.parametrize("room", MAZES, indirect=True)
def test_a_mark_appears_where_the_simulator_draws_the_goal_at_that_place(room):
    away = [50.0, 50.0]  # out of sight
    move_goal(room[0], away)
    empty = look(room, [])
    for place in free_places(room[0]):
        marked = centre((look(room, [place]) != empty).any(axis=2))
        move_goal(room[0], place)
        ball = centre((look(room, []) != empty).any(axis=2))
        move_goal(room[0], away)
        np.testing.assert_allclose(marked, ball, atol=2.5)  # pixels of 480; a mark is 9 of them wide


def test_the_picture_holds_the_whole_maze_with_x_to_the_right_and_y_upwards(room):
    empty = look(room, [])
    (left, bottom), (right, top) = (np.array(corner) for corner in find_maze(room[0]).corners)
    marked = [centre((look(room, [corner]) != empty).any(axis=2)) for corner in ((left, bottom), (right, top))]
    assert (marked[0] < 480).all()
    assert (marked[1] > 0).all()
    assert marked[0][0] < marked[1][0]
    assert marked[0][1] > marked[1][1]
    # The longer side fills the picture but for its margin.
    assert 450 < np.abs(marked[1] - marked[0]).max() < 480


def test_a_long_plan_is_marked_from_its_beginning_to_its_end_and_leaves_no_trace_in_the_next_picture(room):
    empty, places = look(room, []), free_places(room[0])
    path = np.linspace(places[0], places[-1], 3000)  # more than a scene of gymnasium has shapes
    long = (look(room, path) != empty).any(axis=2)
    for end in (0, -1):
        single = (look(room, path[[end]]) != empty).any(axis=2)
        assert (single & long).sum() > 0.9 * single.sum()
    np.testing.assert_array_equal(look(room, []), empty)


def test_after_a_picture_from_above_the_environments_own_camera_draws_as_before(room):
    environment = room[0]
    before, _ = draw_frame(environment, 480)
    look(room, [[0, 0]])
    after, _ = draw_frame(environment, 480)
    np.testing.assert_array_equal(after, before)
