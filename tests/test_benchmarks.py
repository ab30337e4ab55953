"""The benchmarks that no other test runs can be imported, and those that act in environments run on tiny planners."""

import json
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import composition, control_loop, endurance, pointmaze
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


@pytest.mark.parametrize("own", [True, False])
def test_the_control_loop_counts_deadlines_of_each_rate_and_agent(own, tmp_path, monkeypatch):
    report = tmp_path / "report.json"
    folder = ["--pipeline", write_planner(tmp_path / "hopper", "Hopper-v5", 3, 11, guided=True)] if own else []
    options = ["--seconds", "0.5", "--rates", "10", "20", "--calls", "3", "--delay", "2", "--json", str(report)]
    monkeypatch.setattr("sys.argv", ["control_loop", *folder, *options])
    control_loop.main()
    written = json.loads(report.read_text())
    assert written["tail"]["calls"] == 3
    names = ["synchronous, every step", "synchronous, every 2 steps", "asynchronous, delay 2"]
    assert [(row["rate"], row["agent"], row["steps"]) for row in written["rows"]] == [
        (rate, name, steps) for rate, steps in ((10, 5), (20, 10)) for name in names
    ]
    assert all(0 <= row["missed"] <= row["steps"] for row in written["rows"])
    assert all(row["act_ms"]["p50"] <= row["act_ms"]["p99"] <= row["act_ms"]["longest"] for row in written["rows"])


def test_a_loop_counts_each_deadline_that_its_agent_misses_once():
    class Slow:
        """Needs two periods for every third act; the first one of an episode does not count."""

        def reset(self, seeds):
            self.calls = 0

        def act(self, observations):
            self.calls += 1
            if self.calls % 3 == 0:
                time.sleep(0.4)
            return np.zeros((1, 1))

    class Environments:
        """An environment that never ends."""

        def reset(self, seed):
            return np.zeros((1, 2)), {}

        def step(self, actions):
            return np.zeros((1, 2)), np.zeros(1), np.array([False]), np.array([False]), {}

    measured = control_loop.run_loop(Slow(), Environments(), rate=5, seconds=1.4)
    assert (measured["steps"], measured["episodes"], measured["missed"]) == (7, 1, 2)
    assert measured["act_ms"]["longest"] == pytest.approx(400, abs=150)


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
