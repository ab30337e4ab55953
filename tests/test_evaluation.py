"""Evaluation: returns and lengths by hand, statistics against formulas, and what is written."""

import json
import sys
from dataclasses import asdict
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vgp_lightning import evaluation
from vgp_lightning.agent import make_environments
from vgp_lightning.evaluation import (
    Reference,
    choose_reference,
    evaluate,
    evaluate_agent,
    normalized_score,
    play,
    summarize,
)


class Staircase(gymnasium.Env):
    """Pays t + 1 at step t and ends after 3 + seed % 4 steps; cut after 5. Without a seed it pays 1000 a step."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012
    observation_space = spaces.Box(-1e6, 1e6, (3,))
    action_space = spaces.Box(-1e6, 1e6, (2,))
    broken = False

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.seeded, self.length = 0, seed is not None, 3 + (seed or 0) % 4
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.t += 1
        observation = np.full(3, self.t, np.float32)
        return observation, float(self.t) if self.seeded else 1000.0, self.t == self.length, False, {}

    def render(self):
        if self.broken:
            raise RuntimeError("no GL today")
        return np.full((20, 30, 3), 40 * self.t, np.uint8)


class Idler:
    """Does nothing."""

    def reset(self, seeds):
        pass

    def act(self, observations, active):
        return np.zeros((len(active), 2), np.float32)


class FakePipeline:
    """Plans zeros, and knows what evaluation asks of a pipeline."""

    device = torch.device("cpu")
    observation_dim, action_dim = 3, 2

    def __init__(self, **task):
        self.task = task

    def to(self, device):
        return self

    def resolve_settings(self, **settings):
        if settings.get("n_guide_steps"):
            raise ValueError("this pipeline has no value function")
        defaults = {"planning_horizon": 4, "scale": 0.1, "warm_start_strength": 1.0}
        return defaults | {k: v for k, v in settings.items() if v is not None}

    def __call__(self, observation, generator, **settings):
        return SimpleNamespace(
            actions=torch.zeros(len(observation), 4, 2), observations=torch.zeros(len(observation), 4, 3)
        )


@pytest.fixture(autouse=True)
def staircase():
    gymnasium.register("Staircase-v0", entry_point=Staircase, max_episode_steps=5)
    yield
    del gymnasium.registry["Staircase-v0"]


@pytest.fixture
def fake_pipeline(monkeypatch):
    """Put a pipeline without networks in the place of a folder's."""
    pipeline = FakePipeline(env_id="Staircase-v0")
    monkeypatch.setattr(evaluation, "_load_pipeline", lambda folder: pipeline)
    return pipeline


# ---------------------------------------------------------------- playing


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_returns_and_lengths_are_those_worked_out_by_hand(count):
    environments = make_environments("Staircase-v0", count)
    episodes = play(Idler(), environments, [3, 0, 1, 2, 4]).episodes
    environments.close()
    # Seed 3 would take 6 steps and is cut at 5; the last step's reward is in each sum.
    assert [(e.seed, e.episode_return, e.length, e.terminated) for e in episodes] == [
        (3, 15.0, 5, False),
        (0, 6.0, 3, True),
        (1, 10.0, 4, True),
        (2, 15.0, 5, True),
        (4, 6.0, 3, True),
    ]


def test_nothing_is_printed_where_there_is_no_terminal(capfd):
    environments = make_environments("Staircase-v0", 1)
    play(Idler(), environments, [0])
    environments.close()
    assert capfd.readouterr() == ("", "")


def test_an_agents_report_holds_its_statistics():
    environments = make_environments("Staircase-v0", 2)
    report = evaluate_agent(Idler(), environments, [0, 1, 2, 3], reference=Reference("hand", 1.5, 21.5))
    environments.close()
    assert report["return_mean"] == (6 + 10 + 15 + 15) / 4
    assert report["return_iqm"] == (10 + 15) / 2
    assert report["return_median"] == (10 + 15) / 2
    assert report["normalized_score"] == 50
    assert report["reference"] == {"name": "hand", "min": 1.5, "max": 21.5}
    assert report["length_mean"] == (3 + 4 + 5 + 5) / 4
    assert report["terminated_share"] == 0.75
    assert report["episodes"][3] == {"seed": 3, "return": 15.0, "length": 5, "terminated": False}


def test_the_time_of_a_plan_is_told_from_the_time_of_following_it(monkeypatch):
    # Two environments, of 3 and 5 steps, that plan at their steps 0, 2 and 4: the calls 0, 2 and 4 of five plan.
    steps = [
        SimpleNamespace(
            episode=np.array([0 if t < 3 else -1, 1]),
            rewards=np.ones(2),
            terminated=np.array([t == 2, t == 4]),
            truncated=np.array([False, False]),
            seconds=seconds,
        )
        for t, seconds in enumerate([0.3, 0.001, 0.3, 0.001, 0.3])
    ]
    monkeypatch.setattr(evaluation, "rollout", lambda agent, environments, seeds: steps)
    report = evaluate_agent(Idler(), None, [0, 1], replan_every=2)
    assert report["plan_ms"] == pytest.approx(300)
    assert report["act_ms"] == pytest.approx(1000 * 0.902 / 5)


# ---------------------------------------------------------------- statistics


def test_the_interquartile_mean_is_the_mean_of_the_middle_half():
    returns = [1000.0, 4.0, 1.0, 3.0, -500.0, 2.0, 5.0, 6.0]
    assert summarize(returns).return_iqm == (2 + 3 + 4 + 5) / 4
    assert summarize(returns).return_median == 3.5
    assert summarize(returns).return_std == pytest.approx(np.sqrt(np.var(returns) * 8 / 7))


def test_the_interval_covers_the_true_mean_in_about_95_of_100_cases():
    rng = np.random.default_rng(0)
    intervals = [summarize(rng.normal(100, 30, 50)).return_ci95 for _ in range(200)]
    covered = np.mean([low <= 100 <= high for low, high in intervals])
    assert 0.90 <= covered <= 0.99
    # As wide as the closed form: 1.96 standard errors to either side.
    assert np.mean([high - low for low, high in intervals]) == pytest.approx(2 * 1.96 * 30 / np.sqrt(50), rel=0.05)


def test_equal_returns_have_equal_intervals_and_one_return_has_none():
    assert summarize([1.0, 2.0, 5.0]) == summarize([1.0, 2.0, 5.0])
    one = summarize([7.0])
    assert (one.return_mean, one.return_iqm, one.return_median) == (7, 7, 7)
    assert one.return_ci95 is None
    assert one.return_std is None


def test_constant_returns_have_an_interval_of_no_width():
    assert summarize([3.5] * 4).return_ci95 == [3.5, 3.5]
    assert summarize([3.5] * 4).return_std == 0


@pytest.mark.parametrize("returns", [[], [1.0, float("nan")], [float("inf")]])
def test_no_statistics_are_made_of_nothing_or_of_what_is_not_finite(returns):
    with pytest.raises(ValueError, match="at least one return and finite"):
        summarize(returns)


def test_the_normalised_score_of_hopper_is_the_one_of_d4rl():
    reference = choose_reference("Hopper-v5")
    assert reference.name == "D4RL hopper"
    assert normalized_score(3234.3, reference) == pytest.approx(100)
    assert normalized_score(-20.272305, reference) == pytest.approx(0)
    # (1500 + 20.272305) / (3234.3 + 20.272305)
    assert normalized_score(1500.0, reference) == pytest.approx(46.71189, abs=1e-5)


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("HalfCheetah-v5", "D4RL halfcheetah"),
        ("Walker2d-v4", "D4RL walker2d"),
        ("package:space/Ant-v5", "D4RL ant"),
        ("AntMaze_UMaze-v5", None),
        ("HopperHop-v0", None),
    ],
)
def test_the_environments_family_chooses_the_published_reference(env_id, name):
    reference = choose_reference(env_id)
    assert (reference and reference.name) == name


def test_the_users_reference_goes_first_then_the_tasks_then_d4rls():
    task = {"env_id": "Hopper-v5", "reference_scores": {"name": "dataset vgp/hopper/medium-v0", "min": 1.0, "max": 9.0}}
    assert choose_reference("Hopper-v5", task, 0.0, 10.0) == Reference("user", 0.0, 10.0)
    assert choose_reference("Hopper-v5", task).name == "dataset vgp/hopper/medium-v0"
    assert choose_reference("Hopper-v5", task | {"reference_scores": None}).name == "D4RL hopper"
    # The dataset's scores say nothing of another environment.
    assert choose_reference("Walker2d-v5", task).name == "D4RL walker2d"


def test_half_a_reference_and_an_inverted_one_are_refused():
    with pytest.raises(ValueError, match="give both or neither"):
        choose_reference("Hopper-v5", None, 3.0)
    with pytest.raises(ValueError, match="must lie below"):
        choose_reference("Hopper-v5", None, 3.0, 3.0)


# ---------------------------------------------------------------- the command


def test_an_evaluation_writes_json_scalars_and_a_video(fake_pipeline, tmp_path, capsys):
    report = evaluate("folder", 6, str(tmp_path / "out"), seed=2, replan_every=2, scale=0.5, environments=4)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == report
    assert set(report) == {
        *("return_mean", "return_iqm", "return_ci95", "return_std", "return_median", "normalized_score", "reference"),
        *("length_mean", "terminated_share", "plan_ms", "act_ms", "episodes", "environments", "settings", "env_id"),
        *("pipeline", "device", "seed", "video", "video_error", "seconds"),
    }
    assert [(e["seed"], e["return"]) for e in report["episodes"]] == [
        (2, 15),
        (3, 15),
        (4, 6),
        (5, 10),
        (6, 15),
        (7, 15),
    ]
    expected = {"planning_horizon": 4, "scale": 0.5, "warm_start_strength": 1.0, "replan_every": 2}
    assert report["settings"] == expected
    assert (report["video"], report["video_error"], report["environments"]) == ("rollout.gif", None, 4)

    with Image.open(tmp_path / "out" / "rollout.gif") as image:
        assert (image.n_frames, image.size) == (5, (30, 20))
    with Image.open(tmp_path / "out" / "rollout.png") as image:
        assert image.format == "PNG"
    events = EventAccumulator(str(tmp_path / "out")).Reload()
    scalars = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert scalars == pytest.approx(
        {
            "eval/return_mean": report["return_mean"],
            "eval/return_iqm": report["return_iqm"],
            "eval/ep_len_mean": report["length_mean"],
            "eval/plan_time_ms": report["plan_ms"],
        }
    )
    assert events.Images("eval/rollout")[0].encoded_image_string.startswith(b"GIF89a")
    assert "12.7" in capsys.readouterr().out  # the mean, in the table


def test_a_video_that_cannot_be_made_is_reported_and_the_rest_is_written(fake_pipeline, tmp_path, capsys, monkeypatch):
    evaluate("folder", 1, str(tmp_path))
    monkeypatch.setattr(Staircase, "broken", True)
    report = evaluate("folder", 1, str(tmp_path))
    assert report["video"] is None
    assert "no GL today" in report["video_error"]
    assert "No video: drawing failed with RuntimeError: no GL today" in capsys.readouterr().out
    assert not (tmp_path / "rollout.gif").exists()  # the first evaluation's would not belong to this one
    assert (tmp_path / "rollout.png").exists()
    assert json.loads((tmp_path / "evaluation.json").read_text()) == report


def test_an_environment_that_has_no_pictures_is_played_all_the_same(fake_pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(Staircase, "metadata", {"render_modes": []})
    report = evaluate("folder", 1, str(tmp_path))
    assert report["return_mean"] == 6
    assert report["video"] is None
    assert "render_mode" in report["video_error"]


def test_no_video_is_made_and_none_is_missed_if_none_is_wanted(fake_pipeline, tmp_path):
    report = evaluate("folder", 1, str(tmp_path), video=False)
    assert (report["video"], report["video_error"]) == (None, None)


def test_results_go_to_a_folder_named_after_the_pipeline(fake_pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate("exports/hopper/", 1, video=False)
    assert (tmp_path / "runs" / "evaluate" / "hopper" / "evaluation.json").exists()


def test_an_environment_of_other_dimensions_is_refused_with_both(fake_pipeline, tmp_path):
    fake_pipeline.observation_dim = 11
    with pytest.raises(ValueError, match=r"Staircase-v0 has 3 observation and 2 action .* plans 11 and 2.*--env_id"):
        evaluate("folder", 1, str(tmp_path))


def test_the_environment_must_be_known_from_somewhere(fake_pipeline, tmp_path):
    fake_pipeline.task = {"env_id": None, "env_spec": None}
    with pytest.raises(ValueError, match="--env_id"):
        evaluate("folder", 1, str(tmp_path))
    assert evaluate("folder", 1, str(tmp_path), env_id="Staircase-v0")["env_id"] == "Staircase-v0"


def test_the_specification_of_the_dataset_goes_before_its_id(fake_pipeline, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "staircase_module", SimpleNamespace(Staircase=Staircase))
    spec = gymnasium.envs.registration.EnvSpec("Staircase-v0", "staircase_module:Staircase", max_episode_steps=4)
    fake_pipeline.task["env_spec"] = json.loads(spec.to_json())
    report = evaluate("folder", 1, str(tmp_path), seed=3, video=False)
    assert report["episodes"] == [{"seed": 3, "return": 10.0, "length": 4, "terminated": False}]


def test_wrong_settings_are_refused_with_the_folder(fake_pipeline, tmp_path):
    with pytest.raises(ValueError, match="folder cannot plan so: this pipeline has no value function"):
        evaluate("folder", 1, str(tmp_path), n_guide_steps=2)
    with pytest.raises(ValueError, match="episodes is 0"):
        evaluate("folder", 0, str(tmp_path))


def test_a_folder_that_is_no_pipeline_is_refused_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(ValueError, match=r"no model_index\.json; make one: vgp export"):
        evaluate(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match="holds a StableDiffusionPipeline, not a ValueGuidedPlannerPipeline"):
        evaluate(str(tmp_path))


def test_references_survive_json():
    reference = choose_reference("Hopper-v5")
    assert Reference(**json.loads(json.dumps(asdict(reference)))) == reference
