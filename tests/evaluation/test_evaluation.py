"""Evaluation: returns and lengths by hand, statistics against formulas, and what is written."""

import hashlib
import inspect
import json
import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from fakes import H, write_tiny
from gymnasium import spaces
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vgp_lightning.agent import deployment, playing
from vgp_lightning.agent.behaviours import make_behaviour
from vgp_lightning.agent.collection import collect
from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.store import EpisodeStore
from vgp_lightning.diagnostics.diagnosis import diagnose
from vgp_lightning.evaluation.evaluation import evaluate, evaluate_agent
from vgp_lightning.evaluation.scores import Reference
from vgp_lightning.pipeline.plan import Plan
from vgp_lightning.report.film import Recorder
from vgp_lightning.tuning.search import tune


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
    value_function = None

    def __init__(self, **task):
        self.task = task

    def to(self, device):
        return self

    def resolve_settings(self, objectives=None, **settings):
        if settings.get("n_guide_steps"):
            raise ValueError("this pipeline has no value function")
        return {
            "planning_horizon": 4,
            "scale": 0.1,
            "warm_start_strength": 1.0,
            "replan_every": 1,
            "rank_by": "value",
        } | settings

    def __call__(self, observation, generator, **settings):
        count = len(observation)
        return Plan(torch.zeros(count, 4, 2), torch.zeros(count, 4, 3), torch.zeros(count))


@pytest.fixture(autouse=True)
def staircase():
    gymnasium.register("Staircase-v0", entry_point=Staircase, max_episode_steps=5)
    yield
    del gymnasium.registry["Staircase-v0"]


@pytest.fixture
def fake_pipeline(monkeypatch):
    """Put a pipeline without networks in the place of a folder's."""
    pipeline = FakePipeline(env_id="Staircase-v0")
    monkeypatch.setattr(deployment, "load_pipeline", lambda folder, device="auto": pipeline)
    return pipeline


# ---------------------------------------------------------------- playing


class Reporter(gymnasium.Env):
    """Lasts 4 steps. By its seed: 0 reports success at its last step, 1 in between and loses it again, 2 never."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Box(-1, 1, (2,))
    key, silent = "success", False

    def reset(self, *, seed=None, options=None):
        # An idle environment has no seed, and succeeds all the time.
        self.t, self.successes = 0, {0: [4], 1: [2], 2: [], None: [1, 2, 3, 4]}[seed]
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.t += 1
        info = {} if self.silent else {self.key: self.t in self.successes}
        return np.zeros(3, np.float32), 0.0, self.t == 4, False, info


@pytest.fixture
def reporter():
    gymnasium.register("Reporter-v0", entry_point=Reporter)
    yield
    del gymnasium.registry["Reporter-v0"]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("key", ["success", "is_success"])
def test_an_episode_succeeds_if_any_of_its_steps_reports_success(reporter, monkeypatch, key, count):
    monkeypatch.setattr(Reporter, "key", key)
    environments = make_environments("Reporter-v0", count)
    report = evaluate_agent(Idler(), environments, [1, 0, 2])
    environments.close()
    assert [episode["success"] for episode in report["episodes"]] == [True, True, False]
    assert [episode["first_success"] for episode in report["episodes"]] == [2, 4, None]
    assert report["first_success_mean"] == 3
    assert report["success_rate"] == pytest.approx(2 / 3)
    # Wilson: (2/3 + z^2/6 -+ z sqrt(2/27 + z^2/36)) / (1 + z^2/3) with z = 1.96
    assert report["success_rate_ci95"] == pytest.approx([0.20766, 0.93851], abs=1e-4)


def test_an_environment_that_reports_no_success_has_no_success_rate(reporter, monkeypatch):
    monkeypatch.setattr(Reporter, "silent", True)
    environments = make_environments("Reporter-v0", 2)
    report = evaluate_agent(Idler(), environments, [0, 1])
    environments.close()
    assert [episode["success"] for episode in report["episodes"]] == [None, None]
    assert (report["success_rate"], report["success_rate_ci95"], report["first_success_mean"]) == (None, None, None)


def test_a_point_maze_that_ends_at_its_goal_succeeds_where_it_terminates():
    environments = make_environments("PointMaze_UMaze-v3", 4, continuing_task=False, max_episode_steps=60)
    report = evaluate_agent(make_behaviour("waypoint", environments), environments, range(8))
    environments.close()
    episodes = report["episodes"]
    assert {episode["success"] for episode in episodes} == {True, False}
    assert [episode["success"] for episode in episodes] == [episode["terminated"] for episode in episodes]


def test_in_a_maze_plans_can_end_at_the_goal_and_a_controller_can_follow_their_states(tmp_path, monkeypatch, capsys):
    pytest.importorskip("gymnasium_robotics")
    task = {"env_id": "PointMaze_UMaze-v3"}
    folder = write_tiny(tmp_path / "maze", task=task, dimensions=(2, 8), batch_size=1, n_guide_steps=0)
    asked, agent = [], deployment.Deployment.agent

    def seen(self, conditions=None, controller=None, **options):
        asked.append((conditions, controller))
        return agent(self, conditions, controller, **options)

    monkeypatch.setattr(deployment.Deployment, "agent", seen)
    options = {"episodes": 1, "max_episode_steps": 3, "video": False}
    plain = evaluate(str(folder), output_dir=str(tmp_path / "plain"), **options)
    assert (asked.pop(), plain["reach_goal"], plain["follow_states"]) == ((None, None), False, False)
    led = evaluate(str(folder), output_dir=str(tmp_path / "led"), reach_goal=True, follow_states=True, **options)
    ((conditions, controller),) = asked
    assert (led["reach_goal"], led["follow_states"]) == (True, True)
    assert "a position controller, which follows the plans' states" in capsys.readouterr().out
    # The flat observation: achieved goal, desired goal, position, velocity.
    ((step, last),) = conditions(np.arange(8.0)[None]).items()
    assert step == -1
    np.testing.assert_array_equal(last, [[2, 3, np.nan, np.nan, 2, 3, 0, 0]])
    planned = np.array([[0, 0, 0, 0, 4.5, 5, 6, 9]])
    assert controller(np.arange(8.0)[None], planned).tolist() == [[10 * 0.5 + 0, 0 + 1 * 2]]


def test_the_film_of_a_maze_marks_the_positions_of_the_plan_that_is_executed(tmp_path, monkeypatch):
    pytest.importorskip("gymnasium_robotics")
    folder = write_tiny(tmp_path / "maze", task={"env_id": "PointMaze_UMaze-v3"}, dimensions=(2, 8), replan_every=3)
    shown, record = [], Recorder.record

    def seen(self, observation, action, reward, aerial):
        shown.append((observation, aerial))
        return record(self, observation, action, reward, aerial)

    monkeypatch.setattr(Recorder, "record", seen)
    evaluate(str(folder), 1, str(tmp_path / "results"), seed=5, max_episode_steps=7)
    # Every plan of this planner begins at what is observed, and its first two dimensions are the position.
    begins = [aerial.points[0] for _, aerial in shown]
    np.testing.assert_array_equal(begins, [shown[step][0][:2].astype(np.float32) for step in (0, 0, 0, 3, 3, 3, 6)])
    assert {aerial.points.shape for _, aerial in shown} == {(H, 2)}
    with Image.open(tmp_path / "results" / "rollout.gif") as film:
        assert film.width == 480


@pytest.mark.parametrize("option", ["reach_goal", "follow_states"])
def test_where_there_is_no_maze_its_options_are_refused(fake_pipeline, option):
    with pytest.raises(ValueError, match=f"{option} is for mazes, and Staircase-v0 is none: leave it out"):
        evaluate("folder", **{option: True})


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
    assert report["normalized_score_ci95"] is None  # of so few
    assert report["success_rate"] is None
    assert report["success_rate_ci95"] is None
    assert report["episodes"][3] == {
        "seed": 3,
        "sampler_seed": 3,
        "return": 15.0,
        "length": 5,
        "terminated": False,
        "truncated": True,
        "success": None,
        "first_success": None,
        "normalized_score": 67.5,
    }


def test_the_time_of_a_plan_is_told_from_the_time_of_following_it(monkeypatch):
    # Two environments, of 3 and 5 steps, that plan at their steps 0, 2 and 4: the calls 0, 2 and 4 of five plan.
    steps = [
        SimpleNamespace(
            episode=np.array([0 if t < 3 else -1, 1]),
            observations=np.zeros((2, 3)),
            next_observations=np.zeros((2, 3)),
            actions=np.zeros((2, 2)),
            rewards=np.ones(2),
            terminated=np.array([t == 2, t == 4]),
            truncated=np.array([False, False]),
            infos={},
            seconds=seconds,
        )
        for t, seconds in enumerate([0.3, 0.001, 0.3, 0.001, 0.3])
    ]
    for step in steps:
        step.stop = np.zeros(2, dtype=bool)

    def play_steps(agent, environments, take):
        played = [] if take() is None or take() is None else steps
        return iter(played)

    monkeypatch.setattr(playing, "step_episodes", play_steps)
    report = evaluate_agent(Idler(), None, [0, 1], replan_every=2)
    assert report["plan_ms"] == pytest.approx(300)
    assert report["act_ms"] == pytest.approx(1000 * 0.902 / 5)
    steps[4].seconds = 0.001
    store = EpisodeStore(None)
    report = evaluate_agent(Idler(), None, [0, 1], replan_every=0, store=store)  # the call 0 alone
    assert report["plan_ms"] == pytest.approx(300)
    # The call was noted with the episode that ended first; of the other one no time of planning is known.
    assert evaluate_agent(Idler(), None, [1], replan_every=0, store=store)["plan_ms"] is None


# ---------------------------------------------------------------- the command


def default_seeds(command, *counts):
    """Return the seeds that a command plays by default: as many as its options of these names say."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
    return range(defaults["seed"], defaults["seed"] + sum(defaults[name] for name in counts))


def test_by_default_no_command_plays_the_seeds_of_collected_episodes_or_of_the_search_for_settings():
    # With the same seed an environment begins in the same state: an evaluation would start where the data do.
    evaluated, diagnosed = default_seeds(evaluate, "episodes"), default_seeds(diagnose, "episodes")
    tuned = default_seeds(tune, "episodes", "holdout_episodes")
    first = inspect.signature(collect).parameters["seed"].default
    collected = range(first, first + 1_000_000)
    assert [set(seeds) & set(collected) for seeds in (evaluated, diagnosed, tuned)] == [set()] * 3
    assert [set(seeds) & set(tuned) for seeds in (evaluated, diagnosed)] == [set()] * 2
    assert set(diagnosed) <= set(evaluated)  # a diagnosis explains episodes of an evaluation


def test_an_evaluation_writes_json_scalars_and_a_video(fake_pipeline, tmp_path, capsys):
    report = evaluate("folder", 6, str(tmp_path / "out"), seed=2, replan_every=2, scale=0.5, environments=4)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == report
    assert set(report) == {
        *("return_mean", "return_iqm", "return_ci95", "return_iqm_ci95", "return_std", "return_median"),
        *("return_median_ci95", "normalized_score", "normalized_score_ci95", "reference", "success_rate"),
        *("success_rate_ci95", "length_mean", "terminated_share", "plan_ms", "act_ms", "episodes", "environments"),
        *(
            "settings",
            "env_id",
            "env_spec",
            "pipeline",
            "value_function",
            "weights_sha256",
            "versions",
            "device",
            "seed",
        ),
        *("checkpoints", "sampler_seed", "video", "video_error", "seconds", "failed_episodes", "threads", "delay"),
        *("first_success_mean", "reach_goal", "follow_states", "options"),
    }
    assert [(e["seed"], e["return"]) for e in report["episodes"]] == [
        (2, 15),
        (3, 15),
        (4, 6),
        (5, 10),
        (6, 15),
        (7, 15),
    ]
    expected = {"rank_by": "value", "planning_horizon": 4, "scale": 0.5, "warm_start_strength": 1.0, "replan_every": 2}
    assert report["settings"] == expected
    assert (report["video"], report["video_error"], report["environments"]) == ("rollout.gif", None, 4)

    with Image.open(tmp_path / "out" / "rollout.gif") as image:
        assert (image.n_frames, image.size) == (2, (30, 20))  # steps 1 and 4 of 5
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


def test_a_report_names_the_seeds_the_environment_the_weights_and_the_versions(fake_pipeline, tmp_path):
    folder = tmp_path / "folder"
    for network in ("unet", "value_function"):
        (folder / network).mkdir(parents=True)
        (folder / network / "weights.safetensors").write_bytes(network.encode())
    report = evaluate(str(folder), 2, str(tmp_path / "out"), seed=5, sampler_seed=100, env_id="Staircase-v0")
    assert [(e["seed"], e["sampler_seed"]) for e in report["episodes"]] == [(5, 100), (6, 101)]
    assert (report["seed"], report["sampler_seed"]) == (5, 100)
    assert report["checkpoints"] is None  # a folder of before they were noted
    # As with and without a video, and without what flattens observations.
    assert (
        report["env_spec"]
        == evaluate(str(folder), 1, str(tmp_path / "out"), video=False)["env_spec"]
        == {
            "id": "Staircase-v0",
            "entry_point": f"{__name__}:Staircase",
            "reward_threshold": None,
            "nondeterministic": False,
            "max_episode_steps": 5,
            "order_enforce": True,
            "disable_env_checker": False,
            "kwargs": {},
            "additional_wrappers": [],
            "vector_entry_point": None,
        }
    )
    assert gymnasium.envs.registration.EnvSpec.from_json(json.dumps(report["env_spec"])).max_episode_steps == 5
    # $ sha256sum */*.safetensors | sha256sum
    lines = [
        f"{hashlib.sha256(network.encode()).hexdigest()}  {network}/weights.safetensors\n"
        for network in ("unet", "value_function")
    ]
    assert report["weights_sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert report["versions"]["torch"] == torch.__version__
    assert report["versions"]["gymnasium"] == gymnasium.__version__
    assert report["versions"].keys() >= {"vgp_lightning", "mujoco"}


def test_a_report_names_the_checkpoints_of_the_folder(fake_pipeline, tmp_path):
    fake_pipeline.task["checkpoints"] = {"planner": {"file": "last.ckpt", "step": 15000}}
    report = evaluate("folder", 1, str(tmp_path), video=False)
    assert report["checkpoints"] == {"planner": {"file": "last.ckpt", "step": 15000}}


def test_a_video_that_cannot_be_made_is_reported_and_the_rest_is_written(fake_pipeline, tmp_path, capsys, monkeypatch):
    evaluate("folder", 1, str(tmp_path))
    monkeypatch.setattr(Staircase, "broken", True)
    report = evaluate("folder", 1, str(tmp_path), again=True)
    assert report["video"] is None
    assert "no GL today" in report["video_error"]
    assert "No video: rendering failed with RuntimeError: no GL today" in capsys.readouterr().out
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
    with pytest.raises(
        ValueError, match=r"folder names Staircase-v0 with the entry_point 'staircase_module:Staircase'"
    ):
        evaluate("folder", 1, str(tmp_path), seed=3, video=False)
    report = evaluate("folder", 1, str(tmp_path), seed=3, video=False, trust_environment=True)
    (episode,) = report["episodes"]
    assert (episode["return"], episode["length"], episode["truncated"]) == (10.0, 4, True)
    assert report["env_spec"]["max_episode_steps"] == 4


def test_wrong_settings_are_refused_with_the_folder(fake_pipeline, tmp_path):
    with pytest.raises(ValueError, match="folder cannot plan with these settings: this pipeline has no value function"):
        evaluate("folder", 1, str(tmp_path), n_guide_steps=2)
    with pytest.raises(ValueError, match="episodes is 0"):
        evaluate("folder", 0, str(tmp_path))


def test_a_folder_that_is_no_pipeline_is_refused_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(ValueError, match=r"has no model_index\.json; make one: vgp export"):
        evaluate(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match="holds a StableDiffusionPipeline, not a ValueGuidedPlannerPipeline"):
        evaluate(str(tmp_path))


# ---------------------------------------------------------------- what was played before


def no_step(*_):
    pytest.fail("an episode was played again")


def test_the_same_command_again_prints_the_result_and_plays_nothing(fake_pipeline, tmp_path, monkeypatch, capsys):
    first = evaluate("folder", 3, str(tmp_path), seed=2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Staircase, "step", no_step)
        assert evaluate("folder", 3, str(tmp_path), seed=2, environments=1) == first
    printed = capsys.readouterr().out
    assert f"3 of 3 episodes were played before, in {tmp_path / 'episodes'}: --again true plays them anew" in printed
    assert "12.0" in printed
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    again = evaluate("folder", 3, str(tmp_path), seed=2, again=True)
    assert (again["episodes"], again["seconds"] != first["seconds"]) == (first["episodes"], True)


def test_more_episodes_play_only_the_new_ones(fake_pipeline, tmp_path, monkeypatch):
    evaluate("folder", 2, str(tmp_path), seed=2)
    seeds, reset = [], Staircase.reset

    def noted(self, *, seed=None, options=None):
        seeds.extend([] if seed is None else [seed])
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(Staircase, "reset", noted)
    report = evaluate("folder", 5, str(tmp_path), seed=2)
    assert seeds == [4, 5, 6]
    assert [(e["seed"], e["return"]) for e in report["episodes"]] == [(2, 15), (3, 15), (4, 6), (5, 10), (6, 15)]
    assert report["video"] == "rollout.gif"
    fewer = evaluate("folder", 1, str(tmp_path), seed=2)
    assert [e["seed"] for e in fewer["episodes"]] == [2]
    assert json.loads((tmp_path / "evaluation.json").read_text()) == fewer


@pytest.mark.parametrize("change", [{"seed": 3}, {"sampler_seed": 9}, {"scale": 0.7}, {"max_episode_steps": 4}])
def test_what_decides_an_episode_makes_it_another(fake_pipeline, tmp_path, change):
    evaluate("folder", 1, str(tmp_path), **{"seed": 2, **change})
    before = len(list((tmp_path / "episodes").glob("*.jsonl")))
    evaluate("folder", 1, str(tmp_path), seed=2)
    assert (before, len(list((tmp_path / "episodes").glob("*.jsonl")))) == (1, 2)


def test_a_time_limit_can_be_given(fake_pipeline, tmp_path):
    report = evaluate("folder", 1, str(tmp_path), seed=3, max_episode_steps=2)
    (episode,) = report["episodes"]
    assert (episode["length"], episode["return"], episode["truncated"]) == (2, 3, True)
    assert report["env_spec"]["max_episode_steps"] == 2
    with pytest.raises(ValueError, match="max_episode_steps is 0: at least 1"):
        evaluate("folder", 1, str(tmp_path), max_episode_steps=0)


def test_an_environment_without_a_time_limit_is_a_warning(fake_pipeline, tmp_path, capsys):
    evaluate("folder", 1, str(tmp_path))
    assert capsys.readouterr().err == ""
    gymnasium.register("Endless-v0", entry_point=Staircase)
    evaluate("folder", 1, str(tmp_path), env_id="Endless-v0")
    del gymnasium.registry["Endless-v0"]
    assert "Endless-v0 has no time limit" in capsys.readouterr().err.replace("\n", " ")


def test_a_video_that_was_not_wanted_at_first_is_missing_with_the_remedy(fake_pipeline, tmp_path):
    evaluate("folder", 1, str(tmp_path), video=False)
    report = evaluate("folder", 1, str(tmp_path))
    assert report["video"] is None
    assert "--again true" in report["video_error"]
    assert evaluate("folder", 1, str(tmp_path), again=True)["video"] == "rollout.gif"


def test_pictures_that_were_lost_are_there_again(fake_pipeline, tmp_path):
    evaluate("folder", 1, str(tmp_path))
    (tmp_path / "rollout.gif").unlink()
    assert evaluate("folder", 1, str(tmp_path))["video"] == "rollout.gif"
    assert (tmp_path / "rollout.gif").exists()


# ---------------------------------------------------------------- what goes wrong


def test_an_episode_of_a_reward_that_is_no_number_is_listed_and_does_not_count(
    fake_pipeline, tmp_path, monkeypatch, capsys
):
    step = Staircase.step

    def faulty(self, action):
        observation, reward, *rest = step(self, action)
        return observation, np.nan if self.t == 2 and self.length == 4 else reward, *rest

    monkeypatch.setattr(Staircase, "step", faulty)
    report = evaluate("folder", 3, str(tmp_path))  # of lengths 3, 4 and 5
    assert [episode["return"] for episode in report["episodes"]] == [6, 15]
    failure = {"seed": 1_000_001, "agent_seed": 1_000_001, "step": 1, "reason": "the environment's reward is nan"}
    assert report["failed_episodes"] == [failure]
    assert report["return_mean"] == 10.5
    assert json.loads((tmp_path / "evaluation.json").read_text()) == report
    assert "Failed, and not in the statistics: seed 1000001, step 1: the environment's reward is nan" in (
        capsys.readouterr().out
    )
    monkeypatch.setattr(Staircase, "step", no_step)
    assert evaluate("folder", 3, str(tmp_path)) == report


@pytest.mark.filterwarnings("ignore::UserWarning")  # gymnasium's checker sees it too
def test_where_all_episodes_fail_the_first_reason_is_the_error(fake_pipeline, tmp_path, monkeypatch):
    step = Staircase.step

    def faulty(self, action):
        observation, *rest = step(self, action)
        return observation * np.inf, *rest

    monkeypatch.setattr(Staircase, "step", faulty)
    with pytest.raises(ValueError, match=r"none of 2 episodes .* seed 1000000, step 0: .*observation is not finite"):
        evaluate("folder", 2, str(tmp_path))


def test_a_planner_that_fails_in_one_episode_does_not_take_the_others_with_it(fake_pipeline, tmp_path, monkeypatch):
    def plan(observation, generator, **settings):
        if any(
            one.initial_seed() == 1_000_001 and row[0] == 2 for one, row in zip(generator, observation, strict=True)
        ):
            raise ValueError("the plan is not finite")
        count = len(observation)
        return Plan(torch.zeros(count, 4, 2), torch.zeros(count, 4, 3), torch.zeros(count))

    monkeypatch.setattr(FakePipeline, "__call__", staticmethod(plan))
    report = evaluate("folder", 3, str(tmp_path))
    assert [episode["return"] for episode in report["episodes"]] == [6, 15]
    (failed,) = report["failed_episodes"]
    assert (failed["seed"], failed["step"]) == (1_000_001, 2)
    assert failed["reason"].endswith("the plan is not finite")


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_an_output_folder_that_cannot_be_is_refused_before_anything_is_played(
    fake_pipeline, tmp_path, monkeypatch, kind
):
    (tmp_path / "out").touch()
    monkeypatch.setattr(Staircase, "step", no_step)
    with pytest.raises(OSError, match="out"):
        evaluate("folder", 1, str(tmp_path / "out" / ("" if kind == "file" else "deeper")))


def test_a_delay_is_reported_and_part_of_what_identifies_an_episode(fake_pipeline, tmp_path, capsys):
    options = {"replan_every": 2, "environments": 2}
    report = evaluate("folder", 2, str(tmp_path), delay=2, **options)
    assert report["delay"] == 2
    assert "│ delay" in capsys.readouterr().out
    assert evaluate("folder", 2, str(tmp_path), delay=0, **options)["delay"] == 0
    printed = capsys.readouterr().out
    assert "were played before" not in printed
    assert "│ delay" not in printed
    evaluate("folder", 2, str(tmp_path), delay=2, **options)
    assert "2 of 2 episodes were played before" in capsys.readouterr().out
    stores = [json.loads(path.read_text().splitlines()[0])["identity"] for path in tmp_path.glob("episodes/*.jsonl")]
    assert sorted(store.get("delay", 0) for store in stores) == [0, 2]
    assert all("delay" not in store for store in stores if store.get("delay") != 2)  # as before there were delays


def test_an_episode_with_a_delay_does_not_depend_on_the_others(track, tmp_path):
    folder = write_tiny(tmp_path / "folder", task={"env_id": "Track-v0"})
    options = {"delay": 2, "replan_every": 3, "warm_start_strength": 0.5, "max_episode_steps": 12, "video": False}
    returns = [
        [episode["return"] for episode in evaluate(str(folder), 4, str(tmp_path / name), **options | more)["episodes"]]
        for name, more in (("one", {"environments": 1}), ("all", {"environments": 4}), ("at once", {"delay": 0}))
    ]
    assert returns[0] == returns[1]
    assert returns[0] != returns[2]


def test_an_interruption_keeps_what_was_finished(fake_pipeline, tmp_path, monkeypatch):
    whole = evaluate("folder", 4, str(tmp_path / "whole"), environments=1)
    step, left = Staircase.step, [9]

    def interrupted(self, action):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(self, action)

    with monkeypatch.context() as patch:
        patch.setattr(Staircase, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate("folder", 4, str(tmp_path / "out"), environments=1)
    assert not (tmp_path / "out" / "evaluation.json").exists()
    report = evaluate("folder", 4, str(tmp_path / "out"), environments=1)
    times = ("seconds", "plan_ms", "act_ms")
    assert {k: v for k, v in report.items() if k not in times} == {k: v for k, v in whole.items() if k not in times}


def test_a_name_in_square_brackets_is_printed_as_it_is(fake_pipeline, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate("folder", 1, "[/red]x")
    assert "[/red]x" in capsys.readouterr().out
