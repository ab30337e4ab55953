"""Plans: distances by hand, and environments in which it is known where actions lead."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from fakes import HORIZON, Track, recorded, recording

from vgp_lightning.agent.environments import make_environments
from vgp_lightning.diagnostics.findings import Findings
from vgp_lightning.diagnostics.plans import (
    check_dynamics,
    choose_plans,
    column_means,
    distances,
    examine_plans,
    execute_plans,
    follow_plans,
    foretold,
    plot_curves,
    replay,
    step_errors,
)

# An action that counts as it is, x in units of 2, y in units of 4.
UNITS = {"scale": [1.0, 2.0, 4.0]}


@pytest.fixture
def replays(track):
    environments = make_environments("Track-v0", 1)
    yield environments
    environments.close()


def test_the_chosen_plans_are_spread_evenly_over_each_episode(track):
    recordings = recorded([7, 8])  # of 6 plans each
    assert choose_plans(recordings, 3) == [(one, number) for one in recordings for number in (0, 2, 4)]
    assert [number for _, number in choose_plans(recordings[:1], 9)] == [0, 1, 2, 3, 4, 5]


def test_plans_are_held_against_where_their_actions_lead_in_normalised_units(replays):
    recordings = recorded([7])  # 0.3 a step in x; its plans know that
    recordings[0].plans[:, 1:, 2] += 0.8  # but expect y to change
    findings = Findings()
    pipeline = SimpleNamespace(action_dim=1, normalization=UNITS, task={})
    examine_plans(findings, pipeline, recordings, replays, [(recordings[0], 0), (recordings[0], 2)])
    wrong, move = 0.8 / 4 / np.sqrt(2), 0.3 / 2 / np.sqrt(2)
    own, horizon = findings.numbers["own_actions"], findings.numbers["horizon"]
    for errors, movement in ((own["distance"], own["movement"]), (horizon["replanned"], horizon["movement"])):
        np.testing.assert_allclose(errors, [0, wrong, wrong, wrong], atol=1e-6)
        np.testing.assert_allclose(movement, [0, move, 2 * move, 3 * move], atol=1e-6)
    assert own["foretold"] == horizon["foretold"] == pytest.approx(2 / 3)  # 0.2 is above 0.15 and below 0.3
    assert own["starts"] == 2


# ---------------------------------------------------------------- plans and visited observations

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


def test_curves_are_drawn_over_the_horizon_and_break_where_nothing_is_known():
    (axes,) = plot_curves({"movement": [0, 1, 2], "plan": [0.0, 0.5, None]}, "distance", "").axes
    np.testing.assert_array_equal([line.get_ydata() for line in axes.lines], [[0, 1, 2], [0, 0.5, np.nan]])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["movement", "plan"]


# ---------------------------------------------------------------- replays


@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_replay_goes_the_recorded_way_and_then_its_own(track, step):
    (recording,) = recorded([7])
    environment = make_environments("Track-v0", 1)
    again = replay(environment, recording, step, recording.actions[step:])
    np.testing.assert_array_equal(again, recording.observations[step:])
    other = replay(environment, recording, step, np.full((3, 1), -0.25))
    environment.close()
    left = min(3, 6 - step)  # the time limit ends it
    np.testing.assert_allclose(other[:, 0], recording.observations[step, 0] - 0.25 * np.arange(left + 1))


def test_a_replay_of_an_environment_with_chance_of_its_own_is_none(track, monkeypatch):
    monkeypatch.setattr(track, "slip", np.random.default_rng(0))
    (recording,) = recorded([7])
    environment = make_environments("Track-v0", 1)
    assert replay(environment, recording, 0, recording.actions[:1]) is not None  # the start itself is the seed's
    assert replay(environment, recording, 2, recording.actions[:1]) is None
    environment.close()


def test_a_replay_must_have_come_to_where_the_other_actions_begin(track):
    (recording,) = recorded([7])
    recording.observations[2] += 1
    environment = make_environments("Track-v0", 1)
    assert replay(environment, recording, 1, recording.actions[:3]) is not None
    assert replay(environment, recording, 2, recording.actions[:3]) is None
    environment.close()


def test_a_replay_that_ends_before_its_step_is_none(track, monkeypatch):
    (recording,) = recorded([7])
    gymnasium.register("Short-v0", entry_point=Track, max_episode_steps=2)
    environment = make_environments("Short-v0", 1)
    assert replay(environment, recording, 3, recording.actions[:1]) is None
    environment.close()
    del gymnasium.registry["Short-v0"]
