"""Denoising: every candidate is drawn, where it belongs."""

import numpy as np

from vgp_lightning.agent.mazes import Maze
from vgp_lightning.diagnostics.denoising import plot_denoising, plot_paths


def test_denoising_has_a_column_for_each_level_and_a_row_for_each_dimension():
    history = np.random.default_rng(0).normal(size=(3, 4, 8, 2))
    figure = plot_denoising(history, 1, ["noisy", "less", "clean"], ["push", "x"], "Out of the noise")
    panels = np.array(figure.axes).reshape(2, 3)
    assert [axes.get_title() for axes in panels[0]] == ["noisy", "less", "clean"]
    assert [axes.get_ylabel() for axes in panels[:, 0]] == ["push", "x"]
    for (i, j), axes in np.ndenumerate(panels):
        *candidates, chosen = [line.get_ydata() for line in axes.lines]
        np.testing.assert_array_equal(candidates, history[j, :, :, i])
        np.testing.assert_array_equal(chosen, history[j, 1, :, i])


def test_every_candidate_is_drawn_the_chosen_one_over_them_from_the_dot_to_the_star():
    maze = Maze(np.array([[0.0, 0.0], [2.0, 4.0]]), 1.0, slice(0, 2), slice(2, 4))
    paths = np.random.default_rng(0).uniform(size=(2, 3, 5, 2))
    goals = np.array([[1.0, 2.0], [3.0, 4.0]])
    figure = plot_paths(paths, goals, [2, 0], maze, "Plans", ["first", "second"])
    assert [axes.get_title() for axes in figure.axes] == ["first", "second"]
    for axes, candidates, goal, best in zip(figure.axes, paths, goals, (2, 0), strict=True):
        *lines, chosen, start, star = [line.get_xydata() for line in axes.lines]
        np.testing.assert_array_equal(lines, candidates)
        np.testing.assert_array_equal(chosen, candidates[best])
        assert (start.tolist(), star.tolist()) == ([candidates[best, 0].tolist()], [goal.tolist()])
        assert len(axes.patches) == 2
        assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 2.5), (-0.5, 4.5))


def test_panels_without_names_stand_three_in_a_row():
    maze = Maze(np.zeros((1, 2)), 1.0, slice(0, 2), slice(2, 4))
    figure = plot_paths(np.zeros((4, 1, 2, 2)), np.zeros((4, 2)), [0] * 4, maze, "Plans")
    assert len(figure.axes) == 6
    assert sum(len(axes.lines) > 0 for axes in figure.axes) == 4
