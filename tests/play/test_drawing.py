"""Drawings: what lies where in the pictures."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from vgp_lightning.agent.mazes import Maze
from vgp_lightning.play.drawing import draw_maze, draw_steps, draw_values, locate

# A ring of eight walls, each 2 wide, around the free cell in the middle; positions 0 and 1, goal 2 and 3.
RING = Maze(
    np.array([[x, y] for x in (-2, 0, 2) for y in (-2, 0, 2) if x or y], dtype=float), 2.0, slice(0, 2), slice(2, 4)
)
STRAIGHT = np.array([[0.0, 0.0], [0.5, 0.5]])


def pictures(markup):
    """Return the pictures, which have to be sound XML, each as its elements with their classes."""
    return [
        [(element.get("class") or "", element) for element in svg.iter()]
        for svg in ElementTree.fromstring(f"<div>{markup}</div>")
    ]


def points(element):
    return np.array([[float(number) for number in pair.split(",")] for pair in element.get("points").split()])


def of_class(picture, kind):
    return [element for kinds, element in picture if kinds == kind]


def test_a_maze_has_its_walls_paths_and_goal_where_a_click_there_is_located():
    (picture,) = pictures(draw_maze(RING, STRAIGHT, STRAIGHT + 0.1, np.stack([STRAIGHT] * 3), (-0.5, 0.25)))
    assert len(of_class(picture, "wall")) == 8
    assert len(of_class(picture, "many")) == 3
    assert picture[0][1].get("viewBox") == "0 0 400 400.0"
    star = points(of_class(picture, "goal")[0])[::2].mean(axis=0)  # its five tips
    assert locate(RING, *(star / 400)) == pytest.approx((-0.5, 0.25), abs=0.01)
    for kind, line in (("past", STRAIGHT), ("plan", STRAIGHT + 0.1)):
        found = points(of_class(picture, kind)[0])
        np.testing.assert_allclose([locate(RING, *(place / 400)) for place in found], line, atol=0.01)
    assert locate(RING, 0, 0) == (-3, 3)
    assert locate(RING, 1, 1) == (3, -3)


def test_the_past_ends_and_the_plan_begins_at_the_present_step():
    past = np.column_stack([np.arange(7.0), np.full(7, np.nan)])  # the present is step 6
    plan = np.array([[6.0, 1], [7, 2], [8, 3], [9, 4]])
    drawn = pictures(draw_steps(["one", "a < b"], past, plan, np.stack([plan, plan + 1]), 6, (4, plan - 2)))
    assert len(drawn) == 2
    first, second = drawn
    mark = float(of_class(first, "mark")[0].get("x1"))
    before, after = points(of_class(first, "past")[0]), points(of_class(first, "plan")[0])
    assert before[-1, 0] == after[0, 0] == mark
    assert len(before) == 5  # as many steps as the plan has, and the present
    np.testing.assert_allclose(before[-1], after[0])  # both are at 6 there
    assert len(of_class(first, "many")) == 2
    assert points(of_class(first, "plan earlier")[0])[0, 0] < mark
    assert of_class(second, "past") == []  # nothing of it is known
    assert of_class(second, "title")[0].text == "a < b"


def test_lines_stay_inside_their_panel_whatever_their_numbers_are():
    for numbers in ([0.0, 0, 0], [1e-9, 2e-9, 3e-9], [-1e6, 0, 1e6], [5.0, 5, 5]):
        line = np.array(numbers)[:, None]
        (picture,) = pictures(draw_steps(["x"], line[:1], line, line[None], 0, None))
        for element in (each for kinds, each in picture if each.get("points")):
            x, y = points(element).T
            assert ((x >= 40) & (x <= 320) & (y >= 18) & (y <= 114)).all()
        labels = [each.text for _, each in picture if each.get("text-anchor") == "end"]
        assert len(labels) == len(set(labels)) >= 1


def test_values_are_those_of_the_candidates_and_without_them_there_is_the_return_alone():
    values = [np.array([3.0, 1.0]), np.array([4.0, 2.0, 0.0])]
    candidates, history, summed = pictures(draw_values(values, [3.0, 4.0], [0, 2], [1.0, 1.0, 0.5]))
    assert len(of_class(candidates, "many dots")) == 3
    low, high = (points(line) for line in of_class(history, "many"))
    assert (low[:, 1] > high[:, 1]).all()
    np.testing.assert_allclose(points(of_class(history, "plan")[0]), high)  # the best was chosen both times
    assert len(points(of_class(summed, "past")[0])) == 4
    (alone,) = pictures(draw_values([np.array([np.nan])], [np.nan], [0], [1.0]))
    assert re.sub(r"\s+", " ", of_class(alone, "title")[0].text) == "return so far"
