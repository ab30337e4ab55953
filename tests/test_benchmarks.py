"""The benchmarks that no other test runs can be imported, and those that act in environments run on tiny planners."""

import json
import sys
import time
from importlib import import_module
from pathlib import Path

import demo_table
import gymnasium
import latency
import numpy as np
import pytest
import torch
from fakes import identity
from learners import make_module

from benchmarks import (
    composition,
    control_loop,
    demos,
    endurance,
    machine,
    network_calls,
    plan_latency,
    plan_returns,
    plan_rows,
    pointmaze,
    search_gaits,
    threads,
    train_throughput,
)
from vgp_lightning.export.folder import write_folder
from vgp_lightning.pipeline.networks import make_denoiser, make_noise_scheduler, make_value_function
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

# Those that are commands; what they share is imported with them.
MODULES = sorted(
    path.stem
    for path in Path(pointmaze.__file__).parent.glob("*.py")
    if 'if __name__ == "__main__"' in path.read_text()
)


def write_planner(folder, env_id, actions, observations, guided):
    """Write a folder of untrained networks for an environment."""
    torch.manual_seed(0)
    channels, horizon = actions + observations, 16
    pipeline = ValueGuidedPlannerPipeline(
        make_denoiser(channels, horizon, [16, 16]),
        make_noise_scheduler(20, "squaredcos_cap_v2", "sample"),
        make_value_function(channels, horizon, [16, 64]) if guided else None,
        normalization=identity(actions, channels),
        planner={"planning_horizon": horizon, "batch_size": 1, "sampler": "ddim", "num_inference_steps": 5},
        task={"env_id": env_id},
    )
    return str(write_folder(pipeline, {}, folder))


@pytest.mark.parametrize("module", MODULES)
def test_a_benchmark_can_be_imported_and_has_a_main_function(module):
    assert callable(import_module(f"benchmarks.{module}").main)


def test_a_random_search_climbs_to_the_best_weights(monkeypatch):
    search = search_gaits.Search("HalfCheetah-v5", 0, 0.05)
    best = np.random.default_rng(1).normal(size=search.weights.shape)

    def distance(weights, *_):
        return -float(np.square(weights - best).sum())

    monkeypatch.setattr(search, "try_out", distance)
    before = distance(search.weights)
    for _ in range(60):
        search.improve(directions=16, best=8, step_size=0.1, exploration=0.04, length=1, survival_bonus=0)
    assert distance(search.weights) > 0.1 * before


def test_a_search_plays_what_its_weights_say_and_learns_the_observations(monkeypatch):
    search = search_gaits.Search("HalfCheetah-v5", 0, 0.0)
    search.weights = np.random.default_rng(1).normal(size=search.weights.shape)
    search.mean, search.std = np.full(17, 0.1), np.full(17, 2.0)
    weights, bias = search.raw(search.weights)
    environment = gymnasium.make("HalfCheetah-v5").unwrapped
    observation, _ = environment.reset(seed=3)
    total, seen = 0.0, []
    for step in range(30):
        action = search.weights @ np.append((observation - 0.1) / 2, 1)
        np.testing.assert_allclose(bias + weights @ observation, action)
        observation, reward, *_ = environment.step(np.clip(action, -1, 1))
        total += reward
        seen += [observation] * (step % 10 == 0)
    assert search.try_out(search.weights, 3, 30, survival_bonus=2.0) == pytest.approx(total - 60)
    np.testing.assert_allclose(search.mean, (1000 * np.full(17, 0.1) + np.sum(seen, axis=0)) / 1003)


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


def test_the_demos_run_those_seeds_that_are_missing_and_tell_how_many_times_the_behaviour_they_return(
    tmp_path, monkeypatch
):
    def report(*means):
        named = zip(("behaviour", "unguided", "guided"), means, strict=True)
        found = {name: {"return_mean": mean, "return_ci95": [mean - 10, mean + 10]} for name, mean in named}
        return json.dumps(found | {"seconds": {"train": 60.0, "guided": 36.0}})

    def run(command, check):
        started.append(command[3:5])
        folder = Path(command[-1])
        folder.mkdir()
        (folder / "report.json").write_text(report(1000.0, 1500.0, 3000.0))

    started = []
    monkeypatch.setattr(demos.subprocess, "run", run)
    monkeypatch.setattr(demos, "TARGET", tmp_path / "demos.json")
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "report.json").write_text(report(2000.0, 1000.0, 2500.0))
    monkeypatch.setattr("sys.argv", ["demos", str(tmp_path), "--seeds", "0", "4"])
    demos.main()
    assert started == [["demo", "--seed"]]
    result = json.loads((tmp_path / "demos.json").read_text())
    assert demo_table.draw(result).splitlines()[2:5] == [
        "| 0 | 2000 [1990, 2010] | 1000 [990, 1010] | 2500 [2490, 2510] | 1.25 | 1.6 |",
        "| 4 | 1000 [990, 1010] | 1500 [1490, 1510] | 3000 [2990, 3010] | 3.00 | 1.6 |",
        "| range | 1000 to 2000 | 1000 to 1500 | 2500 to 3000 | 1.25 to 3.00 | 1.6 to 1.6 |",
    ]


def test_readme_has_the_demos_of_the_last_run():
    page = demo_table.PAGE.read_text()
    assert page == demo_table.fill(page), "run `python docs/demo_table.py`"


def test_the_demo_returns_at_least_1_3_times_as_much_as_its_data_with_every_seed():
    seeds = json.loads(demo_table.RESULTS.read_text())["seeds"]
    assert list(seeds) == ["0", "1", "2", "3", "4"]
    for one in seeds.values():
        assert demo_table.ratio(one) >= 1.3
        assert one["guided"]["return_ci95"][0] > one["behaviour"]["return_ci95"][1]


def test_readmes_film_is_of_the_demo_of_the_last_run():
    one = json.loads(demo_table.RESULTS.read_text())["seeds"]["0"]
    means = f"{one['unguided']['return_mean']:.0f} and {one['guided']['return_mean']:.0f}"
    picture, caption = demo_table.PAGE.read_text().split("\n\n")[2:4]
    assert "guided.gif" in picture
    assert means in picture
    assert means in caption


@pytest.mark.parametrize("accelerated", [True, False])
def test_the_training_benchmark_measures_the_evaluation_that_a_row_names(
    make_data, make_trainer, monkeypatch, tmp_path, accelerated
):
    monkeypatch.setenv(train_throughput.REPORT, str(tmp_path / "report.json"))
    module, clock = make_module(), train_throughput.Clock(accelerated)
    make_trainer(max_steps=train_throughput.WARM_UP + 3, callbacks=[clock]).fit(module, make_data())
    assert module.accelerated is accelerated
    assert json.loads((tmp_path / "report.json").read_text()).keys() == {"wall", "cpu"}


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


# ---------------------------------------------------------------- planning


@pytest.fixture
def small(monkeypatch):
    """Networks of a size at which a call takes a millisecond."""
    monkeypatch.setattr(plan_rows, "SIZES", {"small": plan_rows.Size(8, (16, 64))})
    monkeypatch.setattr(plan_latency, "SIZES", plan_rows.SIZES)
    settings = plan_rows.BEST | {"batch_size": 3}
    return [
        plan_rows.Row("small", plan_rows.STOCK, plan_rows.SLOW | {"batch_size": 2}, kind="stock"),
        plan_rows.Row("small", "cold", settings),
        plan_rows.Row("small", "warm and guided", settings | {"n_guide_steps": 2} | plan_rows.WARM, 2, warm=True),
    ]


@pytest.mark.slow
def test_the_latency_benchmark_measures_each_row_beside_another_version(tmp_path, monkeypatch, small):
    report = tmp_path / "report.json"
    monkeypatch.setattr(plan_latency, "ROWS", small)
    # One thread: two of them take long beside other tests.
    options = ["--threads", "1", "--seconds", "0.1", "--rounds", "2", "--calls", "10", "--json", str(report)]
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr("sys.argv", ["plan_latency", *options, "--against", f"same={sys.executable}"])
        plan_latency.main()
    finally:
        torch.set_num_threads(before)
    result = json.loads(report.read_text())
    assert result["machine"]["torch"] == torch.__version__
    assert result["older"] == "same"
    stock, *ours = result["rows"]
    assert "of_networks" not in stock["threads"]["1"]
    for row in ours:
        (one,) = row["threads"].values()
        assert 0 < one["ms"] <= one["p99_ms"] <= one["longest_ms"]
        assert one["networks_ms"] > 0
        assert one["times_older"] > 0
    assert [line.split(" | ")[0] for line in latency.table(result, "small").splitlines()[2:]] == [
        f"| {row.name}" for row in small
    ]


def test_a_program_that_cannot_be_made_is_left_out_of_the_latency_benchmark_and_named(
    tmp_path, monkeypatch, capsys, small
):
    def refuse(folder, program, **settings):
        raise ValueError(f"a program in the format {program} needs onnx")

    habit = plan_rows.Row("small", "a habit", {"batch_size": 1}, kind="habit")
    program = plan_rows.Row("small", "a program", small[1].settings, kind="onnx")
    monkeypatch.setattr(plan_latency, "ROWS", [habit, program])
    monkeypatch.setattr(plan_rows, "make_program", refuse)
    report, before = tmp_path / "report.json", torch.get_num_threads()
    options = ["--threads", "1", "--seconds", "0.01", "--rounds", "1", "--json", str(report)]
    try:
        monkeypatch.setattr("sys.argv", ["plan_latency", *options])
        plan_latency.main()
    finally:
        torch.set_num_threads(before)
    assert [row["name"] for row in json.loads(report.read_text())["rows"]] == ["a habit"]
    assert "left out, a program: a program in the format onnx needs onnx" in capsys.readouterr().err


def test_the_figures_of_a_row_are_those_of_the_better_number_of_threads(small):
    slow = plan_latency.Timed(small[0], lambda: None, [], None, calls={1: [0.3, 0.5, 0.3]})
    row = plan_latency.Timed(small[1], lambda: None, [], None)
    row.calls = {1: [0.004, 0.006, 0.005], 2: [0.010, 0.010, 0.040]}
    row.networks = {1: [0.004, 0.004, 0.004], 2: [0.005, 0.005, 0.005]}
    row.olders, row.ratios = {1: [0.010], 2: []}, {1: [2.5, 1.5, 2.0], 2: []}
    made = row.summarise()
    assert made["best_threads"] == 1
    assert made["plans_per_second"] == pytest.approx(3 / 0.005)
    assert made["threads"]["1"] == pytest.approx(
        {
            "ms": 5.0,
            "p99_ms": 5.98,
            "longest_ms": 6.0,
            "calls": 3,
            "networks_ms": 4.0,
            "of_networks": 1.25,
            "older_ms": 10.0,
            "times_older": 2.0,
        }
    )
    assert made["threads"]["2"]["of_networks"] == pytest.approx(2.0)
    assert "times_older" not in made["threads"]["2"]
    rows = plan_latency.relate([slow.summarise(), made])
    assert [one["times_stock"] for one in rows] == pytest.approx([1, 60])


def test_another_version_that_plans_otherwise_is_refused(tmp_path, small):
    plan_rows.make_folder(plan_rows.SIZES["small"], tmp_path)

    class Other:
        def ask(self, request):
            return np.zeros((1, 8, 3)).tolist()

    with pytest.raises(ValueError, match="small, cold: the older version makes another plan"):
        plan_latency.prepare(small[1], tmp_path, Other())


@pytest.mark.parametrize("accelerated", [True, False])
def test_what_is_repeated_is_each_network_evaluation_of_the_call(tmp_path, small, accelerated):
    plan_rows.make_folder(plan_rows.SIZES["small"], tmp_path)
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(tmp_path)
    if not accelerated:
        for network in (pipeline.unet, pipeline.value_function):
            network.register_forward_hook(lambda *_: None)  # a hook wants diffusers' own evaluation
    cold, warm = (plan_rows.make_call(pipeline, row.request()) for row in small[1:])
    # Five denoising steps, and the value of the plans.
    assert len(network_calls.record(cold)) == 5 + 1
    # Two of the steps, each with two gradients except at a level below t_stopgrad, and the value.
    levels = [16, 12, 8, 4, 0][-2:]
    stop = pipeline.resolve_settings()["t_stopgrad"]
    evaluations = network_calls.record(warm)
    assert len(evaluations) == 2 + 2 * sum(level >= stop for level in levels) + 1
    shapes = [evaluate() for evaluate in evaluations]
    assert len(shapes) == len(evaluations)
    network_calls.repeat(evaluations)


def test_a_call_whose_networks_are_unknown_has_no_ratio_to_them():
    with pytest.raises(ValueError, match="no network that is known here"):
        network_calls.record(lambda: None)


def test_the_rows_that_play_do_so_on_the_same_seeds(tmp_path, monkeypatch):
    folder = write_planner(tmp_path / "hopper", "Hopper-v5", 3, 11, guided=True)
    report = tmp_path / "report.json"
    monkeypatch.setattr(plan_returns, "PLAYED", plan_returns.PLAYED[-2:])
    for row in plan_returns.PLAYED:
        monkeypatch.setitem(row.settings, "batch_size", 2)
    options = ["--episodes", "1", "--max-steps", "2", "--json", str(report)]
    monkeypatch.setattr("sys.argv", ["plan_returns", folder, *options])
    plan_returns.main()
    rows = json.loads(report.read_text())["rows"]
    assert [row["name"] for row in rows][-1] == plan_rows.SAME
    assert rows[-1]["minus_slow_mean"] == 0


def test_the_page_of_planning_has_the_figures_of_the_last_runs():
    page = latency.PAGE.read_text()
    assert page == latency.fill(page), "run `python docs/latency.py`"


def test_the_machine_is_described():
    described = machine.describe_machine()
    assert described["cores"] >= 1
    assert described["cpu"]


@pytest.mark.slow
def test_the_benchmark_of_threads_measures_idle_and_beside_a_busy_process(tmp_path, monkeypatch, small):
    report = tmp_path / "report.json"
    # By default threads wait such that this test would take minutes beside others.
    for name, value in (("SIZES", plan_rows.SIZES), ("SECONDS", 0.01), ("POLICIES", ("passive",))):
        monkeypatch.setattr(threads, name, value)
    monkeypatch.setattr("sys.argv", ["threads", "--rounds", "1", "--plans", "1", "2", "--json", str(report)])
    threads.main()
    result = json.loads(report.read_text())
    keys = [(row["policy"], row["busy"], row["plans"]) for row in result["rows"]]
    assert keys == [("passive", busy, plans) for busy in (0, 1) for plans in (1, 2)]
    assert all(row["ratio"] == pytest.approx(row["more_ms"] / row["one_ms"]) for row in result["rows"])
    assert latency.draw_threads(result).count("| small | passive |") == 2
