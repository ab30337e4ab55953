"""vgp diagnose, from the folder to the files, and each of its findings where the answer is known."""

import json
from functools import partial

import numpy as np
import pytest
from fakes import NUMPY_2, Track

from vgp_lightning.cli import main
from vgp_lightning.diagnostics import diagnosis

# Trying candidates takes most of the time of a diagnosis; test_choice.py has it.
diagnose = partial(diagnosis.diagnose, choice_steps=0)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Leave the pictures empty: drawing takes most of the time, and test_summary.py looks at them."""
    for module in ("summary", "denoising"):
        monkeypatch.setattr(
            f"vgp_lightning.diagnostics.{module}.figure_to_image", lambda _: np.zeros((2, 2, 3), dtype=np.uint8)
        )


# ---------------------------------------------------------------- the front door


def test_settings_take_the_place_of_the_folders(track, make_folder, tmp_path):
    options = ["--episodes", "1", "--replan_every", "2", "--batch_size", "2", "--video", "false"]
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
    assert [report[name] for name in ("calibration", "ranking", "guidance", "choice")] == [None] * 4
    assert set(report["missing"]) == {"calibration", "ranking", "guidance", "choice"}
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
        assert "lead to other observations" in report["missing"][part]
    assert report["horizon"]["replanned"][1] is not None


def test_an_episode_that_is_shorter_than_a_plan_has_no_ranking(track, make_folder, tmp_path, monkeypatch):
    step = Track.step
    monkeypatch.setattr(Track, "step", lambda self, action: (*step(self, action)[:2], True, False, {}))
    report = diagnose(make_folder(), 2, str(tmp_path / "out"), video=False)
    assert report["ranking"] is None
    assert "no episode lasts the 4 steps" in report["missing"]["ranking"]
    assert report["horizon"]["plans"] == [2, 2, 0, 0]
    assert report["horizon"]["replanned"][2:] == [None, None]


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
        ({"reach_goal": True}, "reach_goal is for mazes, and Track-v0 is none"),
        ({"scael": 1}, r"tiny cannot plan with these settings: unknown settings \['scael'\]"),
        ({"batch_size": 0}, "tiny cannot plan with these settings: batch_size is 0"),
        ({"env_id": "Pendulum-v1"}, "has 3 observation and 1 action"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused_with_the_reason(track, make_folder, options, message):
    with pytest.raises(ValueError, match=message):
        diagnose(make_folder(), **options)


def test_a_folder_that_is_no_planner_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        diagnose(str(tmp_path))


# ---------------------------------------------------------------- what was played before, and what goes wrong


def test_the_same_command_again_prints_the_result_and_plays_nothing(track, make_folder, tmp_path, monkeypatch, capsys):
    first = diagnose(make_folder(), 2, str(tmp_path / "out"))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Track, "step", None)
        assert diagnose(make_folder(), 2, str(tmp_path / "out")) == first
    printed = capsys.readouterr().out
    assert "2 of 2 episodes were played before, in " in printed
    assert "successive steps are correlated" in printed
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    (tmp_path / "out" / "rollout.gif").unlink()
    (tmp_path / "out" / "dynamics.png").unlink()
    assert diagnose(make_folder(), 2, str(tmp_path / "out")) == first
    assert {path.name for path in (tmp_path / "out").glob("*.*g*")} >= {"rollout.gif", "dynamics.png"}


def test_more_episodes_play_only_the_new_ones_and_count_as_if_played_at_once(track, make_folder, tmp_path):
    diagnose(make_folder(), 1, str(tmp_path / "out"), video=False)
    more = diagnose(make_folder(), 3, str(tmp_path / "out"), video=False)
    whole = diagnose(make_folder(), 3, str(tmp_path / "whole"), video=False)
    assert {k: v for k, v in more.items() if k != "seconds"} == {k: v for k, v in whole.items() if k != "seconds"}


@pytest.mark.filterwarnings("ignore:.*WARN")  # gymnasium's checker sees it too
def test_an_episode_that_goes_wrong_is_listed_and_does_not_count(track, make_folder, tmp_path, monkeypatch, capsys):
    step, whole = Track.step, diagnose(make_folder(), 3, str(tmp_path / "whole"), seed=4, video=False)

    def faulty(self, action):
        observation, reward, *rest = step(self, action)
        return observation, np.nan if self.np_random_seed == 5 and abs(self.place[1]) > 0 else reward, *rest

    monkeypatch.setattr(Track, "step", faulty)
    report = diagnose(make_folder(), 3, str(tmp_path / "out"), seed=4, video=False)
    assert [episode["seed"] for episode in report["episodes"]] == [4, 6]
    assert report["episodes"] == [whole["episodes"][0], whole["episodes"][2]]
    assert [(one["seed"], one["step"]) for one in report["failed_episodes"]] == [(5, 0)]
    assert "Failed, and not in the numbers: seed 5, step 0: the environment's reward is nan" in capsys.readouterr().out


def test_a_time_limit_can_be_given(track, make_folder, tmp_path):
    report = diagnose(make_folder(), 1, str(tmp_path / "out"), video=False, max_episode_steps=5)
    assert report["episodes"][0]["length"] == 5
