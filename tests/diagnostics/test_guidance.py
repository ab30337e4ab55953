"""Guidance: what it adds, by hand and on planners whose gradients are known."""

from types import SimpleNamespace

import numpy as np
import pytest
from fakes import H, O, Stub, T, planner, recorded

from vgp_lightning.agent.environments import make_environments
from vgp_lightning.diagnostics.candidates import Candidates, sample_candidates
from vgp_lightning.diagnostics.findings import Findings
from vgp_lightning.diagnostics.guidance import compare_guidance, examine_guidance, plot_gains
from vgp_lightning.pipeline.frame import Frame
from vgp_lightning.report.figures import figure_to_image

OBSERVATIONS = np.random.default_rng(1).normal(size=(3, O)).astype(np.float32)


def linear(trajectories, timesteps):
    """The sum of the first action: its gradient is 1 there and 0 elsewhere."""
    return trajectories[:, 0].sum(dim=1, keepdim=True)


def shrink(trajectories, timesteps):
    return 0.5 * trajectories


def test_guidance_without_force_brings_nothing_and_moves_nothing():
    pipeline = planner(Stub(shrink), Stub(linear), sampler="ddim")
    unguided, idle = (
        sample_candidates(pipeline, OBSERVATIONS, n_guide_steps=0),
        sample_candidates(pipeline, OBSERVATIONS, scale=0.0),
    )
    found = compare_guidance(unguided, idle)
    assert (found["gain_mean"], found["gain_best"], found["moved"]) == (0, 0, 0)
    assert found["spread"] > 0
    assert found["apart"] > 0


def test_what_guidance_and_what_choosing_brings_by_hand():
    def sampled(values, trajectories):
        known = np.array(values, np.float32)
        return Candidates(np.array(trajectories, np.float32), known, known, None, np.zeros(0), [])

    unguided = sampled([[1, 3], [5, 5]], [[[[0]], [[2]]], [[[1]], [[1]]]])  # one number each
    guided = sampled([[4, 4], [4, 8]], [[[[3]], [[2]]], [[[1]], [[0]]]])
    assert compare_guidance(unguided, guided) == {
        "observations": 2,
        "candidates": 2,
        "gain_mean": 1.5,  # 5 - 3.5
        "gain_best": 2,  # 4 - 3 and 8 - 5
        "selection_gain": 0.5,  # 3 - 2 and 5 - 5
        "spread": 0.5,  # 1 and 0
        "moved": 1,  # 3, 0, 0 and 1
        "apart": 1,  # 2 and 0
    }
    assert guided.best.tolist() == [0, 1]
    assert guided.chosen.ravel().tolist() == [3, 0]


def test_guidance_on_the_last_clean_plan_moves_it_by_hand():
    # One denoising step, whose clean plan is moved by 1 * 0.1 * (1 - alpha) along the first action: alpha is almost 0.
    options = {"sampler": "ddim", "num_inference_steps": 1, "guide_on": "clean", "n_guide_steps": 1, "scale": 0.1}
    pipeline = planner(Stub(shrink), Stub(linear), **options)
    moved = 0.1 * (1 - float(pipeline.scheduler.alphas_cumprod[-1]))
    found = compare_guidance(
        sample_candidates(pipeline, OBSERVATIONS, n_guide_steps=0), sample_candidates(pipeline, OBSERVATIONS)
    )
    assert found["gain_mean"] == pytest.approx(H * moved, rel=1e-4)
    assert found["moved"] == pytest.approx(moved / np.sqrt(T), rel=1e-4)
    assert (found["observations"], found["candidates"]) == (3, 3)


def test_candidates_without_values_cannot_be_compared():
    found = sample_candidates(planner(Stub(shrink)), OBSERVATIONS)
    with pytest.raises(ValueError, match="no values"):
        compare_guidance(found, found)


@pytest.fixture
def replays(track):
    environments = make_environments("Track-v0", 1)
    yield environments
    environments.close()


def test_each_sides_first_step_is_held_against_where_its_own_action_leads(replays):
    (episode,) = recorded([7])
    x, y = episode.observations[1]
    # Of two steps: an action of 1.5, of which 1 is executed; one expects that, the other no change.
    knows, idle = ([[[1.5, x / 2, y / 4], [0, (x + moved) / 2, y / 4]]] for moved in (1, 0))
    values = np.zeros((1, 1), np.float32)
    guided, unguided = (
        Candidates(np.array([plan], np.float32), values, values, None, np.zeros(0), []) for plan in (knows, idle)
    )
    findings = Findings()
    # An action that counts as it is, x in units of 2, y in units of 4.
    units = {"shift": [0.0] * 3, "scale": [1.0, 2.0, 4.0], "action_low": [-1.0], "action_high": [1.0]}
    normalization = {"action_dim": 1, "return_shift": 0.0, "return_scale": 1.0, **units}
    pipeline = SimpleNamespace(action_dim=1, frame=Frame.of(normalization, 3))
    examine_guidance(findings, pipeline, unguided, guided, replays, [(episode, 1)])
    guidance = findings.numbers["guidance"]
    assert guidance["one_step_guided"] == pytest.approx(0, abs=1e-6)
    assert guidance["one_step_unguided"] == pytest.approx(1, abs=1e-6)


def test_gains_count_all_candidates_and_the_best_of_each():
    unguided, guided = np.array([[0.0, -1, 1], [0, 2, -2]]), np.array([[1.0, 2, 3], [4, 5, 6]])
    figure = plot_gains(unguided, guided, "")
    means = [[line.get_xdata()[0] for line in axes.lines] for axes in figure.axes]
    assert means == [[0, 3.5], [1.5, 4.5]]
    for axes in figure.axes:
        assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(2)  # two shares of one


def test_gains_of_equal_candidates_are_drawn_too():
    figure_to_image(plot_gains(np.zeros((2, 3)), np.zeros((2, 3)), ""))
