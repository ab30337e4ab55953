"""Successive halving: its rungs, who goes on, and its picture."""

import pytest

from vgp_lightning.tuning.halving import Configuration, drop_worst, plan_rungs, plot_halving, rank


@pytest.mark.parametrize(
    ("configurations", "episodes", "rungs"),
    [
        (27, 300, [(27, 3), (9, 12), (3, 37)]),
        (9, 60, [(9, 3), (3, 11)]),
        (27, 39, [(27, 1), (9, 1), (3, 1)]),
        (10, 100, [(10, 3), (4, 8), (2, 19)]),
        (2, 9, [(2, 4)]),
        (1, 5, []),
    ],
)
def test_rungs_share_the_episodes_that_are_left(configurations, episodes, rungs):
    assert plan_rungs(configurations, episodes) == rungs


def test_no_budget_is_ever_exceeded_and_later_rungs_play_no_fewer():
    for configurations in range(2, 60):
        least = sum(size for size, _ in plan_rungs(configurations, 10**6))
        for episodes in range(least, least + 200):
            rungs = plan_rungs(configurations, episodes)
            assert sum(size * each for size, each in rungs) <= episodes
            each = [each for _, each in rungs]
            assert each == sorted(each)
            assert each[0] >= 1
        with pytest.raises(ValueError, match=f"episodes is {least - 1}: .* needs at least {least}, one for each"):
            plan_rungs(configurations, least - 1)


def test_a_third_goes_on_by_the_mean_over_all_seeds_and_of_equals_the_earlier():
    configurations = [
        Configuration({}, returns=returns) for returns in ([[1.0]], [[2.0, 0.0], [6.0]], [[1.0]], [[0.0]], [[1.0]])
    ]
    ranked = rank(configurations)
    assert [configurations.index(one) for one in ranked] == [1, 0, 2, 4, 3]
    assert ranked[0].means == [1, pytest.approx(8 / 3)]
    assert drop_worst(ranked, 4) == ranked[:2]
    assert [one.dropped for one in ranked] == [None, None, "rung 4", "rung 4", "rung 4"]


def test_a_search_is_drawn_as_lines_that_end_where_each_was_left_behind():
    means = [[5.0], [1.0, 3.0], [2.0], []]
    (axes,) = plot_halving(means, [3, 15], winner=1, default=0, title="Search").axes
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert len(axes.lines) == 4
    assert (lines["default"], lines["winner"], lines["others"]) == (([3], [5]), ([3, 15], [1, 3]), ([3], [2]))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["3", "15"]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(legend) == ["default", "others", "winner"]


def test_a_search_that_the_defaults_won_has_one_line_for_both():
    (axes,) = plot_halving([[5.0, 6.0], [1.0]], [3, 15], winner=0, default=0, title="Search").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["others", "winner, the default"]


def test_more_means_than_rungs_are_refused():
    with pytest.raises(ValueError, match="a configuration has 2 means, but there are 1 rungs"):
        plot_halving([[1.0, 2.0]], [3], winner=0, default=0, title="")
