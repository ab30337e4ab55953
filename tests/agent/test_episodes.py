"""Episodes: returns and lengths by hand, and what was done, observed and planned at each step."""

import gymnasium
import numpy as np
import pytest
from fakes import HORIZON, Walker, recorded
from gymnasium import spaces

from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.episodes import play
from vgp_lightning.agent.planning import PlanningAgent


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


def test_the_last_of_most_steps_cuts_its_episode_short(play_ledger):
    first, last = play_ledger([3, 0, 1], 1, most_steps=7).episodes  # 5 steps, 2 of 3, and none
    assert (first.total_reward, first.length) == (15, 5)
    assert (last.seed, last.total_reward, last.length, last.terminated, last.truncated) == (0, 3.0, 2, False, True)
    assert last.observations.ravel().tolist() == [0, 1, 2]


def test_most_steps_count_those_of_all_environments(play_ledger):
    ended, cut = play_ledger([0, 1], 2, most_steps=5).episodes  # of the third step only the first one counts
    assert (ended.length, ended.terminated, ended.truncated) == (3, True, False)
    assert (cut.length, cut.terminated, cut.truncated) == (2, False, True)
    assert [episode.length for episode in play_ledger([0, 1], 2, most_steps=99).episodes] == [3, 4]


@pytest.mark.parametrize("count", [1, 3])
def test_the_agent_may_have_other_seeds_than_the_environment(play_ledger, count):
    agent = Idler()
    episodes = play_ledger([1, 0, 2], count, agent, agent_seeds=[7, 8, 9]).episodes
    assert agent.seeds == [7, 8, 9]
    assert [(e.seed, e.agent_seed, e.length) for e in episodes] == [(1, 7, 4), (0, 8, 3), (2, 9, 5)]


def test_each_call_of_the_agent_has_its_time_and_the_ages_of_the_episodes(play_ledger):
    played = play_ledger([0, 1, 4], 2)  # of 3, 4 and 3 steps; the third begins where the first has ended
    assert [ages.tolist() for ages in played.ages] == [[0, 0], [1, 1], [2, 2], [0, 3], [1], [2]]
    assert len(played.act_seconds) == 6


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
    play(agent, environments, [0], keep_plans=True)
    environments.close()
    assert agent.on_plan is None


def test_plans_are_kept_on_demand_only(track):
    environments = make_environments("Track-v0", 1)
    (episode,) = play(PlanningAgent(Walker(0.4)), environments, [0]).episodes
    environments.close()
    assert (episode.plans.shape, episode.values.shape) == ((0, 0, 0), (0,))


def test_a_plan_whose_first_step_was_not_recorded_is_not_kept(track):
    environments = make_environments("Track-v0", 2)
    episodes = play(PlanningAgent(Walker(0.1)), environments, [0, 1], keep_plans=True, most_steps=5).episodes
    environments.close()
    assert [episode.length for episode in episodes] == [3, 2]
    assert [episode.plan_steps.tolist() for episode in episodes] == [[0, 1, 2], [0, 1]]
