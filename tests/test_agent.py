"""Playing: every seed once, every reward counted, plans followed and renewed."""

from itertools import pairwise
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from vgp_lightning.agent import PlanningAgent, make_environments, rollout

LIMIT = 5  # the time limit of Countdown


class Countdown(gymnasium.Env):
    """Pays t + 1 at step t and ends after 3 + seed % 4 steps; without a seed it pays 1000 a step."""

    reset_seeds: list = []  # noqa: RUF012 (of all environments together, in order)

    def __init__(self, noise=0.0, render_mode=None):
        self.noise = noise
        self.observation_space = spaces.Dict({"a": spaces.Box(-1e6, 1e6, (2,)), "b": spaces.Box(-1e6, 1e6, (1,))})
        self.action_space = spaces.Box(-1e6, 1e6, (2,))

    def observation(self):
        return {"a": np.float32([self.t, self.length]), "b": np.float32([self.np_random.normal()])}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.reset_seeds.append(seed)
        self.t, self.seeded = 0, seed is not None
        self.length = 3 + (seed or 0) % 4
        return self.observation(), {}

    def step(self, action):
        assert np.isfinite(action).all()
        self.t += 1
        reward = self.t + self.noise * (self.np_random.normal() + float(action[0])) if self.seeded else 1000.0
        return self.observation(), reward, self.t == self.length, False, {}


class NoisyAgent:
    """Acts by random numbers from the episode's seed, times the noise that it observes."""

    def __init__(self):
        self.resets = []

    def reset(self, seeds):
        self.resets.append(list(seeds))
        old = getattr(self, "generators", [None] * len(seeds))
        self.generators = [g if s is None else np.random.default_rng(s) for g, s in zip(old, seeds, strict=True)]

    def act(self, observations, active):
        actions = np.full((len(active), 2), 7.0, dtype=np.float32)
        for i in np.flatnonzero(active):
            actions[i] = self.generators[i].normal(size=2) * observations[i, 2]
        return actions


class FakePipeline:
    """Plans the actions (100 * call + step, random number of the observation's generator), for 4 steps."""

    device = torch.device("cpu")
    action_dim = 2

    def __init__(self):
        self.calls = []

    def resolve_settings(self, **settings):
        return {"planning_horizon": 4} | settings

    def __call__(self, observation, generator, **settings):
        self.calls.append((observation.copy(), settings))
        actions = torch.zeros(len(observation), 4, 2)
        actions[:, :, 0] = 100 * len(self.calls) + torch.arange(4)
        for row, one in zip(actions, generator, strict=True):
            row[:, 1] = torch.rand(4, generator=one)
        return SimpleNamespace(actions=actions)


@pytest.fixture(autouse=True)
def countdown():
    """Register the environment for one test, with a fresh record of its resets."""
    Countdown.reset_seeds.clear()
    gymnasium.register("Countdown-v0", entry_point=Countdown, max_episode_steps=LIMIT)
    yield
    del gymnasium.registry["Countdown-v0"]


def gather(seeds, count, **kwargs):
    """Return the steps and each seed's rewards."""
    environments = make_environments("Countdown-v0", count, **kwargs)
    steps = list(rollout(NoisyAgent(), environments, seeds))
    environments.close()
    rewards = [
        [step.rewards[i] for step in steps for i in np.flatnonzero(step.episode == e)] for e in range(len(seeds))
    ]
    return steps, rewards


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_every_reward_up_to_and_with_the_last_step_is_seen(count):
    steps, rewards = gather([0, 1, 2, 3, 4], count)
    # Lengths 3, 4, 5, 6 (cut to 5 by the time limit) and 3 again.
    assert rewards == [[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2, 3]]
    ends = {
        int(step.episode[i]): (bool(step.terminated[i]), bool(step.truncated[i]))
        for step in steps
        for i in np.flatnonzero((step.terminated | step.truncated) & (step.episode >= 0))
    }
    assert ends == {0: (True, False), 1: (True, False), 2: (True, True), 3: (False, True), 4: (True, False)}


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_seed_is_used_exactly_once(count):
    gather([11, 5, 8, 2, 3], count)
    assert sorted(seed for seed in Countdown.reset_seeds if seed is not None) == [2, 3, 5, 8, 11]


def test_the_seeds_are_handed_out_in_their_order():
    gather([11, 5, 8, 2, 3], 2)
    assert [seed for seed in Countdown.reset_seeds if seed is not None] == [11, 5, 8, 2, 3]


def test_an_idle_environment_is_marked_and_never_ends_the_play():
    steps, rewards = gather([2], 3)
    assert len(steps) == 5
    assert all((step.episode == [0, -1, -1]).all() for step in steps)
    assert rewards == [[1, 2, 3, 4, 5]]


def test_an_episode_is_the_same_in_any_company():
    seeds = list(range(7))
    _, alone = gather(seeds, 1, noise=1.0)
    for count in (2, 3, 10):
        _, together = gather(seeds, count, noise=1.0)
        assert together == alone
    assert len({rewards[0] for rewards in alone}) == 7  # and the seeds do make a difference


def test_observations_follow_on_from_one_another_and_include_the_final_one():
    steps, _ = gather([0, 1], 1)
    first = [step for step in steps if step.episode[0] == 0]
    assert [float(step.observations[0, 0]) for step in first] == [0, 1, 2]
    assert [float(step.next_observations[0, 0]) for step in first] == [1, 2, 3]
    for before, after in pairwise(first):
        np.testing.assert_array_equal(before.next_observations, after.observations)


def test_the_agent_is_reset_where_an_episode_begins_and_nowhere_else():
    environments, agent = make_environments("Countdown-v0", 2), NoisyAgent()
    list(rollout(agent, environments, [0, 1, 2]))
    # Seed 0 ends after 3 steps, seed 1 after 4 and leaves its environment idle, which ends without a seed again.
    assert agent.resets[:3] == [[0, 1], [2, None], [None, None]]
    assert all(seed is None for seeds in agent.resets[3:] for seed in seeds)
    environments.close()


def test_no_seeds_are_no_steps():
    environments = make_environments("Countdown-v0", 2)
    assert list(rollout(NoisyAgent(), environments, [])) == []
    environments.close()


def test_observations_are_flattened_in_the_order_of_their_space():
    environments = make_environments("Countdown-v0", 2)
    assert environments.single_observation_space.shape == (3,)
    observations, _ = environments.reset(seed=[2, 3])
    np.testing.assert_array_equal(observations[:, :2], [[0, 5], [0, 6]])
    environments.close()


def test_an_unknown_environment_is_named_with_a_remedy():
    with pytest.raises(ValueError, match=r"'Nowhere-v0' cannot be made.*package:Id"):
        make_environments("Nowhere-v0", 1)
    with pytest.raises(ValueError, match=r"'no_such_package:Thing-v0' cannot be made"):
        make_environments("no_such_package:Thing-v0", 1)


def test_discrete_actions_and_no_environments_are_refused():
    with pytest.raises(ValueError, match="only Box is supported"):
        make_environments("CartPole-v1", 1)
    with pytest.raises(ValueError, match="0 environments"):
        make_environments("Countdown-v0", 0)


# ---------------------------------------------------------------- PlanningAgent


def test_a_plan_is_followed_for_as_many_steps_as_asked_and_then_renewed():
    agent = PlanningAgent(FakePipeline(), replan_every=3, scale=0.5)
    agent.reset([0])
    actions = [float(agent.act(np.full((1, 3), t), np.array([True]))[0, 0]) for t in range(7)]
    assert actions == [100, 101, 102, 200, 201, 202, 300]
    # Each plan was made from the observation of its first step, with the settings given.
    assert [float(observation[0, 0]) for observation, _ in agent.pipeline.calls] == [0, 3, 6]
    assert all(settings == {"scale": 0.5} for _, settings in agent.pipeline.calls)


def test_a_whole_plan_can_be_followed_but_not_more():
    agent = PlanningAgent(FakePipeline(), replan_every=4)
    agent.reset([0])
    actions = [float(agent.act(np.zeros((1, 3)), np.array([True]))[0, 0]) for _ in range(5)]
    assert actions == [100, 101, 102, 103, 200]
    for replan_every in (0, 5):
        with pytest.raises(ValueError, match=f"replan_every is {replan_every}.*between 1 and the plan's 4"):
            PlanningAgent(FakePipeline(), replan_every=replan_every)


def test_the_reset_of_one_environment_leaves_the_plans_of_the_others_alone():
    agent, both = PlanningAgent(FakePipeline(), replan_every=3), np.array([True, True])
    agent.reset([0, 1])
    agent.act(np.zeros((2, 3)), both)
    agent.reset([None, 7])
    np.testing.assert_array_equal(agent.act(np.array([[1.0] * 3, [2.0] * 3]), both)[:, 0], [101, 200])
    np.testing.assert_array_equal(agent.pipeline.calls[1][0], [[2.0] * 3])  # planned for the second alone
    np.testing.assert_array_equal(agent.act(np.zeros((2, 3)), both)[:, 0], [102, 201])
    np.testing.assert_array_equal(agent.act(np.zeros((2, 3)), both)[:, 0], [300, 202])


def test_nothing_is_planned_for_an_environment_that_is_not_active():
    agent = PlanningAgent(FakePipeline())
    agent.reset([0, None, 2])
    for _ in range(6):
        actions = agent.act(np.arange(9.0).reshape(3, 3), np.array([True, False, True]))
        assert actions.shape == (3, 2)
        assert np.isfinite(actions).all()
    assert all((observation[:, 0] == [0, 6]).all() for observation, _ in agent.pipeline.calls)


def test_the_random_numbers_of_an_episode_come_from_its_seed_alone():
    def numbers(seeds, row):
        agent = PlanningAgent(FakePipeline())
        agent.reset(seeds)
        return [float(agent.act(np.zeros((len(seeds), 3)), np.ones(len(seeds), bool))[row, 1]) for _ in range(3)]

    alone = numbers([5], 0)
    assert numbers([3, 5, 4], 1) == alone
    assert numbers([6], 0) != alone


def test_a_planner_plays_an_episode_the_same_in_any_company():
    def first_actions(count):
        environments = make_environments("Countdown-v0", count)
        steps = list(rollout(PlanningAgent(FakePipeline(), replan_every=2), environments, range(5)))
        environments.close()
        return [[float(s.actions[i, 1]) for s in steps for i in np.flatnonzero(s.episode == e)] for e in range(5)]

    assert first_actions(1) == first_actions(2) == first_actions(6)
