"""Playing: every seed once, every reward counted, plans followed and renewed."""

from dataclasses import replace
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
import torch
from fakes import UNITS, A, O, Stub, T, planner, zeros
from gymnasium import spaces

from vgp_lightning.agent.controllers import PositionController
from vgp_lightning.agent.environments import make_environments, rollout
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.pipeline.frame import Frame
from vgp_lightning.pipeline.networks import make_denoiser, make_value_function
from vgp_lightning.pipeline.plan import Plan

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
    action_dim, observation_dim = 2, 3

    def __init__(self):
        self.calls = []

    def resolve_settings(self, **settings):
        defaults = {"planning_horizon": 4, "warm_start_strength": 1.0, "replan_every": 1, "rank_by": "value"}
        return defaults | {name: value for name, value in settings.items() if value is not None}

    def __call__(self, observation, generator, conditions, warm_start, **settings):
        self.calls.append((observation.copy(), settings))
        actions = torch.zeros(len(observation), 4, 2)
        actions[:, :, 0] = 100 * len(self.calls) + torch.arange(4)
        for row, one in zip(actions, generator, strict=True):
            row[:, 1] = torch.rand(4, generator=one)
        return Plan(actions, torch.zeros(len(observation), 4, 3), torch.zeros(len(observation)))


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
    with pytest.raises(ValueError, match=r"'Nowhere-v0' cannot be made.*module:Id"):
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
    assert all(settings["scale"] == 0.5 for _, settings in agent.pipeline.calls)


def test_a_whole_plan_can_be_followed_but_not_more():
    agent = PlanningAgent(FakePipeline(), replan_every=4)
    agent.reset([0])
    actions = [float(agent.act(np.zeros((1, 3)), np.array([True]))[0, 0]) for _ in range(5)]
    assert actions == [100, 101, 102, 103, 200]
    for replan_every in (-1, 9, 1.5):
        with pytest.raises(ValueError, match=f"replan_every is {replan_every}: a whole number between 0 and 8"):
            PlanningAgent(planner(Stub(zeros)), replan_every=replan_every)


@pytest.mark.parametrize(
    ("default", "given", "calls"),
    [(3, {}, 2), (3, {"replan_every": 1}, 6), (0, {}, 1), (2, {"replan_every": 0}, 1), (0, {"replan_every": 2}, 3)],
)
def test_the_folder_says_how_long_a_plan_is_followed_where_the_agent_does_not(default, given, calls):
    unet = Stub(zeros)
    agent = PlanningAgent(planner(unet, replan_every=default), num_inference_steps=1, **given)
    agent.reset([0])
    acted(agent, 6)
    assert len(unet.timesteps) == calls


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


class Recorder(FakePipeline):
    """Also keeps what it plans from; its plans observe 1000 * call + 10 * step + dimension."""

    frame = Frame.of(UNITS, T)

    def __call__(self, observation, generator, conditions, warm_start, **settings):
        plan = super().__call__(observation, generator, conditions, warm_start, **settings)
        numbers = 1000.0 * len(self.calls) + 10 * torch.arange(4)[:, None] + torch.arange(3)
        plan = replace(plan, observations=numbers.expand(len(observation), 4, 3))
        self.calls[-1] = (observation.copy(), conditions, warm_start)
        self.plans = [*getattr(self, "plans", []), plan.trajectories.numpy()]
        return plan


def acted(agent, count, observations=None):
    """Return the actions (count, N, A) for observations that do not change."""
    observations = np.zeros((1, 3)) if observations is None else observations
    return np.stack([agent.act(observations) for _ in range(count)])


# One row a convolution, a few and many are computed by different kernels.
@pytest.mark.parametrize("candidates", [1, 4, 16])
@pytest.mark.parametrize(
    ("horizon", "denoiser", "value"), [(8, (16, 64), (16, 64)), (16, (32, 64, 128), (32, 64, 128, 256))]
)
def test_the_actions_of_a_seed_are_the_same_to_the_bit_alone_and_among_eight(horizon, denoiser, value, candidates):
    torch.manual_seed(0)
    networks = make_denoiser(T, horizon, denoiser), make_value_function(T, horizon, value)
    pipeline = planner(*networks, normalization=UNITS, planning_horizon=horizon, batch_size=candidates)
    observations = np.random.default_rng(0).normal(size=(4, 8, O)) * 3 + 2  # of four steps

    def play(rows):
        agent = PlanningAgent(
            pipeline,
            replan_every=2,
            num_inference_steps=5,
            n_guide_steps=2,
            scale=0.01,
            guide_scaling="std",
            warm_start_strength=0.4,
        )
        agent.reset([100 + row for row in rows])
        actions = [agent.act(observations[0, rows])]
        agent.reset([200 if row == 6 else None for row in rows])  # one of the others begins again
        actions += [agent.act(observations[step, rows]) for step in (1, 2, 3)]
        return np.stack(actions)

    together = play(list(range(8)))
    assert len(np.unique(together)) == together.size
    for row in (0, 6, 7):
        np.testing.assert_array_equal(play([row])[:, 0], together[:, row])


def test_a_new_plan_begins_from_the_old_one_shifted_by_what_was_executed():
    agent = PlanningAgent(Recorder(), replan_every=3, warm_start_strength=0.5)
    agent.reset([0])
    acted(agent, 7)
    starts = [start for _, _, start in agent.pipeline.calls]
    assert starts[0] is None  # an episode's first plan begins from noise
    for start, before in zip(starts[1:], agent.pipeline.plans, strict=False):
        np.testing.assert_array_equal(start, before[:, [3, 3, 3, 3]])  # its last step is repeated
    agent.reset([0])
    acted(agent, 1)
    assert agent.pipeline.calls[-1][2] is None


def test_the_shift_is_one_step_where_every_step_is_planned():
    agent = PlanningAgent(Recorder(), warm_start_strength=0.0)
    agent.reset([0, 1])
    acted(agent, 3, np.zeros((2, 3)))
    starts = [start for _, _, start in agent.pipeline.calls]
    assert starts[0] is None
    np.testing.assert_array_equal(starts[1], agent.pipeline.plans[0][:, [1, 2, 3, 3]])
    np.testing.assert_array_equal(starts[2], agent.pipeline.plans[1][:, [1, 2, 3, 3]])
    assert starts[1].dtype == np.float32


def test_without_a_warm_start_every_plan_begins_from_noise():
    agent = PlanningAgent(Recorder())
    agent.reset([0])
    acted(agent, 3)
    assert [start for _, _, start in agent.pipeline.calls] == [None] * 3


def test_after_the_reset_of_one_environment_it_plans_from_noise_and_the_others_go_on():
    unet = Stub(zeros)
    agent = PlanningAgent(planner(unet), num_inference_steps=5, warm_start_strength=0.4)  # three candidates each
    agent.reset([0, 1, 2])
    observations = np.arange(9.0).reshape(3, 3)

    def calls():
        """Return the candidates and the timestep of each call of the denoiser in one step."""
        unet.inputs.clear()
        unet.timesteps.clear()
        agent.act(observations)
        return [(len(x), int(t)) for x, t in zip(unet.inputs, unet.timesteps, strict=True)]

    cold, warm = [19, 15, 11, 7, 3], [7, 3]
    assert calls() == [(9, t) for t in cold]
    assert calls() == [(9, t) for t in warm]
    agent.reset([None, 7, None])
    assert calls() == [(3, t) for t in cold] + [(6, t) for t in warm]
    assert unet.inputs[0][0, 0, A:].tolist() == [3, 4, 5]  # it was the second's
    assert unet.inputs[5][[0, 3], 0, A:].tolist() == [[0, 1, 2], [6, 7, 8]]
    assert calls() == [(9, t) for t in warm]


def test_the_reset_of_one_environment_does_not_change_the_actions_of_the_others():
    pipeline = planner(Stub(lambda x, t: 0.9 * x))

    def play(resets):
        agent = PlanningAgent(pipeline, replan_every=2, num_inference_steps=5, warm_start_strength=0.6)
        agent.reset([0, 1, 2])
        actions = []
        for step in range(5):
            if step in resets:
                agent.reset([None, 50 + step, None])
            actions.append(agent.act(np.full((3, 3), 0.1 * step)))
        return np.stack(actions)

    undisturbed, disturbed = play([]), play([1, 2])
    np.testing.assert_array_equal(disturbed[:, [0, 2]], undisturbed[:, [0, 2]])
    assert (disturbed[1:, 1] != undisturbed[1:, 1]).all()


def test_a_single_plan_is_followed_to_its_last_step_which_is_held():
    agent = PlanningAgent(Recorder(), replan_every=0)
    agent.reset([0])
    assert acted(agent, 7)[:, 0, 0].tolist() == [100, 101, 102, 103, 103, 103, 103]
    assert len(agent.pipeline.calls) == 1
    agent.reset([1])
    assert acted(agent, 2)[:, 0, 0].tolist() == [200, 201]


def test_environments_of_a_single_plan_keep_their_own_time():
    agent = PlanningAgent(Recorder(), replan_every=0)
    agent.reset([0, 1])
    acted(agent, 3, np.zeros((2, 3)))
    agent.reset([None, 5])
    actions = acted(agent, 2, np.zeros((2, 3)))
    assert actions[:, :, 0].tolist() == [[103, 200], [103, 201]]


def test_conditions_are_made_from_the_observations_that_are_planned_from():
    seen = []

    def goal(observations):
        seen.append(observations)
        return {-1: observations + 0.5}

    agent = PlanningAgent(Recorder(), replan_every=2, conditions=goal)
    agent.reset([0, 1])
    observations = np.arange(6.0).reshape(2, 3)
    agent.act(observations)
    agent.reset([None, 1])
    agent.act(observations + 10)  # due for the second alone
    assert [rows.tolist() for rows in seen] == [[[0, 1, 2], [3, 4, 5]], [[13, 14, 15]]]
    given = [conditions for _, conditions, _ in agent.pipeline.calls]
    assert [list(conditions) for conditions in given] == [[-1], [-1]]
    np.testing.assert_array_equal(given[1][-1], [[13.5, 14.5, 15.5]])
    plain = PlanningAgent(Recorder())
    plain.reset([0])
    acted(plain, 1)
    assert plain.pipeline.calls[0][1] is None


def test_every_plan_passes_through_the_condition():
    unet, goals = Stub(zeros), np.array([[1.0, np.nan, 3.0], [4.0, 5.0, 6.0]])
    agent = PlanningAgent(
        planner(unet),
        conditions=lambda observations: {-1: goals},
        num_inference_steps=2,
        warm_start_strength=0.5,
    )
    agent.reset([0, 1])
    for _ in range(2):  # a plan from noise, and a warm one
        unet.inputs.clear()
        agent.act(np.zeros((2, 3)))
        for trajectories in unet.inputs:
            last = trajectories.view(2, 3, 8, T)[:, :, -1, A:].numpy()
            held = np.broadcast_to(np.isfinite(goals)[:, None], last.shape)
            np.testing.assert_array_equal(last[held], np.broadcast_to(goals[:, None], last.shape)[held])


def test_a_controller_is_given_the_observations_and_the_plans_next_ones():
    given = []

    def controller(observations, planned):
        given.append((observations.copy(), planned.copy()))
        return observations[:, :2] + 0.25

    agent = PlanningAgent(Recorder(), replan_every=3, controller=controller)
    agent.reset([0, 1])
    observations = np.arange(6.0).reshape(2, 3)
    actions = acted(agent, 4, observations)
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions, np.broadcast_to(observations[:, :2] + 0.25, (4, 2, 2)))
    np.testing.assert_array_equal(given[0][0], observations)
    assert [planned[:, 0].tolist() for _, planned in given] == [[1010] * 2, [1020] * 2, [1030] * 2, [2010] * 2]
    assert given[0][1].tolist() == [[1010, 1011, 1012]] * 2


def test_a_controller_heads_for_the_last_step_where_a_plan_has_no_next_one():
    agent = PlanningAgent(Recorder(), replan_every=0, controller=lambda observations, planned: planned[:, :2])
    agent.reset([0])
    assert acted(agent, 5)[:, 0, 0].tolist() == [1010, 1020, 1030, 1030, 1030]


def test_a_controllers_actions_are_clipped_to_the_bounds():
    pipeline = Recorder()
    pipeline.frame = Frame.of(UNITS | {"action_low": [-1.0, None], "action_high": [None, 2.0]}, T)
    numbers = iter([[-5.0, -5.0], [5.0, 5.0]])
    agent = PlanningAgent(pipeline, controller=lambda observations, planned: np.array([next(numbers)]))
    agent.reset([0])
    assert acted(agent, 2)[:, 0].tolist() == [[-1, -5], [5, 2]]


def test_the_position_controller_by_hand():
    controller = PositionController(positions=[0, 2], velocities=[1, 3], position_gain=10.0, velocity_gain=0.5)
    observations = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    planned = np.array([[1.5, 1.0, 2.0, 8.0], [0.0, 0.0, 0.1, -2.0]])
    expected = [[10 * 0.5 - 0.5 * 1, 10 * -1.0 + 0.5 * 4], [0, 10 * 0.1 + 0.5 * -2]]
    np.testing.assert_allclose(controller(observations, planned), expected, atol=1e-12)


def test_the_position_controller_follows_the_plan_of_an_agent():
    controller = PositionController([0, 1], [2, 2], position_gain=0.1, velocity_gain=0.01)
    agent = PlanningAgent(Recorder(), controller=controller)
    agent.reset([0])
    actions = agent.act(np.array([[1000.0, 1001.0, 1000.0]]))
    np.testing.assert_allclose(actions, [[0.1 * 10 + 0.01 * 12, 0.1 * 10 + 0.01 * 12]], rtol=1e-6)


@pytest.mark.parametrize("seeds", [[], [0], [0, 1, 2]])
def test_as_many_observations_as_seeds_are_needed(seeds):
    agent = PlanningAgent(Recorder())
    agent.reset(seeds)
    with pytest.raises(ValueError, match=f"2 observations, but reset was given {len(seeds)} seeds"):
        agent.act(np.zeros((2, 3)))
    assert agent.pipeline.calls == []


def test_all_environments_are_active_if_it_is_not_said_which():
    agents = [PlanningAgent(Recorder(), replan_every=2) for _ in range(2)]
    for agent in agents:
        agent.reset([3, 4])
    for _ in range(5):
        np.testing.assert_array_equal(
            agents[0].act(np.ones((2, 3))), agents[1].act(np.ones((2, 3)), np.array([True, True]))
        )


def test_the_loop_of_the_docstring_plays_the_episode_of_a_rollout():
    pipeline, seed = planner(Stub(lambda x, t: 0.9 * x), num_inference_steps=3, warm_start_strength=0.7), 2
    environment = gymnasium.wrappers.FlattenObservation(gymnasium.make("Countdown-v0"))
    observation, _ = environment.reset(seed=seed)
    actions, ended = [], False

    agent = PlanningAgent(pipeline)
    agent.reset([seed])
    while not ended:
        action = agent.act(observation[None])[0]
        actions.append(action)
        observation, _, terminated, truncated, _ = environment.step(action)
        ended = terminated or truncated

    environments = make_environments("Countdown-v0", 1)
    steps = list(rollout(PlanningAgent(pipeline), environments, [seed]))
    environments.close()
    np.testing.assert_array_equal(np.stack(actions), np.concatenate([step.actions for step in steps]))
    assert len(actions) == LIMIT


def test_a_setting_that_cannot_work_is_refused_where_the_agent_is_made():
    with pytest.raises(ValueError, match=r"warm_start_strength is 2.*between 0 and 1"):
        PlanningAgent(planner(Stub(zeros)), warm_start_strength=2)
    with pytest.raises(ValueError, match=r"unknown settings \['speed'\]"):
        PlanningAgent(planner(Stub(zeros)), speed=2)


def test_candidates_are_kept_on_request_and_the_actions_stay_the_same_to_the_last_bit():
    plain, keeping = (PlanningAgent(planner(), warm_start_strength=0.5) for _ in range(2))
    keeping.keep_candidates = True
    made = {plain: [], keeping: []}
    for agent, plans in made.items():
        agent.on_plan = lambda rows, plan, plans=plans: plans.append(plan)
        agent.reset([5, 6])
    for _ in range(2):
        observations = np.zeros((2, O))
        np.testing.assert_array_equal(plain.act(observations), keeping.act(observations))
    assert [plan.candidates for plan in made[plain]] == [None, None]
    assert all(plan.candidates.actions.shape[:2] == (2, 3) for plan in made[keeping])
