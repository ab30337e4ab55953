"""Candidates: those that the pipeline itself ranks."""

import numpy as np
import torch
from fake_device import fake_device, move
from fakes import UNITS, A, H, O, Stub, T, add_critic, denoiser, planner, value_network, write_tiny

from vgp_lightning.diagnostics.candidates import sample_candidates, to_raw
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

OBSERVATIONS = np.random.default_rng(1).normal(size=(3, O)).astype(np.float32)


def linear(trajectories, timesteps):
    """The sum of the first action: its gradient is 1 there and 0 elsewhere."""
    return trajectories[:, 0].sum(dim=1, keepdim=True)


def shrink(trajectories, timesteps):
    return 0.5 * trajectories


def test_all_candidates_are_those_of_the_pipeline_in_the_order_of_their_draw():
    pipeline = planner(Stub(shrink), Stub(linear), normalization=UNITS, sampler="ddim", n_guide_steps=0)
    found = sample_candidates(pipeline, OBSERVATIONS, batch_size=5)
    assert found.trajectories.shape == (3, 5, H, T)
    plan = pipeline(
        OBSERVATIONS,
        batch_size=5,
        generator=[torch.Generator().manual_seed(i) for i in range(3)],
        return_candidates=True,
    )
    np.testing.assert_allclose(-np.sort(-found.values, axis=1), plan.candidates.values, rtol=1e-5)
    np.testing.assert_allclose(found.values.max(axis=1), plan.values, rtol=1e-5)
    raw = found.chosen * np.array(UNITS["scale"]) + np.array(UNITS["shift"])
    np.testing.assert_allclose(raw[..., :A], plan.actions, rtol=1e-4, atol=1e-5)
    assert found.history.shape == (20, 5, H, T)
    np.testing.assert_array_equal(found.history[-1], found.trajectories[0])
    assert found.levels[:2] + found.levels[-2:] == ["noise level 18", "noise level 17", "noise level 0", "clean"]


def test_a_critic_is_asked_of_the_actions_that_the_planner_would_execute(tmp_path):
    folder = write_tiny(tmp_path / "planner", batch_size=8, rank_by="critic")
    critic, pipeline = add_critic(folder), ValueGuidedPlannerPipeline.from_pretrained(folder)
    observations = np.array([[0.5, -0.5], [1.0, 0.0]], np.float32)
    pipeline.frame.action_low.fill_(-0.1)
    pipeline.frame.action_high.fill_(0.1)
    found = sample_candidates(pipeline, observations)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    plans = pipeline(observations, generator=generators, return_candidates=True).candidates
    assert (plans.actions[:, :, 0].abs() == 0.1).any()  # at the bounds
    ranks = critic.rank(plans.observations[:, :, 0], plans.actions[:, :, 0])
    np.testing.assert_allclose(-np.sort(-found.scores, axis=1), ranks, rtol=1e-4, atol=1e-5)


def test_more_observations_than_a_batch_holds_are_planned_from_all_the_same():
    pipeline = planner(Stub(shrink), Stub(linear), sampler="ddim", n_guide_steps=0, num_inference_steps=2)
    many = np.repeat(OBSERVATIONS, 7, axis=0)
    found = sample_candidates(pipeline, many)
    assert found.trajectories.shape[0] == found.values.shape[0] == 21
    np.testing.assert_allclose(found.trajectories[:3], sample_candidates(pipeline, many[:3]).trajectories, rtol=1e-5)
    alike = sample_candidates(pipeline, np.repeat(OBSERVATIONS[:1], 18, axis=0)).trajectories
    assert len(np.unique(alike[:, 0, 0, 0])) == 18  # each has noise of its own


def test_without_a_value_function_the_first_candidate_is_the_chosen_one():
    found = sample_candidates(planner(Stub(shrink)), OBSERVATIONS)
    assert found.values is None
    assert found.best.tolist() == [0, 0, 0]


def test_candidates_are_sampled_on_the_planners_device(monkeypatch):
    # The stand-in for a device has no random generator of its own.
    monkeypatch.setattr(torch, "Generator", lambda device, make=torch.Generator: make())
    pipeline = planner(move(denoiser()), move(value_network()), normalization=UNITS)
    with fake_device():
        found = sample_candidates(pipeline, OBSERVATIONS, num_inference_steps=2, n_guide_steps=1)
        assert to_raw(pipeline, found.chosen).shape == (3, H, T)
    assert found.values.shape == (3, 3)
