"""Pages of evaluations: the verdict first, what is in them, and what is escaped."""

import json

import numpy as np
import pytest
from PIL import Image
from reports import SETTINGS, SPEC, make_evaluation

from vgp_lightning.cli import main
from vgp_lightning.evaluation import comparison
from vgp_lightning.evaluation.comparison import compare
from vgp_lightning.evaluation.pages import describe_evaluation
from vgp_lightning.report.page import render

EVIL = "<script>alert(1)</script>"


def read(report, folder):
    return render(describe_evaluation(report, folder))


def before(text, *words):
    """Assert that words stand in a text in this order."""
    place = -1
    for word in words:
        found = text.find(word, place + 1)
        assert found > place, f"{word} is missing, or comes too early"
        place = found


def test_the_verdict_comes_first_then_film_returns_worst_episodes_and_origin(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "rollout.gif")
    text = read(make_evaluation([5, 1, 9, 4, 7, 6]), tmp_path)
    before(
        *(text, "<body>", "The planner hopper returns 5.33 on average in Hopper-v5 (95 % interval "),
        *("data:image/gif;base64", "Good: ", "Bad: ", "<svg", "The worst 3 episodes", "Seed 11: return 1, 8 steps"),
        *("The environment ended it", "Seed 13: return 4", "Seed 10: return 5", "The time limit ended it"),
        *("To repeat it", "vgp evaluate exports/hopper", "Settings of planning", "planning_horizon", "Versions"),
        *("Methods", "Janner et al. 2022", "DDIM", "Dhariwal and Nichol 2021", "Hesterberg 2015"),
    )
    assert "UniPC" not in text  # which was not used
    assert "D4RL" not in text


@pytest.mark.parametrize(("steps", "words"), [(1, "1 gradient step on the noisy plan"), (2, "2 gradient steps on")])
def test_the_methods_name_the_number_of_guide_steps_in_good_english(tmp_path, steps, words):
    assert words in read(make_evaluation([5, 1], settings=SETTINGS | {"n_guide_steps": steps}), tmp_path)


def test_the_methods_say_that_nothing_ranks_candidates_without_a_value_function(tmp_path):
    several = SETTINGS | {"batch_size": 8, "n_guide_steps": 0}
    words = "Of 8 candidates the first is executed, since nothing ranks them."
    assert words in read(make_evaluation([5, 1], settings=several, value_function=False), tmp_path)
    assert words not in read(make_evaluation([5, 1], settings=several), tmp_path)


def test_a_warm_start_of_all_steps_is_not_called_one(tmp_path):
    for strength, shown in ((0.95, False), (0.4, True)):
        settings = SETTINGS | {"num_inference_steps": 5, "warm_start_strength": strength, "replan_every": 1}
        assert ("(warm start," in read(make_evaluation([5, 1], settings=settings), tmp_path)) == shown


def test_the_command_of_an_episode_is_the_one_that_played_it(tmp_path):
    report = make_evaluation([5, 1], options={"scale": 0.5, "reach_goal": True})
    report["episodes"][1]["sampler_seed"] = 77
    text = read(report, tmp_path).replace("<span>", "").replace("</span>", "")
    assert (
        "vgp evaluate exports/hopper --episodes 1 --seed 11 --sampler_seed 77 --output_dir runs/seed-11 "
        "--scale 0.5 --reach_goal true" in text
    )


def test_a_score_and_a_success_have_their_intervals_and_sources(tmp_path):
    reference = {"name": "D4RL hopper", "min": -20.0, "max": 3230.0}
    scored = {"reference": reference, "normalized_score": 12.5, "normalized_score_ci95": [10.0, 15.0]}
    text = read(make_evaluation(range(8), success_rate=0.5, success_rate_ci95=[0.2, 0.8], **scored), tmp_path)
    before(
        text, "a score of 12.5 on D4RL hopper", "succeeds in 50% of them (95 % interval 20% to 80%)", "Fu et al. 2020"
    )
    assert "Wilson 1927" in text


def test_few_episodes_have_no_interval_and_failed_ones_are_listed(tmp_path):
    failed = [{"seed": 13, "agent_seed": 13, "step": 4, "reason": f"reward is nan {EVIL}"}]
    text = read(make_evaluation([1.0, 2.0], failed_episodes=failed, video_error="no GL today"), tmp_path)
    assert "no interval: too few episodes" in text
    assert "No film: no GL today" in text
    assert "reward is nan &lt;script&gt;" in text
    assert "--episodes 3" in text


@pytest.mark.parametrize("name", ["env_id", "pipeline", "video_error", "device", "weights_sha256"])
def test_a_text_of_a_report_is_escaped(tmp_path, name):
    text = read(make_evaluation(range(6), **{name: EVIL}), tmp_path)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize("name", ["settings", "versions", "env_spec", "options", "checkpoints"])
def test_a_name_and_a_value_in_a_table_are_escaped(tmp_path, name):
    report = make_evaluation(range(6))
    text = read(report | {name: {**(report[name] or {}), EVIL: EVIL}}, tmp_path)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_an_evaluation_of_an_earlier_version_has_a_page_too(tmp_path):
    report = make_evaluation(range(6))
    for name in ("options", "threads", "failed_episodes", "delay", "reach_goal", "follow_states"):
        del report[name]
    for name in ("rank_by", "choice_temperature"):
        report["settings"] = {key: value for key, value in report["settings"].items() if key != name}
    assert "--guide_on noisy" in read(report, tmp_path)  # all settings are given, since it does not say which were


def write(folder, report):
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps(report))
    return str(folder)


def test_a_comparison_has_a_page_beside_its_json(tmp_path):
    rng = np.random.default_rng(0)
    returns = rng.normal(100, 30, 12)
    spec = SPEC | {"additional_wrappers": []}
    a = write(tmp_path / "a", make_evaluation(returns, env_spec=spec))
    b = write(tmp_path / "b", make_evaluation(returns + rng.normal(20, 3, 12), env_spec=spec, device=EVIL))
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / name / "rollout.gif")
    main(["compare", a, b, "--json", str(tmp_path / "out" / "comparison.json")])
    text = (tmp_path / "out" / "comparison.html").read_text()
    before(
        *(text, "<body>", "B is better by ", "(95 % interval).", "data:image/gif", "Paired differences", "<svg"),
        *("Where B falls behind A most", "What else differs", "&lt;script&gt;", "To repeat it", "vgp compare"),
        *("Methods", "Hartigan 1969"),
    )
    assert "<script" not in text


def test_a_page_that_fails_loses_no_comparison(tmp_path, monkeypatch, capsys):
    a = write(tmp_path / "a", make_evaluation(range(8)))
    monkeypatch.setattr(comparison, "describe_comparison", lambda *_: 1 / 0)
    result = compare(a, a, json=str(tmp_path / "comparison.json"))
    assert json.loads((tmp_path / "comparison.json").read_text()) == result
    assert "comparison.html cannot be written: ZeroDivisionError" in capsys.readouterr().err
