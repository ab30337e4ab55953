"""vgp diagnose, from the folder to the files, and each of its findings where the answer is known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from fakes import NUMPY_2, Track, recorded, recording
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.mazes import Maze
from vgp_lightning.cli import main
from vgp_lightning.diagnostics.diagnosis import diagnose
from vgp_lightning.diagnostics.findings import (
    Findings,
    choose_plans,
    examine_guidance,
    examine_plans,
    examine_values,
    goal_condition,
)
from vgp_lightning.diagnostics.measures import Sampled
from vgp_lightning.pipeline.networks import make_denoiser, make_value_function
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

LINES = {"calibration.png", "ranking.png", "horizon.png", "dynamics.png", "guidance.png", "denoising.png"}


@pytest.fixture
def make_folder(tmp_path):
    """Save a tiny untrained planner, of plans of 4 steps."""

    def make(actions=1, observations=2, value=True, task=None, **planner):
        total = actions + observations
        torch.manual_seed(0)
        ValueGuidedPlannerPipeline(
            make_denoiser(total, 4, [16, 16]),
            DDPMScheduler(5, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False),
            make_value_function(total, 4, [16, 64]) if value else None,
            normalization={
                "action_dim": actions,
                "shift": [0.0] * total,
                "scale": [1.0] * total,
                "return_shift": 0.0,
                "return_scale": 1.0,
                "action_low": [-1.0] * actions,
                "action_high": [1.0] * actions,
            },
            planner={"planning_horizon": 4, "batch_size": 3, "sampler": "ddim", "num_inference_steps": 3, **planner},
            task={"env_id": "Track-v0", "discount": 0.5, "termination_penalty": -10.0, **(task or {})},
        ).save_pretrained(tmp_path / "tiny")
        return str(tmp_path / "tiny")

    return make


# ---------------------------------------------------------------- the front door


def test_a_diagnosis_writes_numbers_pictures_and_events(track, make_folder, tmp_path, capsys):
    output = tmp_path / "out"
    main(["diagnose", make_folder(), "--episodes", "3", "--starts", "2", "--output_dir", str(output), "--seed", "4"])

    def refuse(word):
        raise AssertionError(f"the report holds {word}")

    report = json.loads((output / "diagnostics.json").read_text(), parse_constant=refuse)
    assert [(episode["seed"], episode["length"]) for episode in report["episodes"]] == [(4, 6), (5, 6), (6, 6)]
    assert report["missing"] == {}
    assert set(report["pictures"]) == LINES | {"denoising.gif", "rollout.gif"}
    assert report["settings"]["planning_horizon"] == 4
    assert (report["starts"], report["env_id"], report["video_error"]) == (2, "Track-v0", None)
    assert report["calibration"]["all"]["count"] == 18
    assert report["own_actions"]["starts"] == report["guidance"]["observations"] == 6
    assert report["horizon"]["plans"] == [18, 18, 15, 12]
    for name in report["pictures"]:
        with Image.open(output / name) as image:
            image.verify()
    with Image.open(output / "denoising.gif") as image:
        assert image.n_frames == 3
    events = EventAccumulator(str(output)).Reload()
    assert {f"diagnose/{name.removesuffix('.png')}" for name in LINES} <= set(events.Tags()["images"])
    assert events.Images("diagnose/rollout_film")[0].encoded_image_string.startswith(b"GIF89a")
    assert events.Scalars("diagnose/return_mean")[0].value == pytest.approx(report["return_mean"], rel=1e-5)
    assert events.Scalars("diagnose/one_step_error")[0].value == pytest.approx(report["dynamics"]["mean"], rel=1e-5)
    printed = capsys.readouterr().out
    assert "rank correlation" in printed
    assert "successive steps are alike" in printed


def test_settings_take_the_place_of_the_folders(track, make_folder, tmp_path):
    options = ["--episodes", "1", "--settings.replan_every", "2", "--settings.batch_size", "2", "--video", "false"]
    main(["diagnose", make_folder(), *options, "--output_dir", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "diagnostics.json").read_text())
    assert (report["settings"]["replan_every"], report["settings"]["batch_size"]) == (2, 2)
    assert report["guidance"]["candidates"] == 2
    assert report["episodes"][0]["plans"] == 3
    assert "rollout.gif" not in report["pictures"]
    assert report["video_error"] is None


def test_the_same_seeds_give_the_same_numbers(track, make_folder, tmp_path):
    first, second = (diagnose(make_folder(), 2, str(tmp_path / "out"), video=False) for _ in range(2))
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in second.items() if k != "seconds"}


def test_without_a_value_function_its_parts_are_null_with_the_remedy(track, make_folder, tmp_path, capsys):
    diagnose(make_folder(), 1, str(tmp_path / "out"))
    report = diagnose(make_folder(value=False), 1, str(tmp_path / "out"))
    assert (report["calibration"], report["ranking"], report["guidance"]) == (None, None, None)
    assert set(report["missing"]) == {"calibration", "ranking", "guidance"}
    assert all("export with --value" in reason for reason in report["missing"].values())
    assert "No guidance: the folder has no value function" in capsys.readouterr().out
    assert not (tmp_path / "out" / "calibration.png").exists()  # the first diagnosis' would not belong to this one
    assert report["dynamics"]["mean"] is not None


def test_without_guidance_there_is_no_gain_and_the_reason_is_said(track, make_folder, tmp_path):
    report = diagnose(make_folder(n_guide_steps=0), 1, str(tmp_path / "out"), video=False)
    assert report["guidance"] is None
    assert "n_guide_steps is 0" in report["missing"]["guidance"]
    assert report["calibration"] is not None


@NUMPY_2
@pytest.mark.parametrize("sampler", ["ddpm", "unipc"])
def test_guidance_of_no_strength_moves_nothing(track, make_folder, tmp_path, sampler):
    folder = make_folder(sampler=sampler, n_guide_steps=1, scale=1e-9)  # without guide steps UniPC would correct
    guidance = diagnose(folder, 1, str(tmp_path / "out"), video=False)["guidance"]
    assert guidance["moved"] < 1e-6 < guidance["apart"]
    assert guidance["one_step_guided"] == pytest.approx(guidance["one_step_unguided"])


def test_without_a_discount_promises_cannot_be_held_against_returns(track, make_folder, tmp_path):
    report = diagnose(make_folder(task={"discount": None}), 1, str(tmp_path / "out"), video=False)
    assert report["calibration"] is None
    assert "discount" in report["missing"]["calibration"]


def test_an_environment_that_cannot_be_repeated_has_no_own_actions(track, make_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Track, "slip", np.random.default_rng(0))
    report = diagnose(make_folder(), 1, str(tmp_path / "out"), video=False)
    assert report["own_actions"] is None
    assert (report["guidance"]["one_step_guided"], report["guidance"]["one_step_unguided"]) == (None, None)
    for part in ("own_actions", "guidance.one_step"):
        assert "goes another way" in report["missing"][part]
    assert report["horizon"]["replanned"][1] is not None


def test_an_episode_that_is_shorter_than_a_plan_has_no_ranking(track, make_folder, tmp_path, monkeypatch):
    step = Track.step
    monkeypatch.setattr(Track, "step", lambda self, action: (*step(self, action)[:2], True, False, {}))
    report = diagnose(make_folder(), 2, str(tmp_path / "out"), video=False)
    assert report["ranking"] is None
    assert "no episode lasts the 4 steps" in report["missing"]["ranking"]
    assert report["horizon"]["plans"] == [2, 2, 0, 0]
    assert report["horizon"]["replanned"][2:] == [None, None]


def test_a_film_that_cannot_be_made_is_reported_in_one_line(track, make_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Track, "render", lambda self: 1 / 0)
    report = diagnose(make_folder(), 1, str(tmp_path / "out"))
    assert "ZeroDivisionError" in report["video_error"]
    assert "No video: drawing failed with ZeroDivisionError" in capsys.readouterr().out


def test_results_go_to_a_folder_named_after_the_pipeline(track, make_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    diagnose(make_folder(), 1, video=False)
    assert (tmp_path / "runs" / "diagnose" / "tiny" / "diagnostics.json").exists()


def test_a_place_for_the_results_that_is_none_is_refused_before_anything_is_played(
    track,
    make_folder,
    tmp_path,
    monkeypatch,
):
    (tmp_path / "out").touch()
    monkeypatch.setattr(Track, "step", None)
    with pytest.raises(FileExistsError, match="out"):
        diagnose(make_folder(), 1, str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes is 0"),
        ({"starts": 0}, "starts is 0"),
        ({"reach_goal": True}, "reach_goal is for mazes, which Track-v0 is not"),
        ({"settings": {"scael": 1}}, r"tiny cannot plan so: unknown settings \['scael'\]"),
        ({"settings": {"batch_size": 0}}, "tiny cannot plan so: batch_size is 0"),
        ({"env_id": "Pendulum-v1"}, "has 3 observation and 1 action"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused_with_the_reason(track, make_folder, options, message):
    with pytest.raises(ValueError, match=message):
        diagnose(make_folder(), **options)


def test_a_folder_that_is_no_planner_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        diagnose(str(tmp_path))


# ---------------------------------------------------------------- mazes


def test_in_a_maze_plans_are_drawn_between_its_walls(make_folder, tmp_path):
    pytest.importorskip("gymnasium_robotics")
    task = {"env_id": "PointMaze_UMaze-v3"}
    folder = make_folder(2, 8, value=False, task=task)
    options = {"settings": {"replan_every": 4}, "reach_goal": True, "starts": 3, "video": False}
    report = diagnose(folder, 1, str(tmp_path / "out"), **options)
    assert {"plans.png", "denoising_maze.png", "denoising_maze.gif"} <= set(report["pictures"])
    assert report["reach_goal"]
    with Image.open(tmp_path / "out" / "denoising_maze.gif") as image:
        assert image.n_frames == 3
    assert report["own_actions"] is not None  # the mazes are repeatable


def test_plans_that_are_to_reach_the_goal_end_there_and_are_free_elsewhere():
    reach = goal_condition(Maze(np.zeros((1, 2)), 1.0, slice(0, 2), slice(2, 4)))
    ((step, last),) = reach(np.array([[1.0, 2, 3, 4, 5]])).items()
    assert step == -1
    np.testing.assert_array_equal(last, [[3, 4, np.nan, np.nan, np.nan]])


# ---------------------------------------------------------------- plans

# An action that counts as it is, x in units of 2, y in units of 4.
UNITS = {"shift": [0.0] * 3, "scale": [1.0, 2.0, 4.0], "action_low": [-1.0], "action_high": [1.0]}


@pytest.fixture
def replays(track):
    environments = make_environments("Track-v0", 1)
    yield environments
    environments.close()


def test_the_chosen_plans_are_spread_evenly_over_each_episode(track):
    recordings = recorded([7, 8])  # of 6 plans each
    assert choose_plans(recordings, 3) == [(one, number) for one in recordings for number in (0, 2, 4)]
    assert [number for _, number in choose_plans(recordings[:1], 9)] == [0, 1, 2, 3, 4, 5]


def test_plans_are_held_against_where_their_actions_lead_in_normalised_units(replays):
    recordings = recorded([7])  # 0.3 a step in x; its plans know that
    recordings[0].plans[:, 1:, 2] += 0.8  # but expect y to change
    findings = Findings()
    pipeline = SimpleNamespace(action_dim=1, normalization=UNITS)
    examine_plans(findings, pipeline, recordings, replays, [(recordings[0], 0), (recordings[0], 2)])
    wrong, move = 0.8 / 4 / np.sqrt(2), 0.3 / 2 / np.sqrt(2)
    own, horizon = findings.numbers["own_actions"], findings.numbers["horizon"]
    for errors, movement in ((own["distance"], own["movement"]), (horizon["replanned"], horizon["movement"])):
        np.testing.assert_allclose(errors, [0, wrong, wrong, wrong], atol=1e-6)
        np.testing.assert_allclose(movement, [0, move, 2 * move, 3 * move], atol=1e-6)
    assert own["foretold"] == horizon["foretold"] == pytest.approx(2 / 3)  # 0.2 is above 0.15 and below 0.3
    assert own["starts"] == 2


def test_each_sides_first_step_is_held_against_where_its_own_action_leads(replays):
    (episode,) = recorded([7])
    standing = episode.observations[[1]]
    x, y = standing[0]
    # Of two steps: an action of 1.5, of which 1 is executed; one expects that, the other no change.
    knows, idle = ([[[1.5, x / 2, y / 4], [0, (x + moved) / 2, y / 4]]] for moved in (1, 0))
    values = np.zeros((1, 1), np.float32)
    guided, unguided = (Sampled(np.array([plan], np.float32), values, np.zeros(0), []) for plan in (knows, idle))
    findings = Findings()
    pipeline = SimpleNamespace(action_dim=1, normalization=UNITS)
    examine_guidance(findings, pipeline, unguided, guided, replays, [(episode, 1)], standing)
    guidance = findings.numbers["guidance"]
    assert guidance["one_step_guided"] == pytest.approx(0, abs=1e-6)
    assert guidance["one_step_unguided"] == pytest.approx(1, abs=1e-6)


# ---------------------------------------------------------------- values


def test_a_perfect_value_is_on_the_line_with_the_penalty_of_the_end():
    # Returns with discount 0.5 and penalty -10: from the end -6, -1, 0.5. The other, which is cut: 3, 4, 4.
    ended = recording(np.zeros((4, 1)), [1, 2, 4], np.zeros((3, 2, 2)), [0, 1, 2], terminated=True)
    cut = recording(np.zeros((4, 1)), [1, 2, 4], np.zeros((3, 2, 2)), [0, 1, 2])
    ended.values[:], cut.values[:] = [0.5, -1, -6], [3, 4, 4]
    pipeline = SimpleNamespace(
        task={"discount": 0.5, "termination_penalty": -10.0}, value_function=object(), action_dim=1
    )
    findings = Findings()
    examine_values(findings, pipeline, [ended, cut], 9)  # of windows that no episode fills
    found = findings.numbers["calibration"]
    for part, count in (("all", 6), ("complete", 3)):
        assert found[part]["count"] == count
        assert [found[part][name] for name in ("spearman", "pearson", "slope")] == pytest.approx([1, 1, 1])
        assert found[part]["bias"] == 0
    assert (found["episodes"], found["discount"], found["termination_penalty"]) == (2, 0.5, -10)
    curve = findings.figures["calibration"].axes[0].lines[-1].get_xydata().tolist()
    assert curve == [[-6, -6], [-1, -1], [0.5, 0.5]]  # of the complete ones


def test_returns_that_are_all_cut_short_are_said_to_be():
    cut = recording(np.zeros((3, 1)), [1, 2], np.zeros((2, 2, 2)), [0, 1])
    pipeline = SimpleNamespace(task={"discount": 0.9}, value_function=object(), action_dim=1)
    findings = Findings()
    examine_values(findings, pipeline, [cut], 9)
    assert findings.numbers["calibration"]["complete"] is None
    assert "all are cut short" in findings.figures["calibration"].axes[0].get_title()
