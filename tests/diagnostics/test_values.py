"""Values: returns worked out by hand, and values whose ranking is known."""

from types import SimpleNamespace

import numpy as np
import pytest
from fake_device import fake_device, move
from fakes import UNITS, A, H, O, Stub, denoiser, planner, recording, value_network

from vgp_lightning.diagnostics.findings import Findings
from vgp_lightning.diagnostics.values import examine_values, rank_executed, realise

# ---------------------------------------------------------------- returns and ranking


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


# ---------------------------------------------------------------- findings


def test_a_perfect_value_is_on_the_line_with_the_penalty_of_the_end():
    # Returns with discount 0.5 and penalty -10: from the end -6, -1, 0.5. The other, which is cut: 3, 4, 4.
    ended = recording(np.zeros((4, 1)), [1, 2, 4], np.zeros((3, 2, 2)), [0, 1, 2], terminated=True)
    cut = recording(np.zeros((4, 1)), [1, 2, 4], np.zeros((3, 2, 2)), [0, 1, 2])
    ended.values[:], cut.values[:] = [0.5, -1, -6], [3, 4, 4]
    pipeline = SimpleNamespace(
        task={"discount": 0.5, "termination_penalty": -10.0}, value_function=object(), action_dim=1
    )
    findings = Findings()
    examine_values(findings, pipeline, [ended, cut], 9)  # of windows that no episode fills
    found = findings.numbers["calibration"]
    for part, count in (("all", 6), ("complete", 3)):
        assert found[part]["count"] == count
        assert [found[part][name] for name in ("spearman", "pearson", "slope")] == pytest.approx([1, 1, 1])
        assert found[part]["bias"] == 0
    assert (found["episodes"], found["discount"], found["termination_penalty"]) == (2, 0.5, -10)
    curve = findings.figures["calibration"].axes[0].lines[-1].get_xydata().tolist()
    assert curve == [[-6, -6], [-1, -1], [0.5, 0.5]]  # of the complete ones


def test_returns_that_are_all_truncated_are_said_to_be():
    cut = recording(np.zeros((3, 1)), [1, 2], np.zeros((2, 2, 2)), [0, 1])
    pipeline = SimpleNamespace(task={"discount": 0.9}, value_function=object(), action_dim=1)
    findings = Findings()
    examine_values(findings, pipeline, [cut], 9)
    assert findings.numbers["calibration"]["complete"] is None
    assert "all truncated" in findings.figures["calibration"].axes[0].get_title()


# ---------------------------------------------------------------- on a device


def test_windows_are_ranked_on_the_planners_device():
    episodes = list(walks())
    pipeline = planner(move(denoiser()), move(value_network()), normalization=UNITS)
    with fake_device():
        found = rank_executed(pipeline, episodes, [realise(episode, 0.9, 0.0) for episode in episodes], H)
    assert [entry["level"] for entry in found] == [0, 5, 10, 14, 19]
