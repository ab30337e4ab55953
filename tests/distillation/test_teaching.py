"""The weights of candidates, against numbers by hand."""

import numpy as np
import torch
from fakes import write_tiny

from vgp_lightning.distillation.teaching import Teacher, weigh
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

NAN, INF = float("nan"), float("inf")


def test_weights_are_a_softmax_of_standard_scores():
    # Mean 2, deviation sqrt(2/3): scores -sqrt(3/2), 0, sqrt(3/2).
    scores = np.sqrt(1.5) * np.array([-1, 0, 1])
    for temperature in (0.5, 1.0, 2.0):
        expected = np.exp(scores / temperature) / np.exp(scores / temperature).sum()
        for scale in (1.0, 1e-6, 1e6):
            weights = weigh(torch.tensor([[1.0, 2.0, 3.0]]) * scale, temperature)
            np.testing.assert_allclose(weights[0], expected, rtol=1e-4)


def test_at_temperature_zero_the_best_counts_alone():
    weights = weigh(torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 4.0]]), 0.0)
    torch.testing.assert_close(weights, torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]))


def test_candidates_without_a_value_count_nothing_and_all_alike_where_none_has_one():
    values = torch.tensor([[1.0, NAN, 1.0], [NAN, NAN, NAN], [2.0, 2.0, 2.0], [INF, 1.0, 1.0]])
    weights = weigh(values, 1.0)
    third = [1 / 3] * 3
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0, 0.5], third, third, [0, 0.5, 0.5]]))


def test_a_teacher_s_answer_is_the_weighted_mean_of_its_candidates(tmp_path):
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(write_tiny(tmp_path / "planner", batch_size=3))
    states = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    settings = pipeline.resolve_settings()
    teacher = Teacher(pipeline, 2, 0.7, 5, settings)
    teacher.ask(states)
    asked, answers = teacher.pairs
    assert torch.equal(asked, torch.from_numpy(states))
    plan = pipeline(states, generator=torch.Generator().manual_seed(5), return_candidates=True)
    weights = weigh(plan.candidates.values, 0.7)
    for i in range(4):
        expected = sum(weights[i, k] * plan.candidates.actions[i, k, :2] for k in range(3))
        torch.testing.assert_close(answers[i], expected)
    best = Teacher(pipeline, 2, 0.0, 5, settings)
    torch.testing.assert_close(best.answer(torch.from_numpy(states)), plan.actions[:, :2])
    torch.testing.assert_close(best.pairs[1], plan.actions[:, :2])
