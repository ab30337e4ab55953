"""A session: the episode of evaluate, step by step, and what changes on the way do to it and what not."""

from types import SimpleNamespace

import numpy as np
import pytest
from fakes import Track, write_tiny

from vgp_lightning.agent.deployment import Deployment, first_of
from vgp_lightning.agent.mazes import end_at_goal, find_maze
from vgp_lightning.agent.playing import Keeping, play
from vgp_lightning.play.session import FRAME_WIDTH, Session

pytestmark = pytest.mark.usefixtures("track")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A planner for a track, where an episode takes 12 steps at most."""
    folder = write_tiny(tmp_path_factory.mktemp("tiny") / "planner", replan_every=2, batch_size=3)
    return Deployment(str(folder), "Track-v0")


@pytest.fixture
def session(deployed):
    session = Session(deployed, seed=4, max_episode_steps=12)
    yield session
    session.close()


def play_on(session, steps=100):
    for _ in range(steps):
        if session.ended is None:
            session.step()


def evaluated(deployed, seed, **settings):
    """Return the episode that evaluate plays."""
    with deployed.environments(1, max_episode_steps=12) as environments:
        (episode,) = play(deployed.agent(**settings), environments, [seed], keeping=Keeping(plans=True)).episodes
    return episode


@pytest.mark.parametrize("settings", [{}, {"warm_start_strength": 0.5, "replan_every": 1}])
def test_an_episode_without_a_change_is_that_of_evaluate_to_the_last_bit(deployed, settings):
    episode = evaluated(deployed, 4, **settings)
    session = Session(deployed, 4, 12, **settings)
    play_on(session)
    assert session.ended == "the time limit has truncated it"
    np.testing.assert_array_equal(session.observations(), episode.observations)
    np.testing.assert_array_equal(session.log.actions, episode.actions)
    np.testing.assert_array_equal(session.log.rewards, episode.rewards)
    assert session.log.total_reward == episode.total_reward
    assert [planned.step for planned in session.plans] == episode.plan_steps.tolist()
    np.testing.assert_array_equal([planned.plan for planned in session.plans], episode.plans)
    np.testing.assert_array_equal([planned.value for planned in session.plans], episode.values)
    session.close()


def test_the_plan_for_an_observation_is_there_before_the_step(session, deployed):
    agent = deployed.agent()
    agent.reset([4])
    action = agent.act(session.observation[None])
    (planned,) = session.plans
    assert (planned.step, session.log.rewards) == (0, [])
    assert planned.candidates.shape == (3, 8, 3)
    assert planned.values.tolist() == sorted(planned.values, reverse=True)
    np.testing.assert_array_equal(planned.candidates[0], planned.plan)
    assert planned.milliseconds > 0
    session.step()
    np.testing.assert_array_equal(session.log.actions, action)


def test_a_change_of_settings_plans_anew_for_the_present_observation_with_the_same_noise(session, deployed):
    play_on(session, 3)
    seen, steps = session.observation, len(session.log.rewards)
    session.change(scale=50.0, batch_size=5)
    assert (session.resolved["scale"], session.resolved["batch_size"]) == (50.0, 5)
    agent = deployed.agent(scale=50.0, batch_size=5)
    agent.reset([4])
    action = agent.act(seen[None])
    assert len(session.log.rewards) == steps  # nothing was executed
    assert session.plans[-1].step == steps
    assert len(session.plans[-1].candidates) == 5
    assert all(len(planned.candidates) == 0 for planned in session.plans[:-1])
    session.step()
    np.testing.assert_array_equal(session.log.actions[-1], action[0])


def test_settings_hold_over_a_reset_and_the_same_ones_again_change_nothing(session, deployed):
    session.change(temperature=0.5)
    plans = list(session.plans)
    session.change(temperature=0.5, batch_size=3)
    assert session.plans == plans
    session.reset(9)
    play_on(session)
    np.testing.assert_array_equal(session.observations(), evaluated(deployed, 9, temperature=0.5).observations)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0: a whole number between 1"),
        ({"temperature": -1.0}, "temperature is -1.0: a finite number between 0"),
        ({"num_inference_steps": 11}, "num_inference_steps is 11: a whole number between 1 and 10"),
        ({"replan_every": 9}, "replan_every is 9: a whole number between 0 and 8"),
    ],
)
def test_a_setting_out_of_range_is_refused_as_elsewhere_and_changes_nothing(session, change, words):
    before, plans = dict(session.resolved), list(session.plans)
    with pytest.raises(ValueError, match=words):
        session.change(**change)
    assert (session.resolved, session.plans) == (before, plans)
    session.step()


def test_a_wrong_seed_is_refused_and_the_episode_goes_on(session):
    session.step()
    with pytest.raises(ValueError, match="seed is -1"):
        session.reset(-1)
    session.step()
    assert (session.seed, len(session.log.rewards)) == (4, 2)


def test_an_episode_that_has_ended_takes_no_step_and_may_be_replaced_by_another(session):
    play_on(session)
    with pytest.raises(ValueError, match=r"has truncated it.*reset begins a new one"):
        session.step()
    session.change(batch_size=2)  # plans for nothing
    assert session.plans[-1].step < len(session.log.rewards)
    session.reset(5)
    assert (session.ended, session.seed, len(session.plans)) == (None, 5, 1)


def test_a_reward_that_is_no_number_ends_the_episode_with_a_message(session, monkeypatch):
    session.step()
    monkeypatch.setattr(Track, "step", lambda self, action: (self.place.copy(), float("nan"), False, False, {}))
    with pytest.raises(ValueError, match="seed 4, step 1: the environment's reward is nan"):
        session.step()
    assert session.ended == "the environment's reward is nan"


def test_the_environment_is_drawn_or_it_is_said_why_not(session, monkeypatch):
    frame, error = session.draw_frame()
    assert (frame.shape, error) == ((20, 30, 3), None)
    monkeypatch.setattr(Track, "render", lambda self: np.zeros((700, 700, 3), np.uint8))
    assert session.draw_frame()[0].shape == (FRAME_WIDTH, FRAME_WIDTH, 3)

    def fail(self):
        raise RuntimeError("no screen")

    monkeypatch.setattr(Track, "render", fail)
    frame, error = session.draw_frame()
    assert frame is None
    assert "no screen" in error
    session.step()  # the episode goes on without a picture
    monkeypatch.setattr(session.environment.unwrapped, "render_mode", None)
    assert "rgb_array is needed" in session.draw_frame()[1]


def test_without_a_value_function_there_are_plans_without_values(tmp_path):
    session = Session(Deployment(str(write_tiny(tmp_path / "planner", guided=False)), "Track-v0"), 0, 5)
    assert np.isnan(session.plans[-1].value)
    assert session.plans[-1].candidates.shape == (2, 8, 3)
    session.close()


def test_a_goal_is_for_mazes(session):
    with pytest.raises(ValueError, match="a goal is for mazes"):
        session.aim(0, 0)
    with pytest.raises(ValueError, match="follow_states is for mazes"):
        session.steer(False, True)
    assert not session.follow_states


# ---------------------------------------------------------------- mazes


@pytest.fixture(scope="module")
def in_maze(tmp_path_factory):
    pytest.importorskip("gymnasium_robotics")
    folder = write_tiny(tmp_path_factory.mktemp("maze") / "planner", guided=False, dimensions=(2, 8))
    return Deployment(str(folder), "PointMaze_UMaze-v3")


@pytest.fixture
def walk(in_maze):
    session = Session(in_maze, 7)
    yield session
    session.close()


def ends(session):
    """Return where the candidates end."""
    return session.plans[-1].candidates[:, -1, 2:][:, session.maze.position]


def test_in_a_maze_plans_end_at_the_goal_as_with_reach_goal_until_that_is_switched_off(walk, in_maze):
    with in_maze.environments(1, max_episode_steps=5) as environments:
        conditions = end_at_goal(find_maze(first_of(environments)))
        (episode,) = play(in_maze.agent(conditions), environments, [7], keeping=Keeping(plans=True)).episodes
    play_on(walk, 5)
    np.testing.assert_array_equal(walk.observations(), episode.observations[:6])
    assert (ends(walk) == walk.observation[walk.maze.goal].astype(np.float32)).all()
    walk.steer(False, False)
    assert not (ends(walk) == walk.observation[walk.maze.goal].astype(np.float32)).all()


def test_a_goal_that_is_moved_is_that_of_the_plans_the_observations_and_the_reward(walk):
    walk.step()
    position = walk.observation[walk.maze.position].copy()
    walk.aim(*position)
    assert walk.goal_moved
    np.testing.assert_array_equal(walk.observation[walk.maze.goal], position)
    assert (ends(walk) == position.astype(np.float32)).all()
    walk.step()
    np.testing.assert_array_equal(walk.observation[walk.maze.goal], position)
    assert walk.log.rewards == [0, 1]
    assert walk.log.first_success == 2
    walk.reset(7)
    assert not walk.goal_moved
    assert not (walk.observation[walk.maze.goal] == position).all()


@pytest.mark.parametrize("place", [(0.0, 0.0), (9.0, 0.0), (-2.4, 2.4), (float("nan"), 0.0)])
def test_a_goal_in_a_wall_or_outside_is_refused(walk, place):
    with pytest.raises(ValueError, match="is in a wall"):
        walk.aim(*place)
    assert not walk.goal_moved
    walk.step()


def test_a_controller_may_follow_the_states_of_the_plans(walk):
    walk.steer(True, True)
    walk.step()
    (x, y), (along_x, along_y) = walk.maze.state
    planned, seen = walk.plans[-2].plan[1, 2:], walk.observations()[0]
    pushed = 10 * (planned[[x, y]] - seen[[x, y]]) + (planned[[along_x, along_y]] - seen[[along_x, along_y]])
    assert np.sign(walk.log.actions[0]).tolist() == np.sign(pushed).tolist()


def test_the_picture_shows_a_goal_where_it_was_moved_to_before_the_next_step(walk):
    walk.steer(False, False)
    centres = []
    for place in ((-1.0, 1.0), (1.0, -1.0)):
        walk.aim(*place)
        frame, _ = walk.draw_frame()
        red = (frame[..., 0] > 150) & (frame[..., 1] < 60)
        centres.append(np.argwhere(red).mean(axis=0))
    # From above, 5 cells in 480 pixels: two cells to the right and two down.
    np.testing.assert_allclose(centres[1] - centres[0], [184, 184], atol=8)


def test_the_goal_of_a_maze_of_another_kind_stays(walk, monkeypatch):
    monkeypatch.setattr(walk.__class__, "environment", SimpleNamespace(unwrapped=object()))
    with pytest.raises(ValueError, match="cannot be moved"):
        walk.aim(-1.0, 1.0)


def test_what_failed_to_open_is_closed(deployed, monkeypatch):
    closed = []
    monkeypatch.setattr(Track, "close", lambda self: closed.append(self))
    with pytest.raises(ValueError, match="temperature"):
        Session(deployed, 0, 5, temperature=-1.0)
    assert closed
