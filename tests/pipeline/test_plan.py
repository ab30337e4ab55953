"""How one plan is made of the candidates: the best, or their weighted mean; by hand."""

import numpy as np
import pytest
import torch
from fakes import write_tiny

from vgp_lightning.pipeline.plan import choose, weigh
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

NAN, INF = float("nan"), float("inf")


def candidates(count, seed=0):
    """Return actions (2, K, 3, 1) and observations (2, K, 3, 2), whose first is the same for all candidates."""
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randn(2, count, 3, 1, generator=generator)
    observations = torch.randn(2, count, 3, 2, generator=generator)
    observations[:, :, 0] = observations[:, :1, 0] / 3
    return actions, observations


def test_at_temperature_0_the_best_is_taken_and_of_equal_ones_the_first():
    actions, observations = candidates(3)
    scores = torch.tensor([[1.0, 5.0, 5.0], [NAN, -2.0, -3.0]])
    values = torch.tensor([[7.0, 8.0, 9.0], [1.0, 2.0, 3.0]])
    plan = choose(actions, observations, values, scores, 0.0, keep_all=True)
    assert torch.equal(plan.actions, actions[:, 1])
    assert torch.equal(plan.observations, observations[:, 1])
    assert plan.values.tolist() == [8.0, 2.0]  # what is predicted, whatever ranks
    assert torch.equal(plan.candidates.actions[1], actions[1, [1, 2, 0]])
    alone = choose(actions, observations, values, scores, 0.0, keep_all=False)
    assert torch.equal(alone.actions, plan.actions)
    assert alone.candidates is None


def test_above_0_the_candidates_are_weighed_by_a_softmax_of_their_standard_scores():
    actions, observations = candidates(3)
    scores, values = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0]]), torch.tensor([[3.0, 6.0, 9.0], [1.0, 2.0, 3.0]])
    plan = choose(actions, observations, values, scores, 0.5, keep_all=False)
    standard = (np.array([1, 2, 6]) - 3) / np.std([1, 2, 6])
    weights = np.exp(standard / 0.5) / np.exp(standard / 0.5).sum()
    np.testing.assert_allclose(plan.actions[0], np.tensordot(weights, actions[0].numpy(), 1), rtol=1e-5)
    np.testing.assert_allclose(plan.values[0], weights @ [3, 6, 9], rtol=1e-5)
    assert torch.equal(plan.actions[1], actions[1, 0])  # nothing tells them apart: as without a choice


def test_what_all_candidates_agree_in_stays_to_the_last_bit():
    actions, observations = candidates(16)
    scores = torch.randn(2, 16)
    plan = choose(actions, observations, scores, scores, 1.0, keep_all=False)
    assert torch.equal(plan.observations[:, 0], observations[:, 0, 0])


def test_a_candidate_without_a_finite_score_has_no_weight_not_even_where_it_is_infinite_itself():
    actions, observations = candidates(3)
    actions[:, 0] = float("inf")
    scores = torch.tensor([[NAN, 1.0, 3.0], [-float("inf"), 1.0, 3.0]])
    plan = choose(actions, observations, scores, scores, 1.0, keep_all=False)
    weights = np.exp([-1, 1]) / np.exp([-1, 1]).sum()
    expected = np.einsum("k,nkha->nha", weights, actions[:, 1:].numpy())
    np.testing.assert_allclose(plan.actions, expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_without_any_finite_score_the_first_or_the_plain_mean_is_taken(temperature):
    actions, observations = candidates(4)
    scores = torch.full((2, 4), NAN)
    plan = choose(actions, observations, scores, scores, temperature, keep_all=False)
    expected = actions[:, 0] if temperature == 0 else actions.mean(1)
    np.testing.assert_allclose(plan.actions, expected, rtol=1e-5)
    assert plan.values.isnan().all()


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
    weights = weigh(torch.tensor([[1.0, NAN, 1.5], [NAN, NAN, NAN], [INF, 1.5, 1.0]]), 1.0)
    low, high = np.exp([-1, 1]) / np.exp([-1, 1]).sum()
    torch.testing.assert_close(weights, torch.tensor([[low, 0, high], [1 / 3] * 3, [0, high, low]]).float())


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1e6])
def test_where_scores_are_the_same_the_first_counts_alone_as_without_a_choice(temperature):
    weights = weigh(torch.tensor([[0.1, 0.1, 0.1], [NAN, 0.1, 0.1], [-3.0, NAN, NAN]]), temperature)
    assert weights.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_weights_do_not_depend_on_the_unit_of_the_scores():
    scores = torch.tensor([[0.1, 0.5, -0.3]])
    torch.testing.assert_close(weigh(1000 * scores + 7, 0.7), weigh(scores, 0.7))


def test_a_planner_mixes_its_candidates_by_value(tmp_path):
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(write_tiny(tmp_path / "planner", batch_size=4))

    def plan(**settings):
        return pipeline([0.5, -0.5], generator=torch.Generator().manual_seed(3), return_candidates=True, **settings)

    best, mixed = plan(), plan(choice_temperature=2.0)
    assert torch.equal(best.candidates.actions, mixed.candidates.actions)
    values = best.candidates.values[0].double()
    weights = torch.softmax((values - values.mean()) / values.std(correction=0) / 2, 0)
    expected = (weights[:, None, None] * best.candidates.actions[0]).sum(0)
    torch.testing.assert_close(mixed.actions[0].double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(mixed.observations[0, 0], torch.tensor([0.5, -0.5]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"choice_temperature": -1}, "choice_temperature is -1"),
        ({"choice_temperature": NAN}, "choice_temperature is nan"),
        ({"choice_temperature": float("inf")}, "choice_temperature is inf"),
        ({"rank_by": "luck"}, "rank_by 'luck' is unknown: choose from"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(tmp_path, settings, words):
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(write_tiny(tmp_path / "planner"))
    with pytest.raises(ValueError, match=words):
        pipeline([0.5, -0.5], **settings)
