"""Planning while acting: which plan is executed when, whatever the speed of its making, and how plans are joined."""

import gc
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import IDENTITY, UNITS, A, O, Stub, T, denoiser, planner, value_network, zeros

from vgp_lightning.agent import planning
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.pipeline.commitment import commitment_weights
from vgp_lightning.pipeline.frame import Frame
from vgp_lightning.pipeline.plan import Plan

H = 8
THREADED = pytest.mark.parametrize("asynchronous", [False, True])


class FakePipeline:
    """Plans the actions (100 * call + step, random number), observing 1000 * call + 10 * step + dimension, for 8 steps.

    Attributes:
        gate: What a call in the background waits for; None: nothing.
        errors: The call of this number raises this error.
    """

    device = torch.device("cpu")
    action_dim, observation_dim = 2, 3
    frame = Frame.of(IDENTITY, T)

    def __init__(self, gate=None, errors=None):
        self.calls, self.plans, self.lock = [], [], threading.Lock()
        self.gate, self.errors = gate, errors or {}

    def resolve_settings(self, **settings):
        defaults = {"planning_horizon": H, "warm_start_strength": 1.0, "replan_every": 1, "rank_by": "value"}
        return defaults | {name: value for name, value in settings.items() if value is not None}

    def __call__(self, observation, generator, conditions, warm_start, committed=None, **settings):
        with self.lock:  # two threads may call
            self.calls.append((observation.copy(), warm_start, committed, conditions))
            number = len(self.calls)
        if self.gate is not None and threading.current_thread() is not threading.main_thread():
            assert self.gate.wait(60)
        if (error := self.errors.get(number)) is not None:
            raise error
        actions = torch.zeros(len(observation), H, 2)
        actions[:, :, 0] = 100 * number + torch.arange(H)
        for row, one in zip(actions, generator, strict=True):
            row[:, 1] = torch.rand(H, generator=one)
        numbers = 1000.0 * number + 10 * torch.arange(H)[:, None] + torch.arange(3)
        self.plans.append(Plan(actions, numbers.expand(len(observation), H, 3), torch.zeros(len(observation))))
        return self.plans[-1]


def acted(agent, steps, count=1, start=0):
    """Return the actions (steps, N, A); step t observes t in every dimension."""
    return np.stack([agent.act(np.full((count, O), float(start + t))) for t in range(steps)])


def made(pipeline=None, seeds=(0,), **options):
    agent = PlanningAgent(pipeline or FakePipeline(), **options)
    agent.reset(list(seeds))
    return agent


# ---------------------------------------------------------------- which plan is executed when


@THREADED
@pytest.mark.parametrize(
    ("delay", "replan_every", "expected", "planned"),
    [
        (0, 3, [100, 101, 102, 200, 201, 202, 300, 301, 302, 400], [0, 3, 6, 9]),
        (1, 1, [100, 101, 201, 301, 401, 501], [0, 1, 2, 3, 4, 5]),
        (2, 3, [100, 101, 102, 103, 104, 202, 203, 204, 302, 303, 304, 402], [0, 3, 6, 9]),
        (3, 3, [100, 101, 102, 103, 104, 105, 203, 204, 205, 303], [0, 3, 6, 9]),
        (4, 4, [100, 101, 102, 103, 104, 105, 106, 107, 204, 205, 206, 207, 304], [0, 4, 8, 12]),
    ],
)
def test_a_plan_is_executed_from_its_row_of_the_delay_on_until_the_next_arrives(
    delay, replan_every, expected, planned, asynchronous
):
    agent = made(replan_every=replan_every, delay=delay, asynchronous=asynchronous)
    assert acted(agent, len(expected))[:, 0, 0].tolist() == expected
    # A plan may still be running: that one arrives.
    observed = [float(observation[0, 0]) for observation, *_ in agent.pipeline.calls]
    assert observed in (planned, planned[:-1])


def test_a_critic_cannot_rank_first_actions_that_a_delay_has_fixed():
    options = {"rank_by": "critic", "objectives": None}
    with pytest.raises(ValueError, match=r"rank_by is critic, with a delay of 1: .* Rank by value"):
        made(Ranked(), batch_size=2, asynchronous=True, **options)
    assert made(Ranked(), batch_size=2, **options).delay == 0
    assert made(Ranked(), batch_size=1, delay=1, **options).delay == 1


class Ranked(FakePipeline):
    def load_critic(self):
        pass


def test_an_asynchronous_agent_has_a_delay_of_one_step_unless_one_is_given():
    assert made(asynchronous=True).delay == 1
    assert made().delay == 0
    assert made(asynchronous=True, delay=0).delay == 0


@pytest.mark.parametrize("replan_every", [1, 2])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_without_a_delay_an_asynchronous_agent_acts_as_a_synchronous_one_to_the_bit(replan_every, strength):
    np.testing.assert_array_equal(
        played(asynchronous=True, delay=0, replan_every=replan_every, warm_start_strength=strength),
        played(replan_every=replan_every, warm_start_strength=strength),
    )


def played(rows=(0, 1, 2), slow=None, monkeypatch=None, **options):
    """Return the actions (9, N, A) of a small guided planner; the second of three environments begins again."""
    pipeline = planner(denoiser(), value_network(), normalization=UNITS, batch_size=4, sampler="ddim")
    if slow is not None:
        times = iter(slow)
        plan = type(pipeline).__call__

        def slowly(self, *arguments, **keywords):
            time.sleep(next(times, 0))
            return plan(self, *arguments, **keywords)

        monkeypatch.setattr(type(pipeline), "__call__", slowly)
    settings = {"num_inference_steps": 5, "n_guide_steps": 1, "scale": 0.01, "guide_scaling": "std"}
    agent = PlanningAgent(pipeline, **settings, **options)
    observations = np.random.default_rng(0).normal(size=(9, 3, O)) + 2
    agent.reset([100 + row for row in rows])
    actions = []
    for step in range(9):
        if step == 4:
            agent.reset([200 if row == 1 else None for row in rows])
        actions.append(agent.act(observations[step, list(rows)]))
    return np.stack(actions)


@pytest.mark.parametrize(("delay", "replan_every"), [(1, 1), (1, 2), (2, 2), (2, 3)])
def test_the_delay_alone_decides_the_actions_not_the_thread_nor_the_speed(delay, replan_every, monkeypatch):
    options = {"delay": delay, "replan_every": replan_every, "warm_start_strength": 0.4}
    expected = played(**options)
    assert not np.array_equal(expected, played(**options | {"delay": 0}))
    np.testing.assert_array_equal(played(asynchronous=True, **options), expected)
    np.testing.assert_array_equal(played(asynchronous=True, **options), expected)
    slow = [0.0, 0.1, 0.0, 0.05, 0.1]
    with monkeypatch.context() as patch:
        np.testing.assert_array_equal(played(asynchronous=True, slow=slow, monkeypatch=patch, **options), expected)


@pytest.mark.parametrize("row", [0, 1, 2])
def test_the_actions_of_a_seed_are_the_same_alone_and_among_others(row):
    options = {"delay": 2, "replan_every": 2, "asynchronous": True}
    np.testing.assert_array_equal(played(rows=(row,), **options)[:, 0], played(**options)[:, row])


# ---------------------------------------------------------------- waiting


def test_acting_does_not_wait_for_a_plan_before_it_arrives_and_does_then():
    gate = threading.Event()
    agent = made(FakePipeline(gate=gate), replan_every=3, delay=3, asynchronous=True)
    assert acted(agent, 6)[:, 0, 0].tolist() == [100, 101, 102, 103, 104, 105]  # the second plan waits at the gate
    timer = threading.Timer(0.2, gate.set)
    begin = time.perf_counter()
    timer.start()
    assert acted(agent, 2)[:, 0, 0].tolist() == [203, 204]
    assert time.perf_counter() - begin > 0.15


def test_plans_are_made_one_after_the_other_in_one_thread_and_announced_in_the_callers():
    names, announced = [], []

    class Pipeline(FakePipeline):
        def __call__(self, *arguments, **keywords):
            names.append(threading.current_thread().name)
            return super().__call__(*arguments, **keywords)

    agent = made(Pipeline(), seeds=(0, 1), replan_every=2, delay=1, asynchronous=True)
    agent.on_plan = lambda rows, plan: announced.append((rows.tolist(), plan.actions.shape, threading.current_thread()))
    acted(agent, 1, 2)
    agent.reset([None, 5])
    acted(agent, 7, 2)
    assert set(names) == {threading.current_thread().name, "vgp-planning_0"}
    assert [thread for *_, thread in announced] == [threading.current_thread()] * len(announced)
    # Both at the first step, the second alone after its reset; from then on each has its own rhythm.
    assert [rows for rows, *_ in announced][:5] == [[0, 1], [1], [0], [1], [0]]


def test_the_thread_ends_with_the_agent():
    before = set(threading.enumerate())
    agent = made(asynchronous=True)
    acted(agent, 3)
    (thread,) = set(threading.enumerate()) - before
    assert thread.name.startswith("vgp-planning")
    del agent
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


# ---------------------------------------------------------------- episodes that begin, and idle environments


def test_a_reset_drops_the_plan_that_is_being_made_and_keeps_the_others_of_its_batch():
    gate = threading.Event()
    agent = made(FakePipeline(gate=gate), seeds=(0, 1), replan_every=2, delay=2, asynchronous=True)
    acted(agent, 3, 2)  # the plan of step 2 is being made, for both
    agent.reset([None, 7])
    gate.set()
    actions = acted(agent, 6, 2, start=3)
    # The first goes on with the second call; the second begins with a call of its own.
    assert actions[:3, 0, 0].tolist() == [103, 202, 203]
    assert actions[:4, 1, 0].tolist() == [300, 301, 302, 303]
    fresh = made(seeds=(7,), replan_every=2, delay=2)
    np.testing.assert_array_equal(acted(fresh, 6)[:, 0, 1], actions[:, 1, 1])  # its random numbers


def test_the_candidates_of_a_plan_are_those_of_the_environments_that_want_it():
    class WithCandidates(FakePipeline):
        def __call__(self, *arguments, **options):
            plan = super().__call__(*arguments, **options)
            several = (part.unsqueeze(1) for part in (plan.actions, plan.observations, plan.values))
            return replace(plan, candidates=Plan(*several))

    taken = []
    agent = made(WithCandidates(), seeds=(0, 1), replan_every=2, delay=2)
    agent.keep_candidates, agent.on_plan = True, lambda rows, plan: taken.append((rows, plan))
    acted(agent, 3, 2)  # the plan of step 2 is under way, for both
    agent.reset([None, 7])
    acted(agent, 3, 2, start=3)
    plan = next(plan for rows, plan in taken if rows.tolist() == [0])
    torch.testing.assert_close(plan.candidates.actions[:, 0], plan.actions)


def test_a_plan_that_nobody_wants_any_more_is_not_begun():
    gate = threading.Event()
    agent = made(FakePipeline(gate=gate), seeds=(0, 1), replan_every=2, delay=2, asynchronous=True)
    acted(agent, 1, 2)
    agent.reset([None, 1])
    acted(agent, 3, 2, start=1)  # the first's plan of step 2 waits at the gate, the second's of step 3 waits for it
    agent.reset([None, 2])
    gate.set()
    acted(agent, 4, 2, start=4)
    observed = [observation[:, 0].tolist() for observation, *_ in agent.pipeline.calls]
    assert [3.0] not in observed
    assert [2.0] in observed


def test_another_number_of_environments_begins_anew():
    gate = threading.Event()
    agent = made(FakePipeline(gate=gate), seeds=(0, 1), replan_every=2, delay=2, asynchronous=True)
    acted(agent, 3, 2)
    agent.reset([0])
    gate.set()
    assert acted(agent, 2)[:, 0, 0].tolist() == [300, 301]


@THREADED
def test_the_steps_of_an_idle_environment_do_not_count(asynchronous):
    agent = made(seeds=(0, 1), replan_every=2, delay=2, asynchronous=asynchronous)
    actions = []
    for step in range(8):
        active = np.array([True, step not in (3, 4)])
        actions.append(agent.act(np.full((2, O), float(step)), active)[:, 0].tolist())
    assert [first for first, _ in actions] == [100, 101, 102, 103, 202, 203, 302, 303]
    # The second went on with the plan of its step 2 after two idle steps.
    assert [second for step, (_, second) in enumerate(actions) if step not in (3, 4)] == [100, 101, 102, 103, 202, 203]


# ---------------------------------------------------------------- what the planner is given


def test_a_plan_is_committed_to_the_actions_that_are_executed_while_it_is_made():
    agent = made(replan_every=3, delay=2, warm_start_strength=0.5)
    acted(agent, 9)
    before = [plan.trajectories.numpy() for plan in agent.pipeline.plans]
    (_, first_start, first, _), *later = agent.pipeline.calls
    assert first_start is None
    assert first is None  # an episode's first plan is waited for
    shifted = [3, 4, 5, 6, 7, 7, 7, 7]  # 3 steps were executed since the observation; the last one is repeated
    for (_, start, (plans, weights), _), old in zip(later, before, strict=False):
        np.testing.assert_array_equal(start, old[:, shifted])
        np.testing.assert_array_equal(plans[..., :A], old[:, shifted, :A])
        assert np.isnan(plans[..., A:]).all()
        np.testing.assert_array_equal(weights, np.float32(commitment_weights(H, 2, H - 3)))


def test_only_steps_that_are_executed_from_a_plan_are_drawn_towards_the_previous_one():
    agent = made(replan_every=1, delay=1)
    acted(agent, 3)
    _, weights = agent.pipeline.calls[1][2]
    assert weights.tolist() == pytest.approx([1, 0.5 * (np.exp(0.5) - 1) / (np.e - 1), *[0] * 6])


def test_the_first_steps_of_a_plan_are_the_actions_that_were_executed():
    pipeline = planner(denoiser(), value_network(), normalization=UNITS, sampler="ddim", n_guide_steps=1, scale=0.01)
    agent = made(pipeline, seeds=(3,), replan_every=3, delay=2, num_inference_steps=5, asynchronous=True)
    plans = []
    agent.on_plan = lambda rows, plan: plans.append(plan)
    actions = acted(agent, 12)[:, 0]
    for start, plan in zip((3, 6, 9), plans[1:], strict=True):
        np.testing.assert_array_equal(plan.actions[0, :2].numpy(), actions[start : start + 2])
        np.testing.assert_array_equal(plan.observations[0, 0].numpy(), np.full(O, start))


def test_actions_jump_less_where_plans_are_joined_than_where_they_are_only_exchanged(monkeypatch):
    def jumps():
        pipeline = planner(denoiser(), batch_size=1, sampler="ddim", num_inference_steps=5)
        agent = made(pipeline, seeds=range(16), replan_every=3, delay=2)
        seams = []
        for step in range(12):
            old, age = agent._plans[:, agent._age[0], :A].copy(), agent._age[0]
            agent.act(np.full((16, O), 0.1 * step))
            if step and agent._age[0] != age + 1:
                seams.append(np.abs(agent._plans[:, agent._age[0] - 1, :A] - old).mean())
        assert len(seams) == 3
        return np.mean(seams)

    joined = jumps()
    monkeypatch.setattr(planning, "commitment_weights", lambda horizon, delay, overlap: [0.0] * horizon)
    assert joined < 0.8 * jumps()


def test_with_a_controller_a_plan_is_committed_to_the_observations_that_are_followed():
    agent = made(replan_every=3, delay=2, controller=lambda observations, planned: planned[:, :2])
    actions = acted(agent, 8)
    assert actions[:, 0, 0].tolist() == [1010, 1020, 1030, 1040, 1050, 2030, 2040, 2050]
    old = agent.pipeline.plans[0].trajectories.numpy()
    plans, weights = agent.pipeline.calls[1][2]
    assert np.isnan(plans[..., :A]).all()
    np.testing.assert_array_equal(plans[..., A:], old[:, [3, 4, 5, 6, 7, 7, 7, 7], A:])
    # Steps 3 and 4 follow the observations of steps 4 and 5, which are rows 1 and 2 of the new plan.
    np.testing.assert_array_equal(weights, np.float32([0, *commitment_weights(H - 1, 2, H - 3 - 1)]))
    assert weights[1:3].tolist() == [1, 1]


def test_conditions_are_made_in_the_callers_thread_and_may_change_afterwards():
    gate, goal, threads = threading.Event(), np.zeros((1, O)), []

    def conditions(observations):
        threads.append(threading.current_thread())
        goal[:] = observations
        return {-1: goal}

    agent = made(FakePipeline(gate=gate), replan_every=2, delay=2, conditions=conditions, asynchronous=True)
    acted(agent, 3)
    goal[:] = 99
    gate.set()
    acted(agent, 2, start=3)
    assert float(agent.pipeline.calls[1][3][-1][0, 0]) == 2
    assert set(threads) == {threading.current_thread()}


# ---------------------------------------------------------------- what goes wrong


@THREADED
@pytest.mark.parametrize("error", [ValueError("no finite plan"), RuntimeError("out of memory")], ids=repr)
def test_an_error_in_the_background_is_raised_when_its_plan_is_due_and_the_next_call_plans_anew(error, asynchronous):
    agent = made(FakePipeline(errors={2: error}), replan_every=3, delay=2, asynchronous=asynchronous)
    assert acted(agent, 5)[:, 0, 0].tolist() == [100, 101, 102, 103, 104]
    with pytest.raises(type(error), match=str(error)):
        acted(agent, 1, start=5)
    assert acted(agent, 6, start=5)[:, 0, 0].tolist() == [300, 301, 302, 303, 304, 402]


def test_an_error_of_some_environments_names_them():
    agent = made(FakePipeline(errors={3: ValueError("no")}), seeds=(0, 1), replan_every=2, delay=1, asynchronous=True)
    acted(agent, 1, 2)
    agent.reset([None, 1])
    acted(agent, 2, 2)  # the third call is for the first alone
    with pytest.raises(ValueError, match=r"planning for environments \[0\], as rows from 0 on: no"):
        acted(agent, 1, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delay": -1}, "delay is -1: a whole number of steps from 0 on"),
        ({"delay": 1.5}, "delay is 1.5: a whole number"),
        ({"delay": True}, "delay is True: a whole number"),
        ({"delay": "2"}, "delay is 2: a whole number"),
        ({"delay": 2}, "delay is 2, but replan_every is 1: .*Use replan_every=2 or more"),
        ({"delay": 3, "replan_every": 2}, "delay is 3, but replan_every is 2"),
        ({"delay": 1, "replan_every": 0}, "delay is 1, but replan_every is 0: .*plans once per episode.*delay=0"),
        ({"asynchronous": True, "replan_every": 0}, "delay is 1, but replan_every is 0"),
        ({"delay": 3, "replan_every": 6}, "delay is 3 and replan_every is 6: .*at most planning_horizon, which is 8"),
        ({"asynchronous": "yes"}, "asynchronous is yes: True or False is needed"),
    ],
)
def test_a_delay_that_cannot_work_is_refused_where_the_agent_is_made(options, words):
    with pytest.raises(ValueError, match=words):
        PlanningAgent(planner(Stub(zeros)), **options)


def test_the_longest_delay_is_half_the_horizon():
    pipeline = planner(Stub(zeros), num_inference_steps=1)
    agent = made(pipeline, delay=H // 2, replan_every=H // 2, asynchronous=True)
    assert acted(agent, 20).shape == (20, 1, A)
