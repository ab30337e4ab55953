"""RESULTS.md is made from what was measured."""

import json
import re
import shutil

import numpy as np
import pytest

from benchmarks import results, results_page

MEASURED = sorted(path for path in results_page.RESULTS.glob("*/*/*.json"))


def test_the_page_is_what_the_files_say():
    assert (results_page.ROOT / results_page.PAGE).read_text() == results_page.page(results_page.read())


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the results, to be changed."""
    shutil.copytree(results_page.RESULTS, tmp_path / "results")
    monkeypatch.setattr(results_page, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_what_a_gpu_measured_stands_beside_the_cpu_s(copied):
    shutil.rmtree(copied / "gpu", ignore_errors=True)
    trainings = sorted((copied / "cpu" / "walker2d-medium").glob("*.json"))
    (copied / "gpu" / "walker2d-medium").mkdir(parents=True)
    for path in trainings:
        result = json.loads(path.read_text())
        (copied / "gpu" / "walker2d-medium" / path.name).write_text(json.dumps(result | {"machine": "gpu"}))
    page = results_page.page(results_page.read())
    (own,) = (line for line in page.splitlines() if line.startswith("| walker2d-medium, guided |"))
    assert own.replace("medium,", "medium (GPU),") in page.splitlines()
    assert "marked (GPU), the paper's sizes" in page


def test_the_trainings_of_a_recipe_are_put_together(copied):
    """Three trainings whose planners return 1000, 2000 and 3000: Student's interval of the three means, by hand."""
    shutil.rmtree(copied / "cpu" / "hopper-medium")
    (copied / "cpu" / "hopper-medium").mkdir()
    one = json.loads((copied / "cpu" / "walker2d-medium" / "0.json").read_text())
    reference = {"name": "", "min": 0.0, "max": 4000.0}
    for seed in range(3):
        report = one["planners"]["one plan"] | {
            "returns": [1000.0 * (seed + 1)] * 4,
            "return_mean": 1000.0 * (seed + 1),
        }
        pairs = {"guided": one["pairs"]["guided"] | {"difference": -1.0 - seed, "permutation_p": 0.01 * (seed + 1)}}
        changed = {"recipe": "hopper-medium", "seed": seed, "default": "guided", "reference": reference}
        planners = {"one plan": report, "guided": report, "guided, best by value": report}
        latency = dict.fromkeys(planners, 1.0)
        (copied / "cpu" / "hopper-medium" / f"{seed}.json").write_text(
            json.dumps(one | changed | {"planners": planners, "pairs": pairs, "latency_ms": latency})
        )
    results = {"hopper-medium": results_page.read()["hopper-medium"]}
    half = 4.302653 * 1000 / 3**0.5  # Student's quantile with two degrees of freedom
    mean = f"2000 [{2000 - half:.0f}, {2000 + half:.0f}] (1000 to 3000)"
    assert f"| hopper-medium, guided | {mean} |" in results_page.returns(results)
    assert "**50.0 [-12.1, 112.1] (25.0 to 75.0)** | - | - | 50.0 [" in results_page.scores(results)
    # 0.01, 0.02 and 0.03 of three: Holm gives 0.03, 0.04 and 0.04.
    told = [line.split(" | ")[-2:] for line in results_page.harm(results).splitlines()[2:]]
    assert told == [["0.03", "**worse** |"], ["0.04", "**worse** |"], ["0.04", "**worse** |"]]


def test_mazes_are_measured_in_steps_at_the_goal_in_two_scales():
    """Two trainings whose plans are 161.86 steps at the goal, which is 100 in D4RL's scale, by hand."""

    def trained(seed):
        report = {"returns": [161.86] * 4, "success_rate": 1.0, "first_success_mean": 70.0 + 10 * seed}
        planners = {
            "own actions": report | {"settings": {"replan_every": 4}},
            "position controller": report | {"success_rate": 0.5 * seed, "settings": {"replan_every": 0}},
            "position controller, replanning": report | {"settings": {"replan_every": 64}},
        }
        reference = {"name": "", "min": 61.86, "max": 261.86}
        names = {"recipe": "pointmaze-umaze", "seed": seed, "reference": reference}
        return names | {"planners": planners, "latency_ms": dict.fromkeys(planners, 12.0)}

    lines = results_page.mazes({"pointmaze-umaze": [trained(0), trained(1)]}).splitlines()[2:]
    same = "162 [162, 162] (162 to 162) | 50.0 [50.0, 50.0] (50.0 to 50.0) | 100.0 [100.0, 100.0] (100.0 to 100.0)"
    assert lines == [
        f"| pointmaze-umaze, own actions | 2 x 4 | {same} | 100% | 75 | 4 | 12.0 |",
        f"| pointmaze-umaze, position controller | 2 x 4 | {same} | 25% | 75 | once | 12.0 |",
        f"| pointmaze-umaze, position controller, replanning | 2 x 4 | {same} | 100% | 75 | 64 | 12.0 |",
    ]


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_was_measured_was_paired_and_came_from_the_recipe_as_it_stands(path):
    result = json.loads(path.read_text())
    machine, recipe = path.parts[-3:-1]
    assert (result["machine"], result["recipe"], result["seed"]) == (machine, recipe, int(path.stem))
    played = [report["seeds"] for report in result["planners"].values()]
    assert len(played[0]) >= 20
    assert all(seeds == played[0] for seeds in played)
    files = [str(file.relative_to(results_page.ROOT)) for file in results.overlays(recipe, machine)]
    assert result["configs"] == files
    trained = "denoiser" if results_page.is_maze(recipe) else "planner"
    assert result["checkpoints"][trained] == {"file": "last.ckpt", "step": result["training"]["steps"]}
    first = next(iter(result["planners"]))
    for name, pair in result["pairs"].items():
        returns = [result["planners"][planner]["returns"] for planner in (first, name)]
        assert pair["difference"] == pytest.approx(np.mean(returns[1]) - np.mean(returns[0]), abs=1e-3)


@pytest.mark.parametrize(
    "path",
    [path for path in MEASURED if not results_page.is_maze(path.parent.name)],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_the_default_planner_is_that_of_the_recipe_as_it_stands(path):
    result = json.loads(path.read_text())
    own = results.settings_of(result["recipe"], "evaluate") | results.settings_of(result["recipe"], "critic")
    same = [
        name
        for name, report in result["planners"].items()
        if {setting: report["settings"][setting] for setting in own} == own
    ]
    assert result["default"] in same


def test_no_number_of_a_measurement_is_typed_by_hand_into_the_page():
    template = (results_page.RESULTS / "page.md").read_text()
    # What may stand there: the scale's ends, the interval's level, names of datasets and of data of others.
    prose = re.sub(r"\{[^}]*\}|`[^`]*`|medium-v2|100 x|95 %|D4RL", "", template)
    assert re.findall(r"\d{2,}", prose) == []


def test_the_best_tenth_of_the_data_is_the_mean_of_the_episodes_that_returned_most(make_dataset, make_episode):
    returns = [3.0, -1.0, 20.0, 10.0, *[0.0] * 16]  # of 20 episodes; the best two return 15 in the mean
    rewards = [np.array([value, 0.0]) for value in returns]
    make_dataset("test/best-v0", [make_episode(2, number, rewards=one) for number, one in enumerate(rewards)])
    assert results.describe_dataset("test/best-v0")["best_tenth"] == 15
