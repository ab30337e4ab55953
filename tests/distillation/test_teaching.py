"""What a planner would do in a state, against numbers by hand."""

import numpy as np
import torch
from fakes import write_tiny

from vgp_lightning.distillation.teaching import Teacher
from vgp_lightning.pipeline.plan import weigh
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline


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


def test_a_planner_that_mixes_its_candidates_acts_by_what_it_teaches(tmp_path):
    folder = write_tiny(tmp_path / "planner", batch_size=3, choice_temperature=5.0)
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    teacher = Teacher(pipeline, 2, 0.7, 5, pipeline.resolve_settings())
    assert torch.equal(teacher.answer(torch.zeros(4, 2)), teacher.pairs[1])
