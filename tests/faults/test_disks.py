"""Verbs on a disk that is full: what fails says so, and the same command goes on when there is room."""

import multiprocessing
import shutil

import minari
import pytest
from children import SPACE, TRACK, arrays, limited, read, same_arrays, timed
from tally import case

from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")


def limits(fast, *slow):
    """Return a parameter of the largest size of a file, in bytes."""
    return pytest.mark.parametrize("limit", [*fast, *(pytest.param(one, marks=pytest.mark.slow) for one in slow)])


@limits([2000], 0, 500, 8000, 16000, 40000)
def test_evaluate_on_a_full_disk_keeps_what_was_finished(folder, tmp_path, limit):
    command = ["evaluate", folder, "--episodes", 8, "--env_id", TRACK, "--output_dir"]
    timed([*command, tmp_path / "whole"], tmp_path / "log")
    with case("full disks", f"evaluate, {limit} bytes") as verdict:
        code, printed = limited([*command, tmp_path / "out"], limit)
        if code == 0:  # there was room but for pictures, if any
            written = read(tmp_path / "out" / "evaluation.json")
            assert (tmp_path / "out" / "rollout.gif").exists() == (written["video"] is not None)
        else:
            assert (code, "Traceback" in printed) == (2, False), printed
            assert "File too large" in printed
            assert str(tmp_path / "out") in printed
            verdict.outcome = "clear"
        timed([*command, tmp_path / "out"], tmp_path / "log")
        drop = ("video", "video_error")
        reports = [read(tmp_path / name / "evaluation.json") for name in ("whole", "out")]
        assert [{key: one[key] for key in one if key not in drop} for one in reports[:1]] == [
            {key: one[key] for key in one if key not in drop} for one in reports[1:]
        ]


@limits([4000], 0, 500, 1500, 20000, 60000, 200_000, 400_000)
def test_collect_on_a_full_disk_leaves_a_whole_dataset_or_none(tmp_path, monkeypatch, limit):
    command = ["collect", "--env_id", TRACK, "--behaviour", "random", "--steps", 400, "--dataset_id", "test/track-v0"]
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "whole"))
    timed(command, tmp_path / "log")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "full"))
    with case("full disks", f"collect, {limit} bytes") as verdict:
        code, printed = limited(command, limit)
        if code != 0:
            assert (code, "Traceback" in printed) == (2, False), printed
            assert "File too large" in printed
            assert str(tmp_path / "full") in printed
            assert minari.list_local_datasets() == {}
            verdict.outcome = "clear"
            timed(command, tmp_path / "log")
        assert same_arrays(*(arrays(tmp_path / root, "test/track-v0") for root in ("whole", "full")))
        assert [path.name for path in (tmp_path / "full" / "test").glob(".*")] == []


@limits([], 0, 1000, 4000, 12000, 60000)
def test_tune_on_a_full_disk_leaves_a_folder_that_loads_and_goes_on(folder, tmp_path, limit):
    planner = shutil.copytree(folder, tmp_path / "tuned")  # which gets the winner's settings
    options = ["--episodes", 13, "--configurations", 6, "--holdout_episodes", 3, "--env_id", TRACK, "--space", SPACE]
    timed(["tune", folder, *options, "--write", "false", "--output_dir", tmp_path / "whole"], tmp_path / "log")
    whole = read(tmp_path / "whole" / "tuning.json")
    command = ["tune", planner, *options, "--output_dir", tmp_path / "out"]
    with case("full disks", f"tune, {limit} bytes") as verdict:
        code, printed = limited(command, limit)
        settings = ValueGuidedPlannerPipeline.from_pretrained(planner).resolve_settings()
        assert settings in (whole["default_settings"], whole["winner_settings"])
        if code != 0:
            assert (code, "Traceback" in printed) == (2, False), printed
            assert "File too large" in printed
            assert str(tmp_path / "out") in printed or str(planner) in printed
            verdict.outcome = "clear"
        timed(command, tmp_path / "log")
        found, drop = read(tmp_path / "out" / "tuning.json"), ("pipeline", "written")
        assert [found[key] for key in found if key not in drop] == [whole[key] for key in whole if key not in drop]
        settings = ValueGuidedPlannerPipeline.from_pretrained(planner).resolve_settings()
        assert settings == found["holdout"][found["chosen"]]["settings"]


@limits([], 0, 2000, 20000, 60000)
def test_diagnose_on_a_full_disk_keeps_what_was_finished(folder, tmp_path, limit):
    command = ["diagnose", folder, "--episodes", 4, "--starts", 2, "--env_id", TRACK, "--output_dir"]
    timed([*command, tmp_path / "whole"], tmp_path / "log")
    with case("full disks", f"diagnose, {limit} bytes") as verdict:
        code, printed = limited([*command, tmp_path / "out"], limit)
        if code == 0:
            written = read(tmp_path / "out" / "diagnostics.json")
            there = {path.name for kind in ("png", "gif") for path in (tmp_path / "out").glob(f"*.{kind}")}
            assert there == set(written["pictures"])
        else:
            assert (code, "Traceback" in printed) == (2, False), printed
            assert "File too large" in printed
            verdict.outcome = "clear"
        timed([*command, tmp_path / "out"], tmp_path / "log")
        reports = [read(tmp_path / name / "diagnostics.json") for name in ("whole", "out")]
        keys = [key for key in reports[0] if key not in ("pictures", "video_error")]
        assert [reports[0][key] for key in keys] == [reports[1][key] for key in keys]
