"""Episodes: returns and lengths by hand, and what was done, observed and planned at each step."""

import re

import gymnasium
import numpy as np
import pytest
from fakes import HORIZON, Walker, recorded
from gymnasium import spaces

from vgp_lightning.agent.environments import close, make_environments
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.agent.playing import Keeping, list_items, play
from vgp_lightning.agent.store import EpisodeStore


class Ledger(gymnasium.Env):
    """Pays t + 1 at step t and ends after 3 + seed % 4 steps; odd seeds succeed at step 1. Unseeded it pays 1000."""

    observation_space = spaces.Box(-1e6, 1e6, (1,))
    action_space = spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.seed, self.length = 0, seed, 3 + (seed or 0) % 4
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        paid = 1000.0 if self.seed is None else float(self.t)
        info = {"success": self.seed is None or (self.seed % 2 == 1 and self.t == 2)}
        return np.full(1, self.t, np.float32), paid, self.t == self.length, False, info


class Idler:
    """Does nothing, and notes the seeds of its episodes."""

    def __init__(self):
        self.seeds = []

    def reset(self, seeds):
        self.seeds += [seed for seed in seeds if seed is not None]

    def act(self, observations, active):
        return np.zeros((len(active), 2), np.float32)


@pytest.fixture
def play_ledger():
    """Play in environments that are cut after 5 steps."""
    gymnasium.register("Ledger-v0", entry_point=Ledger, max_episode_steps=5)

    def play_them(seeds, count, agent=None, **options):
        environments = make_environments("Ledger-v0", count)
        played = play(agent or Idler(), environments, seeds, **options)
        environments.close()
        return played

    yield play_them
    del gymnasium.registry["Ledger-v0"]


# ---------------------------------------------------------------- what was played


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_returns_lengths_ends_and_successes_are_those_worked_out_by_hand(play_ledger, count):
    episodes = play_ledger([3, 0, 1, 2, 4], count).episodes
    # Seed 3 would take 6 steps and is cut at 5; the last step's reward is in each sum.
    assert [(e.seed, e.total_reward, e.length, e.terminated, e.truncated, e.success) for e in episodes] == [
        (3, 15.0, 5, False, True, True),
        (0, 6.0, 3, True, False, False),
        (1, 10.0, 4, True, False, True),
        (2, 15.0, 5, True, True, False),  # at the time limit, which gymnasium reports as well
        (4, 6.0, 3, True, False, False),
    ]
    for episode in episodes:
        assert episode.observations.ravel().tolist() == list(range(episode.length + 1))
        assert episode.actions.shape == (episode.length, 2)
        assert len(episode.plans) == 0


@pytest.mark.parametrize("count", [1, 3])
def test_the_agent_may_have_other_seeds_than_the_environment(play_ledger, count):
    agent = Idler()
    episodes = play_ledger([1, 0, 2], count, agent, agent_seeds=[7, 8, 9]).episodes
    assert agent.seeds == [7, 8, 9]
    assert [(e.seed, e.agent_seed, e.length) for e in episodes] == [(1, 7, 4), (0, 8, 3), (2, 9, 5)]


@pytest.mark.parametrize(("replan_every", "planning"), [(1, 6), (2, 4), (3, 2), (0, 2)])
def test_a_call_plans_if_any_episode_is_at_a_step_at_which_the_agent_plans(play_ledger, replan_every, planning):
    # Of 3, 4 and 3 steps; the third begins where the first has ended. Ages: 0 0, 1 1, 2 2, 0 3, 1, 2.
    times = play_ledger([0, 1, 4], 2, keeping=Keeping(replan_every=replan_every)).times
    assert (times.calls, times.planning_calls) == (6, planning)
    assert 0 < times.planning_seconds <= times.seconds


def test_nothing_is_printed_where_there_is_no_terminal(play_ledger, capfd):
    play_ledger([0], 1)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------- with plans


def start(seed):
    return np.random.default_rng(seed).uniform(0, 1)


def test_an_episode_holds_all_observations_actions_and_rewards(track):
    (episode,) = recorded([7])
    assert (episode.seed, episode.length, episode.terminated) == (7, 6, False)
    np.testing.assert_allclose(episode.observations[:, 0], start(7) + 0.3 * np.arange(7), rtol=1e-6)
    assert episode.observations[:, 1].tolist() == [5] * 7
    np.testing.assert_allclose(episode.actions, np.full((6, 1), 0.3))
    np.testing.assert_allclose(episode.rewards, np.full(6, 0.3))


def test_an_episode_that_ends_by_itself_is_told_from_one_that_is_cut(track):
    (episode,) = recorded([7], step=1.0)
    assert (episode.length, episode.terminated) == (int(np.ceil(3 - start(7))), True)


def test_plans_stand_at_the_steps_at_which_they_were_made(track):
    (episode,) = recorded([7], step=None, replan_every=2)
    assert episode.plan_steps.tolist() == [0, 2, 4]
    assert episode.plans.shape == (3, HORIZON, 3)
    np.testing.assert_allclose(episode.plans[:, 0, 0], [0.1, 0.2, 0.3], rtol=1e-6)  # the first, second, third call
    np.testing.assert_allclose(episode.plans[:, 0, 1:], episode.observations[[0, 2, 4]], rtol=1e-6)
    np.testing.assert_allclose(episode.values, 10 * episode.observations[[0, 2, 4], 0], rtol=1e-6)


@pytest.mark.parametrize("count", [2, 5])
def test_an_episode_is_the_same_whichever_others_are_played_with_it(track, count):
    alone = [recorded([seed])[0] for seed in (3, 0, 8)]
    for one, other in zip(alone, recorded([3, 0, 8], count), strict=True):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(getattr(other, name), value, err_msg=name)


def test_nobody_watches_the_agent_afterwards(track):
    environments = make_environments("Track-v0", 1)
    agent = PlanningAgent(Walker(0.4))
    play(agent, environments, [0], keeping=Keeping(plans=True))
    environments.close()
    assert agent.on_plan is None


def test_plans_are_kept_on_demand_only(track):
    environments = make_environments("Track-v0", 1)
    (episode,) = play(PlanningAgent(Walker(0.4)), environments, [0]).episodes
    environments.close()
    assert (episode.plans.shape, episode.values.shape) == ((0, 0, 0), (0,))


# ---------------------------------------------------------------- what goes wrong


class Faulty(Ledger):
    """Goes wrong at step 2 of seed 1."""

    fault = None

    def step(self, action):
        observation, paid, *ends, info = super().step(action)
        if self.seed == 1 and self.t == 2:
            observation, paid, info = self.fault(observation, paid, info)
        return observation, paid, *ends, info


@pytest.fixture
def play_faulty(monkeypatch):
    def play_them(fault, count=3, seeds=(0, 1, 2, 4), **options):
        monkeypatch.setattr(Faulty, "fault", staticmethod(fault))
        gymnasium.register("Faulty-v0", entry_point=Faulty, disable_env_checker=True)
        environments = make_environments("Faulty-v0", count)
        try:
            return play(options.pop("agent", None) or Idler(), environments, seeds, **options)
        finally:
            environments.close()
            del gymnasium.registry["Faulty-v0"]

    return play_them


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda observation, paid, info: (observation, np.nan, info), "reward is nan"),
        (lambda observation, paid, info: (observation, -np.inf, info), "reward is -inf"),
        (lambda observation, paid, info: (observation * np.nan, paid, info), r"observation is not finite: \[nan\]"),
    ],
)
def test_an_episode_that_goes_wrong_is_named_and_the_others_are_played(play_faulty, fault, reason, count):
    played = play_faulty(fault, count)
    assert [(one.seed, one.total_reward) for one in played.results] == [(0, 6.0), (2, 15.0), (4, 6.0)]
    (failure,) = played.failures
    assert (failure.seed, failure.agent_seed, failure.step) == (1, 1, 1)
    assert re.search(reason, failure.reason)
    assert [episode.seed for episode in played.episodes] == [0, 2, 4]


def test_a_huge_reward_is_no_failure(play_faulty):
    assert play_faulty(lambda observation, paid, info: (observation, 1e308, info), seeds=(1,)).failures == []


class Rich(Ledger):
    """Pays more at each step than two steps can sum to."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 1.7e308, *rest


def test_rewards_that_are_finite_but_whose_sum_is_not_are_a_failure():
    gymnasium.register("Rich-v0", entry_point=Rich, disable_env_checker=True)
    environments = make_environments("Rich-v0", 1)
    (failure,) = play(Idler(), environments, [0]).failures
    environments.close()
    del gymnasium.registry["Rich-v0"]
    assert (failure.step, failure.reason) == (1, "the sum of the environment's rewards is inf")


@pytest.mark.parametrize("count", [1, 3])
def test_where_the_agent_fails_in_one_episode_the_others_are_played_as_ever(play_faulty, count):
    class Picky(Idler):
        """Refuses all observations at once if one of them is 2 in an environment of seed 1."""

        def reset(self, seeds):
            self.of = {**getattr(self, "of", {}), **{i: seed for i, seed in enumerate(seeds) if seed is not None}}

        def act(self, observations, active):
            if any(active[i] and self.of[i] == 1 and observations[i, 0] == 2 for i in range(len(active))):
                raise ValueError("the plan is not finite")
            return super().act(observations, active)

    played = play_faulty(lambda *same: same, count, agent=Picky())
    assert [(one.seed, one.total_reward) for one in played.results] == [(0, 6.0), (2, 15.0), (4, 6.0)]
    assert [str(failure) for failure in played.failures] == ["seed 1, step 2: the plan is not finite"]


@pytest.mark.parametrize("success", [np.nan, "no", 2, np.zeros(2), [1], None, {"arm": True}])
def test_a_success_that_is_neither_true_nor_false_is_refused(play_faulty, success):
    with pytest.raises(ValueError, match=r"seed 1, step 1: the environment reports success as .*0 or 1, is needed"):
        play_faulty(lambda observation, paid, info: (observation, paid, {"success": success}), seeds=(1,), count=1)


@pytest.mark.parametrize("success", [True, np.True_, 1, 1.0, np.float32(1), np.int64(1)])
def test_a_success_may_be_a_number(play_faulty, success):
    played = play_faulty(lambda o, paid, info: (o, paid, {"success": success}), seeds=(1,), count=1)
    assert played.results[0].success is True


def test_an_environment_that_writes_into_its_action_changes_nothing_that_is_kept(play_faulty):
    class Eager(Ledger):
        def step(self, action):
            action[:] = 7
            return super().step(action)

    gymnasium.register("Eager-v0", entry_point=Eager, disable_env_checker=True)
    environments = make_environments("Eager-v0", 2)
    episodes = play(Idler(), environments, [0, 1]).episodes
    environments.close()
    del gymnasium.registry["Eager-v0"]
    assert all((episode.actions == 0).all() for episode in episodes)


def test_environments_that_cannot_be_closed_are_a_warning():
    class Stuck(Ledger):
        def close(self):
            raise RuntimeError("the device is busy")

    gymnasium.register("Stuck-v0", entry_point=Stuck, disable_env_checker=True)
    environments = make_environments("Stuck-v0", 1)
    with pytest.warns(UserWarning, match="cannot be closed: RuntimeError: the device is busy"):
        close(environments)
    del gymnasium.registry["Stuck-v0"]


# ---------------------------------------------------------------- several tables, one store


def test_two_tables_share_the_episodes_and_either_returns_all(play_ledger, tmp_path):
    seeds = [3, 0, 1, 2, 4]
    alone = play_ledger(seeds, 1)
    with EpisodeStore(tmp_path, {}) as first, EpisodeStore(tmp_path, {}) as second:
        first_claims = [first.claim(lambda: list_items(seeds)) for _ in range(2)]
        first.close()  # as if killed
        played = play_ledger(seeds, 2, store=second)
    assert first_claims == [(0, 3, 3), (0, 0, 0)]
    assert played.results == alone.results
    with EpisodeStore(tmp_path, {}) as third:
        again = play_ledger(seeds, 2, Forbidden(), store=third)
    assert again.results == alone.results
    assert again.times == played.times
    for one, other in zip(again.episodes, alone.episodes, strict=True):
        for name, value in vars(other).items():
            np.testing.assert_array_equal(getattr(one, name), value, err_msg=name)


class Forbidden(Idler):
    """Must not play."""

    def act(self, observations, active):
        pytest.fail("an episode was played again")
