"""Recordings: what was done, seen and planned at each step, and what other actions would have led to."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from vgp_lightning.agent import PlanningAgent, make_environments
from vgp_lightning.recordings import record, replay

HORIZON = 4


class Track(gymnasium.Env):
    """A point at (x, y): the action is added to x, and paid; y stays. Ends where x passes 3; the seed draws x."""

    observation_space = spaces.Box(-1e6, 1e6, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012
    slip = None  # a generator of chance that no seed decides

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.array([self.np_random.uniform(0, 1), 5.0])
        return self.place.copy(), {}

    def step(self, action):
        self.place[0] += action[0] + (self.slip.normal() if self.slip is not None else 0)
        return self.place.copy(), float(action[0]), bool(self.place[0] > 3), False, {}

    def render(self):
        return np.full((20, 30, 3), 100, np.uint8)


@pytest.fixture
def track():
    """Register the environment, of at most 6 steps."""
    gymnasium.register("Track-v0", entry_point=Track, max_episode_steps=6)
    yield Track
    del gymnasium.registry["Track-v0"]


class Walker:
    """Plans to walk ahead by a step of its call's number / 10, and knows where that leads."""

    device, action_dim, observation_dim = torch.device("cpu"), 1, 2

    def __init__(self, step=None):
        self.step, self.calls = step, 0

    def resolve_settings(self, replan_every=None, **settings):
        return {"planning_horizon": HORIZON, "warm_start_strength": 1.0, "replan_every": replan_every or 1}

    def __call__(self, observation, generator, conditions, warm_start):
        self.calls += 1
        step = self.calls / 10 if self.step is None else self.step
        there = torch.as_tensor(observation)[:, None].repeat(1, HORIZON, 1)
        there[:, :, 0] += step * torch.arange(HORIZON)
        actions = torch.full((len(observation), HORIZON, 1), step)
        return SimpleNamespace(actions=actions, observations=there, values=10 * there[:, 0, 0])


def recorded(seeds, count=1, step=0.3, replan_every=1):
    environments = make_environments("Track-v0", count)
    recordings = record(PlanningAgent(Walker(step), replan_every), environments, seeds)
    environments.close()
    return recordings


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
