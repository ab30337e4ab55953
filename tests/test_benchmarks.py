"""The benchmarks that no other test runs can be imported, and those that act in environments run on tiny planners."""

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from learners import make_module

from benchmarks import composition, endurance, pointmaze, train_throughput
from vgp_lightning.export.folder import write_folder
from vgp_lightning.pipeline.networks import make_denoiser, make_noise_scheduler, make_value_function
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

MODULES = sorted(path.stem for path in Path(pointmaze.__file__).parent.glob("*.py") if path.stem != "__init__")


def write_planner(folder, env_id, actions, observations, guided):
    """Write a folder of untrained networks for an environment."""
    torch.manual_seed(0)
    channels, horizon = actions + observations, 16
    pipeline = ValueGuidedPlannerPipeline(
        make_denoiser(channels, horizon, [16, 16]),
        make_noise_scheduler(20, "squaredcos_cap_v2", "sample"),
        make_value_function(channels, horizon, [16, 64]) if guided else None,
        normalization={
            "action_dim": actions,
            "shift": [0.0] * channels,
            "scale": [1.0] * channels,
            "return_shift": 0.0,
            "return_scale": 1.0,
            "action_low": [-1.0] * actions,
            "action_high": [1.0] * actions,
        },
        planner={"planning_horizon": horizon, "batch_size": 1, "sampler": "ddim", "num_inference_steps": 5},
        task={"env_id": env_id},
    )
    return str(write_folder(pipeline, {}, folder))


@pytest.mark.parametrize("module", MODULES)
def test_a_benchmark_can_be_imported_and_has_a_main_function(module):
    assert callable(import_module(f"benchmarks.{module}").main)


def test_the_maze_benchmark_measures_both_actors_planning_once_and_repeatedly(tmp_path, monkeypatch):
    folder = write_planner(tmp_path / "maze", "PointMaze_UMaze-v3", 2, 8, guided=False)
    report = tmp_path / "report.json"
    options = ["--episodes", "1", "--replan-every", "15", "--set", "num_inference_steps=1", "--json", str(report)]
    monkeypatch.setattr("sys.argv", ["pointmaze", folder, *options])
    pointmaze.main()
    rows = json.loads(report.read_text())["rows"]
    assert [(row["actor"], row["plans"]) for row in rows] == [
        (actor, plans)
        for actor in ("position controller", "plan's own actions")
        for plans in ("once", "every 15 steps")
    ]


@pytest.mark.parametrize("accelerated", [True, False])
def test_the_training_benchmark_measures_the_evaluation_that_a_row_names(
    make_data, make_trainer, monkeypatch, tmp_path, accelerated
):
    monkeypatch.setenv(train_throughput.REPORT, str(tmp_path / "report.json"))
    module, clock = make_module(), train_throughput.Clock(accelerated)
    make_trainer(max_steps=train_throughput.WARM_UP + 3, callbacks=[clock]).fit(module, make_data())
    assert module.accelerated is accelerated
    assert json.loads((tmp_path / "report.json").read_text()).keys() == {"wall", "cpu"}


def test_the_endurance_benchmark_calls_loads_and_resumes(tmp_path, monkeypatch):
    report = tmp_path / "report.json"
    counts = ["--calls", "20", "--pipelines", "2", "--trainings", "2"]
    monkeypatch.setattr("sys.argv", ["endurance", *counts, "--json", str(report)])
    endurance.main()
    rows = json.loads(report.read_text())["rows"]
    assert {name: row["count"] for name, row in rows.items()} == {"calls": 20, "pipelines": 2, "trainings": 2}
    assert rows["trainings"]["last_step"] == 2
    assert rows["calls"]["resident_last_mb"] > 50
    assert all(row["ms"]["p50"] <= row["ms"]["max"] for row in rows.values())


def test_the_composition_benchmark_plays_with_and_without_each_rule(tmp_path, monkeypatch):
    hopper = write_planner(tmp_path / "hopper", "Hopper-v5", 3, 11, guided=True)
    maze = write_planner(tmp_path / "maze", "PointMaze_UMaze-v3", 2, 8, guided=False)
    report = tmp_path / "report.json"
    options = ["--episodes", "1", "--max-steps", "3", "--weights", "300", "--json", str(report)]
    monkeypatch.setattr("sys.argv", ["composition", "--hopper", hopper, "--maze", maze, *options])
    composition.main()
    rows = json.loads(report.read_text())
    names = ["learned value", "learned value + 300 x limit of 2 m/s"]
    assert [row["name"] for row in rows["hopper"]] == names
    assert [row["name"] for row in rows["maze"]] == ["no objective", "keep out of a disc"]
