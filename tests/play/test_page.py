"""The page's handlers, without Gradio: what they show, and that no error ends the server."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import Track, write_tiny

from vgp_lightning.agent.deployment import Deployment
from vgp_lightning.cli import main
from vgp_lightning.play.handlers import Handlers, changing, pause, reset, showing, take_step
from vgp_lightning.play.session import Session
from vgp_lightning.play.sliders import list_sliders
from vgp_lightning.play.visitors import Visit, Visitors

pytestmark = pytest.mark.usefixtures("track")
GRADIO = SimpleNamespace(
    Request=object, EventData=dict, skip=lambda: "as it was", update=lambda interactive: interactive
)
ANN = SimpleNamespace(session_hash="ann")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    return Deployment(str(write_tiny(tmp_path_factory.mktemp("tiny") / "planner", replan_every=2)), "Track-v0")


@pytest.fixture
def visitors(deployed):
    everybody = Visitors(lambda: Visit(Session(deployed, 4, 12), [0, 1, 2], pace=5), 1)
    yield everybody
    everybody.close()


@pytest.fixture
def handlers(visitors):
    made = Handlers(GRADIO, visitors)
    made.load(ANN)
    return made


def steps(visitors):
    return visitors.call("ann", lambda visit: len(visit.session.log.rewards))


def test_a_step_shows_the_environment_the_plans_the_values_and_where_it_stands(handlers):
    frame, plans, values, status, message, *buttons = handlers.make(take_step)(ANN)
    assert frame.startswith('<img alt="The environment at step 1" src="data:image/jpeg;base64,')
    assert plans.count("<svg") == 3
    assert values.count("<svg") == 3
    assert "<dt>step</dt><dd>1</dd>" in status
    assert "ms</dd>" in status
    assert (message, buttons) == ("", [True, True, False])


def test_a_run_goes_on_to_the_end_of_the_episode_with_pictures_on_the_way(handlers, visitors):
    *on_the_way, last = handlers.run(ANN)
    assert [shown[3].split("<dt>step</dt><dd>")[1].split("<")[0] for shown in on_the_way] == ["5", "10"]
    assert all(shown[5:] == [False, False, True] for shown in on_the_way)
    assert "<dd>12</dd>" in last[3]
    assert "the time limit has truncated it" in last[3]
    assert last[5:] == [False, False, False]


def test_a_run_is_paused_between_two_pictures_and_a_visitor_who_leaves_ends_it(handlers, visitors):
    run = handlers.run(ANN)
    next(run)
    handlers.make(pause)(ANN)
    assert next(run)[5:] == [True, True, False]
    assert list(run) == []
    assert steps(visitors) == 5
    run = handlers.run(ANN)
    next(run)
    handlers.leave(ANN)
    assert list(run) == []
    assert not visitors.has("ann")


def test_a_setting_out_of_range_and_an_empty_seed_are_messages_on_the_page(handlers, visitors):
    shown = handlers.make(changing("temperature"))(ANN, -1)
    assert "temperature is -1: a finite number between 0 and inf is needed" in shown[4]
    assert 'role="alert"' in shown[4]
    assert "the seed is empty" in handlers.make(reset)(ANN, None)[4]
    assert handlers.make(take_step)(ANN)[4] == ""


def test_an_error_of_the_environments_own_is_a_message_and_stops_a_run(handlers, visitors, monkeypatch, capsys):
    def fail(self, action):
        raise KeyError("<b>lost</b>")

    handlers.make(take_step)(ANN)
    monkeypatch.setattr(Track, "step", fail)
    (shown,) = handlers.run(ANN)
    assert "KeyError: &#x27;&lt;b&gt;lost&lt;/b&gt;&#x27; (the terminal of vgp play has more)" in shown[4]
    assert shown[5:] == [True, True, False]
    assert "Traceback" in capsys.readouterr().err


def test_a_visitor_too_many_sees_a_message_and_nothing_else_changes(handlers):
    bob = SimpleNamespace(session_hash="bob")
    shown = handlers.load(bob)
    assert "1 visitors are here" in shown.pop(4)
    assert set(shown) == {"as it was"}
    handlers.leave(ANN)
    shown = handlers.make(take_step)(bob)
    assert "you have no episode here" in shown.pop(4)
    assert set(shown) == {"as it was"}
    assert "<dt>step</dt><dd>0</dd>" in handlers.load(bob)[3]


def test_the_dimensions_that_are_chosen_are_drawn_and_none_is_said(handlers):
    show = handlers.make(showing(["action 0", "observation 0", "observation 1"]))
    assert show(ANN, ["observation 1"])[1].count("<svg") == 1
    assert "No dimension is chosen" in show(ANN, [])[1]


def test_without_gradio_the_message_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit):
        main(["play", str(tmp_path)])
    assert 'pip install "vgp_lightning[web]"' in capsys.readouterr().err


def test_sliders_have_room_for_the_values_that_hold(deployed):
    session = Session(deployed, 0, 5, scale=3.0, batch_size=80, temperature=4.0, n_guide_steps=7)
    for slider in list_sliders(session):
        assert slider.low <= session.resolved[slider.name] <= slider.high
    names = {slider.name for slider in list_sliders(session)}
    assert {"scale", "n_guide_steps", "batch_size", "num_inference_steps", "temperature", "replan_every"} == names
    session.close()


def test_a_planner_without_a_value_function_has_no_slider_of_guidance(tmp_path):
    session = Session(Deployment(str(write_tiny(tmp_path / "planner", guided=False)), "Track-v0"), 0, 5)
    sliders = {slider.name: slider for slider in list_sliders(session)}
    assert not {"scale", "n_guide_steps"} & set(sliders)
    assert "the first is taken" in sliders["batch_size"].info
    assert np.isnan(session.plans[-1].value)
    session.close()
