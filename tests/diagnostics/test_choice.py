"""Choice: judged by hand, and tried in an environment in which it is known what an action is worth."""

import json
import math

import numpy as np
import pytest
from fakes import Track, add_critic, recorded, write_tiny

from vgp_lightning.agent.collection import collect
from vgp_lightning.agent.environments import environment_of, make_environments
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.cli import main
from vgp_lightning.diagnostics.candidates import Candidates
from vgp_lightning.diagnostics.choice import (
    REPEATS,
    Trial,
    judge,
    make_trial,
    plot_choice,
    take_snapshots,
    try_candidates,
    why_no_choice,
)
from vgp_lightning.diagnostics.recorded import find_recorded
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import ONE_PLAN


@pytest.fixture
def environments(track):
    made = make_environments("Track-v0", 3)
    yield made
    made.close()


@pytest.fixture
def pipeline(tmp_path):
    task = {"env_id": "Track-v0", "discount": 0.9, "termination_penalty": -10.0}
    return ValueGuidedPlannerPipeline.from_pretrained(write_tiny(tmp_path / "tiny", task=task, batch_size=3))


def candidates(actions):
    """Candidates with these first actions (S, K, n)."""
    trajectories = np.zeros((*np.shape(actions)[:2], 8, 3), np.float32)
    trajectories[:, :, : np.shape(actions)[2], 0] = actions
    values = np.zeros(trajectories.shape[:2], np.float32)
    return Candidates(trajectories, values, values, None, trajectories[:1], ["clean"])


# ---------------------------------------------------------------- the judgement


def test_a_choice_is_judged_by_hand():
    predicted = np.array([[1.0, 2.0, 3.0]])
    realised = np.array([[[1.0, 1.0], [3.0, 2.0], [2.0, 3.0]]])  # means 1, 2.5, 2.5
    found = judge(predicted, realised)
    assert found["rank_correlation"]["mean"] == pytest.approx(math.sqrt(3) / 2)
    assert found["repeatability"]["mean"] == pytest.approx(0.5)
    assert found["gain"]["mean"] == pytest.approx(0.5)
    # The best of each repeat is worth 2 in the other one, and the mean of all is 2.
    assert found["possible"]["mean"] == pytest.approx(0.0)
    assert found["regret"]["mean"] == pytest.approx(-0.5)
    assert found["spread"] == pytest.approx(np.std([1, 2.5, 2.5]))


def test_a_perfect_prediction_has_no_regret_and_chance_gains_nothing():
    random = np.random.default_rng(0)
    worth = random.normal(size=(400, 8, 1))
    realised = worth + np.zeros((1, 1, REPEATS))
    right, chance = judge(worth[:, :, 0], realised), judge(random.normal(size=(400, 8)), realised)
    assert right["rank_correlation"]["mean"] == pytest.approx(1)
    assert right["regret"]["mean"] == pytest.approx(0)
    assert right["gain"]["mean"] == pytest.approx(1.42, abs=0.1)  # the mean of the highest of 8 normal numbers
    for name in ("rank_correlation", "gain"):
        assert chance[name]["ci95"][0] < 0 < chance[name]["ci95"][1]


def test_where_candidates_are_worth_the_same_nothing_looks_possible():
    # The highest of noisy numbers is above their mean by 1.42 deviations: as if one could gain that.
    realised = np.random.default_rng(0).normal(size=(2000, 8, REPEATS))
    found = judge(np.random.default_rng(1).normal(size=(2000, 8)), realised)
    for name in ("possible", "repeatability"):
        assert abs(found[name]["mean"]) < 0.05


def test_states_without_any_difference_do_not_count():
    found = judge(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([[[1.0, 1.0], [1.0, 1.0]], [[3.0, 3.0], [1.0, 1.0]]]))
    assert found["rank_correlation"] == {"mean": pytest.approx(1.0), "ci95": None, "states": 1}
    assert found["gain"]["states"] == 2


# ---------------------------------------------------------------- the simulator


def test_a_candidate_is_worth_its_own_rewards_where_nothing_follows(environments, pipeline):
    episode = recorded([7], step=0.3)[0]
    snapshots = take_snapshots(environments, [(episode, 0), (episode, 2)])
    # The reward is the action, within its bounds, and the episode ends beyond 3 with a penalty of 10.
    own = np.array([[[0.1, 0.2], [-0.5, 5.0], [1.0, 1.0]]] * 2)
    trial = Trial(2, 2, 0.9, -10.0, None, {}, "value")
    realised = try_candidates(pipeline, candidates(own), environments, snapshots, trial)
    assert realised.shape == (2, 3, REPEATS)
    place = episode.observations[[0, 2], 0]
    for state in (0, 1):
        last = 1.0 - 10.0 * bool(place[state] + 2 > 3)
        expected = [0.1 + 0.9 * 0.2, -0.5 + 0.9 * 1.0, 1.0 + 0.9 * last]
        np.testing.assert_allclose(realised[state], np.repeat(expected, REPEATS).reshape(3, REPEATS), rtol=1e-5)


def test_what_follows_is_planned_without_a_choice_by_the_same_random_numbers(environments, pipeline):
    episode = recorded([7], step=0.1)[0]
    snapshots = take_snapshots(environments, [(episode, 1)])
    trial = make_trial(pipeline, pipeline.resolve_settings(), None, 4)
    assert (trial.own, trial.settings["batch_size"], trial.settings["n_guide_steps"]) == (1, 1, 0)
    realised = try_candidates(pipeline, candidates([[[0.1], [0.1], [-0.2]]]), environments, snapshots, trial)
    assert np.array_equal(realised[0, 0], realised[0, 1])  # equal candidates, equal numbers
    # One environment and one agent alone, from the seed on.
    environment = environment_of(make_environments("Track-v0", 1), 0)
    for repeat in range(REPEATS):
        environment.reset(seed=7)
        environment.step(episode.actions[0])
        agent = PlanningAgent(pipeline, batch_size=1, n_guide_steps=0)
        agent.reset([3_000_000 + repeat])
        observation, reward, *_ = environment.step(np.array([0.1], np.float32))
        total = reward
        for step in range(1, 4):
            observation, reward, *_ = environment.step(agent.act(observation[None])[0])
            total += 0.9**step * reward
        assert realised[0, 0, repeat] == pytest.approx(total, abs=1e-5)


def test_an_environment_that_chance_moves_is_not_tried(environments, monkeypatch):
    episode = recorded([7])[0]
    assert take_snapshots(environments, [(episode, 1)]) is not None
    monkeypatch.setattr(Track, "slip", np.random.default_rng(0))
    assert take_snapshots(environments, [(episode, 1)]) is None


# ---------------------------------------------------------------- the front door


def test_a_diagnosis_tells_whether_choosing_chooses(track, tmp_path, capsys):
    task = {"env_id": "Track-v0", "discount": 0.9}
    folder = write_tiny(tmp_path / "tiny", task=task, batch_size=3, n_guide_steps=1, planning_horizon=4)
    command = ["diagnose", str(folder), "--episodes", "2", "--starts", "2", "--video", "false"]
    main([*command, "--max_episode_steps", "6", "--choice_steps", "3", "--output_dir", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "diagnostics.json").read_text())["choice"]
    assert (found["states"], found["candidates"], found["steps"], found["own_steps"]) == (4, 3, 3, 1)
    assert set(found) >= {"guided", "unguided", "guidance"}
    assert found["guided"]["gain"]["states"] == 4
    assert found["by"] == {"value": found["unguided"]}
    assert (tmp_path / "out" / "choice.png").is_file()
    assert "choice gain" in capsys.readouterr().out
    main([*command, "--choice_steps", "0", "--output_dir", str(tmp_path / "none")])
    report = json.loads((tmp_path / "none" / "diagnostics.json").read_text())
    assert report["choice"] is None
    assert "choice_steps is 0" in report["missing"]["choice"]


@pytest.mark.slow
def test_all_that_can_rank_is_judged_by_the_same_trials_also_where_the_planner_makes_one_plan(track, tmp_path):
    task = {"env_id": "Track-v0", "discount": 0.9}
    folder = write_tiny(tmp_path / "tiny", task=task, planning_horizon=4, **ONE_PLAN)
    add_critic(folder)
    command = ["diagnose", str(folder), "--episodes", "1", "--starts", "2", "--max_episode_steps", "4"]
    main([*command, "--video", "false", "--choice_steps", "2", "--output_dir", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "diagnostics.json").read_text())
    assert (report["settings"]["batch_size"], report["candidates"], report["choice"]["candidates"]) == (1, 16, 16)
    by = report["choice"]["by"]
    assert by["value"] == report["choice"]["unguided"]
    # What the candidates came to is the same, whatever ranks them.
    assert (by["critic"]["spread"], by["critic"]["possible"]) == (by["value"]["spread"], by["value"]["possible"])
    assert by["critic"]["gain"] != by["value"]["gain"]
    main([*command, "--video", "false", "--batch_size", "1", "--output_dir", str(tmp_path / "one")])
    missing = json.loads((tmp_path / "one" / "diagnostics.json").read_text())["missing"]
    assert "batch_size is 1" in missing["choice"]


@pytest.mark.slow
def test_candidates_are_tried_in_states_of_the_training_data_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    options = {"env_id": "Pendulum-v1", "behaviour": "random", "max_episode_steps": 5}
    collect(**options, steps=20, dataset_id="test/pendulum-v0")
    task = {"env_id": "Pendulum-v1", "discount": 0.9, "dataset_id": ["test/pendulum-v0"]}
    few = {"batch_size": 3, "planning_horizon": 4, "n_guide_steps": 0}
    folder = write_tiny(tmp_path / "tiny", task=task, dimensions=(1, 3), **few)
    command = ["diagnose", str(folder), "--episodes", "1", "--starts", "2", "--max_episode_steps", "5"]
    command += ["--choice_steps", "2", "--video", "false", "--recorded_episodes", "3", "--output_dir"]
    main([*command, str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "diagnostics.json").read_text())
    assert report["choice_recorded"]["states"] == 6  # two of each
    assert set(report["choice_recorded"]["by"]) == {"value"}
    assert (tmp_path / "out" / "choice_recorded.png").is_file()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "And in states of the training data?" in page
    assert "choice recorded gain" in page
    with monkeypatch.context() as patch:
        patch.setattr("vgp_lightning.diagnostics.choice.take_snapshots", lambda *given: None)
        main([*command, str(tmp_path / "unreached")])
    missing = json.loads((tmp_path / "unreached" / "diagnostics.json").read_text())["missing"]
    assert missing["choice"].startswith("the same seed and the same actions lead to other observations")
    assert "the environment is not the recorded one" in missing["choice_recorded"]
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "elsewhere"))
    main([*command, str(tmp_path / "missing")])
    report = json.loads((tmp_path / "missing" / "diagnostics.json").read_text())
    assert report["choice"] is not None
    assert report["choice_recorded"] is None
    assert "dataset 'test/pendulum-v0' is not in" in report["missing"]["choice_recorded"]


def test_recorded_states_are_evenly_spaced_and_as_they_were_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    options = {"env_id": "Pendulum-v1", "behaviour": "random", "max_episode_steps": 9}
    dataset = collect(**options, steps=45, dataset_id="test/pendulum-v0", seed=30)
    places = find_recorded({"dataset_id": ["test/pendulum-v0"]}, 3, 3)
    assert [(episode.seed, step) for episode, step in places] == [(s, t) for s in (30, 32, 34) for t in (0, 4, 8)]
    recorded_episode = next(dataset.iterate_episodes([2]))
    assert np.array_equal(places[3][0].observations, recorded_episode.observations)
    assert np.array_equal(places[3][0].actions, recorded_episode.actions)
    environments = make_environments("Pendulum-v1", 2)
    snapshots = take_snapshots(environments, places)
    environments.close()
    assert len(snapshots) == 9
    with pytest.raises(ValueError, match="does not name the data of its training"):
        find_recorded({}, 3, 3)


def test_why_nothing_is_tried(pipeline, tmp_path):
    settings = pipeline.resolve_settings()
    assert why_no_choice(pipeline, settings, 5) is None
    assert "batch_size is 1" in why_no_choice(pipeline, pipeline.resolve_settings(batch_size=1), 5)
    plain = ValueGuidedPlannerPipeline.from_pretrained(write_tiny(tmp_path / "plain", guided=False))
    assert "no value function" in why_no_choice(plain, plain.resolve_settings(), 5)
    nameless = ValueGuidedPlannerPipeline.from_pretrained(write_tiny(tmp_path / "nameless"))
    assert "discount" in why_no_choice(nameless, nameless.resolve_settings(), 5)


def test_the_picture_has_a_panel_for_each_kind():
    values = np.zeros((2, 3)), np.zeros((2, 3, 2))
    assert len(plot_choice({"unguided": values, "guided": values}, 5).axes) == 2
