"""Figures: they show all they were given, where it belongs."""

import numpy as np
import pytest

from vgp_lightning.report.figures import (
    figure_to_image,
    plot_bars,
    plot_calibration,
    plot_episode,
    plot_plans,
    plot_returns,
)


def panels(figure):
    return [axes for axes in figure.axes if axes.axison]


def test_plans_are_drawn_over_windows_dimension_by_dimension():
    plans, windows = np.random.default_rng(0).normal(size=(3, 16, 4)), np.zeros((5, 20, 4))
    figure = plot_plans(plans, windows, ["push", "pull", "x", "y"], "Plans")
    assert [axes.get_ylabel() for axes in panels(figure)] == ["push", "pull", "x", "y"]
    for i, axes in enumerate(panels(figure)):
        assert len(axes.lines) == 8
        np.testing.assert_array_equal([line.get_ydata() for line in axes.lines[5:]], plans[:, :, i])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dataset", "plans"]


def test_a_picture_with_too_many_dimensions_says_that_it_leaves_some_out():
    names = [f"d{i}" for i in range(14)]
    figure = plot_plans(np.zeros((2, 8, 14)), np.zeros((2, 8, 14)), names, "Plans")
    assert [axes.get_ylabel() for axes in panels(figure)] == names[:8]
    assert figure.get_suptitle() == "Plans (8 of 14 dimensions)"


def test_plans_that_do_not_fit_their_names_are_refused():
    with pytest.raises(ValueError, match=r"plans have shape \(2, 8, 3\): \(K, H, 4\)"):
        plot_plans(np.zeros((2, 8, 3)), np.zeros((2, 8, 4)), list("abcd"), "")
    with pytest.raises(ValueError, match=r"dataset have shape \(8, 4\)"):
        plot_plans(np.zeros((2, 8, 4)), np.zeros((8, 4)), list("abcd"), "")


def test_an_episode_is_drawn_actions_first():
    actions, observations = np.arange(6.0).reshape(3, 2), 10 + np.arange(3.0).reshape(3, 1)
    figure = plot_episode(actions, observations, "Seed 0")
    assert [axes.get_ylabel() for axes in panels(figure)] == ["action 0", "action 1", "observation 0"]
    assert [axes.lines[0].get_ydata().tolist() for axes in panels(figure)] == [[0, 2, 4], [1, 3, 5], [10, 11, 12]]


def test_returns_are_drawn_with_every_dot_the_mean_and_the_interval():
    returns = {"unguided": [1.0, 2.0, 6.0], "guided": [5.0, 7.0]}
    figure = plot_returns(returns, {"unguided": [2.5, 3.5], "guided": None})
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["unguided", "guided"]
    for dots, values in zip(axes.collections, returns.values(), strict=True):
        assert dots.get_offsets()[:, 1].tolist() == values
    # The bar and the mean of the first group, the mean alone of the second.
    assert [np.ravel(line.get_ydata()).tolist() for line in axes.lines] == [[2.5, 3.5], [3.0], [6.0]]


def test_a_group_without_returns_or_interval_is_refused():
    with pytest.raises(ValueError, match="guided"):
        plot_returns({"guided": [1.0]}, {})
    with pytest.raises(ValueError, match="guided"):
        plot_returns({"guided": []}, {"guided": None})


def test_a_figure_becomes_pixels_of_its_size():
    image = figure_to_image(plot_returns({"a": [1.0, 2.0]}, {"a": [1.2, 1.8]}))
    assert image.dtype == np.uint8
    assert image.shape == (400, 500, 3)
    assert (image == 255).mean() > 0.5  # white paper,
    assert image.min() < 100  # and ink on it


# ---------------------------------------------------------------- calibration and bars


def dots(axes):
    return {c.get_label(): c.get_offsets() for c in axes.collections}


def test_a_calibration_shows_each_prediction_the_line_and_the_curve():
    predicted, realised = np.arange(6.0), np.array([1.0, 0, 2, 4, 3, 9])
    complete = np.array([True, True, False, True, False, True])
    (axes,) = plot_calibration(predicted, realised, [[1, 1], [4, 5]], "On the line", complete).axes
    found = dots(axes)
    np.testing.assert_array_equal(found["complete"], np.stack([predicted, realised], axis=1)[complete])
    np.testing.assert_array_equal(found["truncated by the time limit"], [[2, 2], [4, 3]])
    line, curve = axes.lines
    assert line.get_xydata().tolist() == [[0, 0], [9, 9]]
    assert curve.get_xydata().tolist() == [[1, 1], [4, 5]]


def test_of_many_predictions_a_spread_share_is_drawn():
    values = np.arange(10001.0)
    (axes,) = plot_calibration(values, values, [[0, 0]], "").axes
    shown = dots(axes)["windows"][:, 0]
    assert (len(shown), shown[0], shown[-1]) == (2000, 0, 10000)


def test_bars_have_their_heights_and_where_there_is_no_number_there_is_no_bar():
    (axes,) = plot_bars({"a": [1.0, None], "b": [-0.5, 2.0]}, ["0", "5"], "height", "", line=1).axes
    heights = [bar.get_height() for bar in axes.patches]
    assert heights[0] == 1
    assert np.isnan(heights[1])
    assert heights[2:] == [-0.5, 2]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "5"]
    with pytest.raises(ValueError, match=r"2 labels, but there are bars \{'b': 1\}"):
        plot_bars({"a": [1, 2], "b": [1]}, ["0", "5"], "", "")
