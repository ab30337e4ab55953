"""Measures of a planner: by hand, and on planners and environments whose answers are known."""

import numpy as np
import pytest
import torch
from fakes import HORIZON, UNITS, A, H, O, Stub, T, Track, planner, recorded, recording

from vgp_lightning.agent.environments import make_environments
from vgp_lightning.diagnostics.measures import (
    Sampled,
    check_dynamics,
    column_means,
    compare_guidance,
    distances,
    execute_plans,
    follow_plans,
    foretold,
    rank_executed,
    realise,
    sample,
    step_errors,
)

# ---------------------------------------------------------------- values


def test_what_came_true_has_the_penalty_of_the_end_and_is_complete():
    # From the last step: 4 - 10 = -6;  2 + 0.5 * -6 = -1;  1 + 0.5 * -1 = 0.5
    found = realise(recording(np.zeros((4, 1)), [1, 2, 4], terminated=True), 0.5, -10)
    assert found.returns.tolist() == [0.5, -1, -6]
    assert found.complete.tolist() == [True] * 3


def test_what_the_time_limit_cut_is_complete_where_the_rest_hardly_counts():
    # 0.5 ** 4 is below a tenth, 0.5 ** 3 is not.
    found = realise(recording(np.zeros((6, 1)), [1, 0, 0, 0, 0], terminated=False), 0.5, -10)
    assert found.returns.tolist() == [1, 0, 0, 0, 0]
    assert found.complete.tolist() == [True, True, False, False, False]


def walks(count=3, length=30):
    """Episodes whose returns, of discount 0, are their rewards, which stand in the first observation dimension."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        rewards = rng.normal(size=length)
        observations = rng.normal(size=(length + 1, O))
        observations[:-1, 0] = rewards
        yield recording(observations, rewards, actions=rng.normal(size=(length, A)))


def ranked(answer, episodes):
    episodes = list(episodes)
    pipeline = planner(value_function=Stub(answer), normalization=UNITS)
    return rank_executed(pipeline, episodes, [realise(episode, 0.0, 0.0) for episode in episodes], H)


def test_a_value_that_reads_the_return_where_it_stands_ranks_perfectly_at_every_level():
    found = ranked(lambda x, t: x[:, A, :1], walks())  # the present observation, which is never noised
    assert [entry["level"] for entry in found] == [0, 5, 10, 14, 19]
    assert [entry["all"] for entry in found] == pytest.approx([1] * 5)
    assert {entry["windows"] for entry in found} == {3 * (30 - H + 1)}


def test_a_value_that_reads_what_is_noised_ranks_worse_with_the_noise_and_the_same_each_time():
    def episodes():
        for episode in walks():
            episode.actions[:, 0] = episode.rewards
            yield episode

    found, again = (ranked(lambda x, t: x[:, 0, :1], episodes()) for _ in range(2))
    assert found == again
    ranks = [entry["all"] for entry in found]
    assert ranks[0] == pytest.approx(1)  # clean, as candidates are
    assert 1 > ranks[1] > ranks[2]
    assert abs(ranks[-1]) < 0.3


def test_returns_that_were_seen_to_the_end_are_ranked_by_themselves():
    # 0.9 ** 22 is below a tenth, 0.9 ** 21 is not: of 30 steps the first nine are complete.
    (episode,) = walks(count=1)
    truth = realise(episode, 0.9, 0.0)
    episode.observations[:9, 0], episode.observations[9:30, 0] = truth.returns[:9], -truth.returns[9:]
    pipeline = planner(value_function=Stub(lambda x, t: x[:, A, :1]), normalization=UNITS)
    for entry in rank_executed(pipeline, [episode], [truth], H):
        assert (entry["windows"], entry["complete_windows"]) == (30 - H + 1, 9)
        assert entry["complete"] == pytest.approx(1)
        assert entry["all"] < 0.9


def test_episodes_that_are_shorter_than_a_window_rank_nothing():
    assert ranked(lambda x, t: x[:, A, :1], walks(length=H - 1)) is None


# ---------------------------------------------------------------- plans against what was visited

LINE = [[0.0, 7], [1, 7], [2, 7], [3, 7]]


def test_a_plan_that_comes_true_has_no_error_and_the_state_moves_by_hand():
    plans = [[[0, *row] for row in LINE[first : first + 2]] for first in (0, 1, 2)]
    found = follow_plans([recording(LINE, [0] * 3, plans, [0, 1, 2])], 1, np.array([2.0, 5]))
    assert found["replanned"] == [0, 0]
    # One step: (1 / 2)^2 of one dimension, 0 of the other.
    assert found["movement"] == pytest.approx([0, np.sqrt(0.25 / 2)])
    assert found["plans"] == [3, 3]


def test_plans_are_compared_as_far_as_the_episode_goes_and_no_further():
    plans = np.zeros((2, 4, 3))
    plans[0, :, 1:] = LINE
    plans[1, :, 1:] = [[1, 7], [2, 17], [3, 17], [9, 9]]  # made at step 1, wrong by 10 in y
    found = follow_plans([recording(LINE, [0] * 3, plans, [0, 1])], 1, np.array([2.0, 5]))
    wrong = np.sqrt((10 / 5) ** 2 / 2)
    assert found["replanned"] == pytest.approx([0, wrong / 2, wrong / 2, 0])
    assert found["plans"] == [2, 2, 2, 1]


def test_where_nothing_is_known_there_is_none():
    assert column_means(np.array([[1, np.nan, np.nan], [3, 5, np.nan]])) == [2, 5, None]


def test_foretold_is_the_share_of_later_steps_that_beat_standing_still():
    assert foretold([0, 1, 1, 1, None], [0, 2, 2, 0.5, None]) == pytest.approx(2 / 3)
    assert foretold([0.0], [0.0]) is None


def test_to_expect_no_change_is_an_error_of_one_and_the_truth_of_zero():
    rng = np.random.default_rng(0)
    before = rng.normal(size=(50, 3))
    after = before + rng.normal(size=(50, 3)) * [1, 10, 0]
    unmoved = step_errors(before, before, after)
    assert unmoved["dimensions"] == [1, 1, None]
    assert (unmoved["mean"], unmoved["plans"]) == (1, 50)
    assert step_errors(before, after, after) == {"dimensions": [0, 0, None], "mean": 0, "plans": 50}
    assert step_errors(before, before, before)["mean"] is None


def test_plans_that_know_the_environment_obey_its_dynamics_and_others_do_not(track):
    known = recorded([7, 8])
    found = check_dynamics(known, 1)
    assert found["dimensions"] == [pytest.approx(0, abs=1e-6), None]  # y never changes
    for episode in known:
        episode.plans[:, 1, 1] += 0.3  # plans that expect twice the step
    assert check_dynamics(known, 1)["dimensions"][0] == pytest.approx(1, rel=1e-5)


def test_a_plans_own_actions_lead_where_the_environment_says(track):
    (episode,) = recorded([7])
    environment = make_environments("Track-v0", 1)
    actions = np.array([[[0.1], [0.2], [0.3], [9]], [[-0.1], [0.0], [0.0], [9]]])  # the last one is not executed
    found = execute_plans(environment, [(episode, 1), (episode, 5)], actions)
    assert found.shape == (2, HORIZON, 2)
    x = episode.observations[:, 0]
    np.testing.assert_allclose(found[0, :, 0], x[1] + np.array([0, 0.1, 0.3, 0.6]), rtol=1e-6)
    np.testing.assert_allclose(found[1, :, 0], [x[5], x[5] - 0.1, np.nan, np.nan], rtol=1e-6)  # the time limit
    environment.close()


def test_without_repetition_there_are_no_own_actions(track, monkeypatch):
    monkeypatch.setattr(Track, "slip", np.random.default_rng(0))
    (episode,) = recorded([7])
    environment = make_environments("Track-v0", 1)
    assert execute_plans(environment, [(episode, 0), (episode, 3)], np.zeros((2, HORIZON, 1))) is None
    environment.close()


def test_distances_count_in_units_of_the_scale():
    found = distances(np.array([[1.0, 2.0]]), np.array([[4.0, 2.0]]), np.array([3.0, 0.1]))
    np.testing.assert_allclose(found, [np.sqrt(1 / 2)])


# ---------------------------------------------------------------- sampling

OBSERVATIONS = np.random.default_rng(1).normal(size=(3, O)).astype(np.float32)


def linear(trajectories, timesteps):
    """The sum of the first action: its gradient is 1 there and 0 elsewhere."""
    return trajectories[:, 0].sum(dim=1, keepdim=True)


def shrink(trajectories, timesteps):
    return 0.5 * trajectories


def test_all_candidates_are_those_of_the_pipeline_in_the_order_of_their_draw():
    pipeline = planner(Stub(shrink), Stub(linear), normalization=UNITS, sampler="ddim", n_guide_steps=0)
    found = sample(pipeline, OBSERVATIONS, batch_size=5)
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


def test_more_observations_than_a_batch_holds_are_planned_from_all_the_same():
    pipeline = planner(Stub(shrink), Stub(linear), sampler="ddim", n_guide_steps=0, num_inference_steps=2)
    many = np.repeat(OBSERVATIONS, 7, axis=0)
    found = sample(pipeline, many)
    assert found.trajectories.shape[0] == found.values.shape[0] == 21
    np.testing.assert_allclose(found.trajectories[:3], sample(pipeline, many[:3]).trajectories, rtol=1e-5)
    alike = sample(pipeline, np.repeat(OBSERVATIONS[:1], 18, axis=0)).trajectories
    assert len(np.unique(alike[:, 0, 0, 0])) == 18  # each has noise of its own


def test_without_a_value_function_the_first_candidate_is_the_chosen_one():
    found = sample(planner(Stub(shrink)), OBSERVATIONS)
    assert found.values is None
    assert found.best.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="no values"):
        compare_guidance(found, found)


def test_guidance_without_force_brings_nothing_and_moves_nothing():
    pipeline = planner(Stub(shrink), Stub(linear), sampler="ddim")
    unguided, idle = sample(pipeline, OBSERVATIONS, n_guide_steps=0), sample(pipeline, OBSERVATIONS, scale=0.0)
    found = compare_guidance(unguided, idle)
    assert (found["gain_mean"], found["gain_best"], found["moved"]) == (0, 0, 0)
    assert found["spread"] > 0
    assert found["apart"] > 0


def test_what_guidance_and_what_choosing_brings_by_hand():
    def sampled(values, trajectories):
        return Sampled(np.array(trajectories, np.float32), np.array(values, np.float32), np.zeros(0), [])

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
    found = compare_guidance(sample(pipeline, OBSERVATIONS, n_guide_steps=0), sample(pipeline, OBSERVATIONS))
    assert found["gain_mean"] == pytest.approx(H * moved, rel=1e-4)
    assert found["moved"] == pytest.approx(moved / np.sqrt(T), rel=1e-4)
    assert (found["observations"], found["candidates"]) == (3, 3)
