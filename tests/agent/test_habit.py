"""Acting by habit: which of its actions are executed, and what cannot be used with it."""

import numpy as np
import pytest
import torch
from fakes import add_habit, write_tiny

from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline


@pytest.fixture
def pipeline(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    add_habit(folder, chunk=4, replan_every=2)
    return ValueGuidedPlannerPipeline.from_pretrained(folder)


def states(seed, count=2):
    return np.random.default_rng(seed).normal(size=(count, 2))


def test_the_first_actions_of_an_answer_are_executed_and_then_it_answers_anew(pipeline):
    agent, habit = PlanningAgent(pipeline, habit=True, replan_every=3), pipeline.load_habit()
    agent.reset([0, 1])
    acted = [agent.act(states(step)) for step in range(6)]
    answers = {step: habit.answer(states(step)).numpy() for step in (0, 3)}
    for step, actions in enumerate(acted):
        np.testing.assert_array_equal(actions, answers[step // 3 * 3][:, step % 3])


def test_by_default_as_many_are_executed_as_its_teacher_would(pipeline):
    assert PlanningAgent(pipeline, habit=True).replan_every == 2


def test_only_active_environments_are_answered_and_a_reset_forgets_the_chunk(pipeline):
    agent, habit = PlanningAgent(pipeline, habit=True), pipeline.load_habit()
    agent.reset([0, 1])
    agent.act(states(0))
    agent.reset([None, 5])
    acted = agent.act(states(1))
    np.testing.assert_array_equal(acted[0], habit.answer(states(0)).numpy()[0, 1])
    # Alone, as it was asked: some processors round a row otherwise in another batch.
    np.testing.assert_array_equal(acted[1], habit.answer(states(1)[1:]).numpy()[0, 0])
    broken = np.array([[0.1, 0.2], [np.nan, 0.0]])
    agent.reset([0, 1])
    agent.act(broken, np.array([True, False]))


def test_no_plan_is_made_and_no_random_number_drawn(pipeline, monkeypatch):
    monkeypatch.setattr(ValueGuidedPlannerPipeline, "__call__", lambda *_, **__: pytest.fail("a plan was made"))
    agent = PlanningAgent(pipeline, habit=True)
    agent.on_plan = lambda *_: pytest.fail("a plan was reported")
    acted = []
    for seed in (0, 1):
        agent.reset([seed])
        acted.append(agent.act(states(0, 1)))
    np.testing.assert_array_equal(*acted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conditions": lambda observations: {}}, "conditions cannot be used with a habit"),
        ({"controller": lambda observations, planned: planned}, "controller cannot be used with a habit"),
        ({"objectives": [(1.0, lambda observations, actions: actions)]}, "objectives cannot be used with a habit"),
        ({"scale": 0.7}, r"scale is 0.7, but the habit was distilled from a planner with 0.1.*--scale 0.7"),
        ({"replan_every": 5}, "replan_every is 5, but the habit answers with chunks of 4 actions"),
        ({"replan_every": 0}, "replan_every is 0, but the habit answers"),
        ({"replan_every": -1}, "replan_every is -1"),
        ({"speed": 1}, "unknown settings"),
    ],
)
def test_what_a_habit_cannot_use_is_refused(pipeline, options, words):
    with pytest.raises(ValueError, match=words):
        PlanningAgent(pipeline, habit=True, **options)


def test_the_settings_of_its_teacher_may_be_given(pipeline):
    agent = PlanningAgent(pipeline, habit=True, scale=0.1, replan_every=1)
    assert agent.resolved == dict(pipeline.resolve_settings()) | {"replan_every": 1}


def test_a_planner_without_a_habit_is_refused(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    with pytest.raises(ValueError, match="vgp distill"):
        PlanningAgent(ValueGuidedPlannerPipeline.from_pretrained(folder), habit=True)


def test_a_habit_that_does_not_name_its_teacher_s_settings_is_refused(pipeline, monkeypatch):
    habit = pipeline.load_habit()
    habit.teacher = {}
    monkeypatch.setattr(ValueGuidedPlannerPipeline, "load_habit", lambda self: habit)
    with pytest.raises(ValueError, match="distill it anew"):
        PlanningAgent(pipeline, habit=True)


def test_tensors_are_observations_too(pipeline):
    agent = PlanningAgent(pipeline, habit=True)
    agent.reset([0, 1])
    first = agent.act(torch.tensor(states(0)))
    agent.reset([0, 1])
    np.testing.assert_array_equal(first, agent.act(states(0)))
