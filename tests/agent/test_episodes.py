"""Recordings: what was done, seen and planned at each step, and what other actions would have led to."""

import gymnasium
import numpy as np
import pytest
from fakes import HORIZON, Track, Walker, recorded

from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.episodes import record, replay
from vgp_lightning.agent.planning import PlanningAgent


def start(seed):
    return np.random.default_rng(seed).uniform(0, 1)


def test_a_recording_holds_all_that_was_seen_done_and_paid(track):
    (recording,) = recorded([7])
    assert (recording.seed, recording.length, recording.terminated) == (7, 6, False)
    np.testing.assert_allclose(recording.observations[:, 0], start(7) + 0.3 * np.arange(7), rtol=1e-6)
    assert recording.observations[:, 1].tolist() == [5] * 7
    np.testing.assert_allclose(recording.actions, np.full((6, 1), 0.3))
    np.testing.assert_allclose(recording.rewards, np.full(6, 0.3))


def test_an_episode_that_ends_by_itself_is_told_from_one_that_is_cut(track):
    (recording,) = recorded([7], step=1.0)
    assert (recording.length, recording.terminated) == (int(np.ceil(3 - start(7))), True)


def test_plans_stand_at_the_steps_at_which_they_were_made(track):
    (recording,) = recorded([7], step=None, replan_every=2)
    assert recording.plan_steps.tolist() == [0, 2, 4]
    assert recording.plans.shape == (3, HORIZON, 3)
    np.testing.assert_allclose(recording.plans[:, 0, 0], [0.1, 0.2, 0.3], rtol=1e-6)  # the first, second, third call
    np.testing.assert_allclose(recording.plans[:, 0, 1:], recording.observations[[0, 2, 4]], rtol=1e-6)
    np.testing.assert_allclose(recording.values, 10 * recording.observations[[0, 2, 4], 0], rtol=1e-6)


@pytest.mark.parametrize("count", [2, 5])
def test_a_recording_is_the_same_in_any_company(track, count):
    alone = [recorded([seed])[0] for seed in (3, 0, 8)]
    for one, other in zip(alone, recorded([3, 0, 8], count), strict=True):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(getattr(other, name), value, err_msg=name)


def test_nobody_watches_the_agent_afterwards(track):
    environments = make_environments("Track-v0", 1)
    agent = PlanningAgent(Walker(0.4))
    record(agent, environments, [0])
    environments.close()
    assert agent.on_plan is None


@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_replay_goes_the_recorded_way_and_then_its_own(track, step):
    (recording,) = recorded([7])
    environment = make_environments("Track-v0", 1)
    again = replay(environment, recording, step, recording.actions[step:])
    np.testing.assert_array_equal(again, recording.observations[step:])
    other = replay(environment, recording, step, np.full((3, 1), -0.25))
    environment.close()
    left = min(3, 6 - step)  # the time limit ends it
    np.testing.assert_allclose(other[:, 0], recording.observations[step, 0] - 0.25 * np.arange(left + 1))


def test_a_replay_of_an_environment_with_chance_of_its_own_is_none(track, monkeypatch):
    monkeypatch.setattr(track, "slip", np.random.default_rng(0))
    (recording,) = recorded([7])
    environment = make_environments("Track-v0", 1)
    assert replay(environment, recording, 0, recording.actions[:1]) is not None  # the start itself is the seed's
    assert replay(environment, recording, 2, recording.actions[:1]) is None
    environment.close()


def test_a_replay_must_have_come_to_where_the_other_actions_begin(track):
    (recording,) = recorded([7])
    recording.observations[2] += 1
    environment = make_environments("Track-v0", 1)
    assert replay(environment, recording, 1, recording.actions[:3]) is not None
    assert replay(environment, recording, 2, recording.actions[:3]) is None
    environment.close()


def test_a_replay_that_ends_before_its_step_is_none(track, monkeypatch):
    (recording,) = recorded([7])
    gymnasium.register("Short-v0", entry_point=Track, max_episode_steps=2)
    environment = make_environments("Short-v0", 1)
    assert replay(environment, recording, 3, recording.actions[:1]) is None
    environment.close()
    del gymnasium.registry["Short-v0"]
