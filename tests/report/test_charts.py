"""Charts: numbers are where they belong, in a drawing that screen readers can read."""

import re
import xml.etree.ElementTree as ET

import pytest

from vgp_lightning.report.charts import WIDTH, Curve, Row, curves_of, draw_bars, draw_curves, draw_rows


def circles(chart, kind):
    return [one for one in ET.fromstring(chart).iter("circle") if kind in one.get("class")]


def inside(chart):
    root = ET.fromstring(chart)
    width, height = map(float, root.get("viewBox").split()[2:])
    for one in root.iter():
        for name, most in (("cx", width), ("x", width), ("x1", width), ("x2", width), ("cy", height), ("y", height)):
            assert 0 <= float(one.get(name, 0)) <= most, (one.tag, name)
    return root


def test_rows_have_a_dot_for_each_value_in_proportion_and_the_mean_with_its_interval():
    chart = draw_rows([Row("a", [0.0, 5.0, 10.0], 5.0, [2.5, 7.5], ["x", "y", "z"])], "return", "Returns of a.")
    root = inside(chart)
    low, middle, high = (float(one.get("cx")) for one in circles(chart, "blue"))
    assert middle - low == pytest.approx(high - middle, abs=0.2)
    assert float(circles(chart, "orange")[0].get("cx")) == middle
    line = next(one for one in root.iter("line") if "orange" in one.get("class"))
    assert float(line.get("x2")) - float(line.get("x1")) == pytest.approx((high - low) / 2, abs=0.2)
    assert [one.find("title").text for one in circles(chart, "blue")] == ["x", "y", "z"]
    assert (root.get("role"), root.get("aria-label")) == ("img", "Returns of a.")


def test_the_line_of_a_reference_is_beside_each_rows_values_and_not_through_its_name():
    root = ET.fromstring(draw_rows([Row(name, [0.0, 5.0], 2.5, [1, 4]) for name in "ab"], "return", "what", 0.0))
    dashed = [(float(one.get("y1")), float(one.get("y2"))) for one in root.iter("line") if "dashed" in one.get("class")]
    names = [float(one.get("y")) for one in root.iter("text") if one.findtext("title") in ("a", "b")]
    assert len(names) == len(dashed) == 2
    for name, (first, last) in zip(names, dashed, strict=True):
        assert name < first < last
    assert dashed[0][1] < names[1]


def test_long_names_keep_the_ends_in_which_they_differ():
    names = [f"front left ankle angular velocity of leg {i}" for i in range(3)]
    root = inside(draw_bars([(name, 1.0) for name in names], "error", "what"))
    shown = [one.text for one in root.iter("text") if one.find("title") is not None]
    assert len(set(shown)) == 3
    for name, text in zip(names, shown, strict=True):
        begin, end = text.split("…")
        assert name.startswith(begin)
        assert name.endswith(end)


def test_an_interval_that_is_narrower_than_the_dot_of_the_mean_is_seen_by_its_ends():
    root = ET.fromstring(draw_rows([Row("a", [0.0, 1000.0], 500.0, [499, 501])], "return", "what"))
    ends = [one for one in root.iter("line") if "orange" in one.get("class") and one.get("x1") == one.get("x2")]
    dot = next(one for one in root.iter("circle") if "orange" in one.get("class"))
    assert len(ends) == 2
    for end in ends:
        assert float(end.get("y2")) - float(end.get("y1")) > 2 * float(dot.get("r"))


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0], [0.0], [-1e6, 1e6], [1e-9, 2e-9]])
def test_any_numbers_can_be_drawn(values):
    inside(draw_rows([Row("a", values, values[0], None)], "return", "what", reference=0.0))
    inside(draw_bars([("a", value) for value in values], "return", "what", reference=1.0))
    inside(draw_curves([Curve("a", list(enumerate(values)), "blue", dots=True)], ("x", "y"), "what"))


def test_bars_begin_at_zero_and_lack_where_there_is_no_number():
    root = inside(draw_bars([("up", 2.0), ("gap", None), ("down", -1.0)], "axis", "what"))
    up, down = root.iter("rect")
    assert float(up.get("x")) == pytest.approx(float(down.get("x")) + float(down.get("width")), abs=0.2)
    assert float(up.get("width")) == pytest.approx(2 * float(down.get("width")), abs=0.3)
    assert "none" in {one.text for one in root.iter("text")}


def test_a_curve_is_interrupted_where_it_has_no_number():
    root = inside(draw_curves(curves_of({"reference": [1.0] * 4, "plan": [0.0, None, 2.0, 3.0]}), ("x", "y"), "what"))
    lines = [one.get("points").split() for one in root.iter("polyline")]
    assert [len(line) for line in lines] == [4, 1, 2]


def test_charts_take_their_colours_from_the_page():
    chart = draw_rows([Row("a", [1.0, 2.0], 1.5, None)], "return", "what")
    assert not re.search(r"#[0-9a-f]{3}|rgb\(|style=", chart)
    assert WIDTH <= 390  # a phone shows its text in full size
