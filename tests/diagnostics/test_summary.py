"""The files that a diagnosis writes: numbers, pictures and TensorBoard events."""

import json
from functools import partial

import pytest
from fakes import Track
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vgp_lightning.cli import main
from vgp_lightning.diagnostics import diagnosis

# Trying candidates takes most of the time of a diagnosis; test_choice.py has it.
diagnose = partial(diagnosis.diagnose, choice_steps=0)
LINES = {"calibration.png", "ranking.png", "choice.png", "horizon.png", "dynamics.png", "guidance.png", "denoising.png"}


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
    page = (output / "report.html").read_text()
    assert page.index("choosing among its candidates") < page.index("<svg") < page.index("The worst 3 episodes")
    assert "--episodes 3 --seed 4 --starts 2" in page.replace("<span>", "").replace("</span>", "")
    with Image.open(output / "denoising.gif") as image:
        assert image.n_frames == 3
    events = EventAccumulator(str(output)).Reload()
    assert {f"diagnose/{name.removesuffix('.png')}" for name in LINES} <= set(events.Tags()["images"])
    assert events.Images("diagnose/rollout_film")[0].encoded_image_string.startswith(b"GIF89a")
    assert events.Scalars("diagnose/return_mean")[0].value == pytest.approx(report["return_mean"], rel=1e-5)
    assert events.Scalars("diagnose/one_step_error")[0].value == pytest.approx(report["dynamics"]["mean"], rel=1e-5)
    printed = capsys.readouterr().out
    assert "rank correlation" in printed
    assert "successive steps are correlated" in printed


def test_a_film_that_cannot_be_made_is_reported_in_one_line(track, make_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Track, "render", lambda self: 1 / 0)
    report = diagnose(make_folder(), 1, str(tmp_path / "out"))
    assert "ZeroDivisionError" in report["video_error"]
    assert "No video: rendering failed with ZeroDivisionError" in capsys.readouterr().out


def test_a_picture_that_cannot_be_written_does_not_lose_the_numbers(track, make_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("vgp_lightning.diagnostics.summary.write_gif", lambda *_: 1 / 0)
    report = diagnose(make_folder(), 1, str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "diagnostics.json").read_text()) == report
    assert "denoising.gif cannot be written: ZeroDivisionError" in report["video_error"]
    assert {path.name for kind in ("png", "gif") for path in (tmp_path / "out").glob(f"*.{kind}")} == (
        set(report["pictures"])
    )


def test_in_a_maze_plans_are_drawn_between_its_walls(make_folder, tmp_path):
    pytest.importorskip("gymnasium_robotics")
    task = {"env_id": "PointMaze_UMaze-v3"}
    folder = make_folder(2, 8, value=False, task=task)
    options = {"replan_every": 4, "reach_goal": True, "starts": 3, "video": False}
    report = diagnose(folder, 1, str(tmp_path / "out"), **options)
    assert {"plans.png", "denoising_maze.png", "denoising_maze.gif"} <= set(report["pictures"])
    assert report["reach_goal"]
    with Image.open(tmp_path / "out" / "denoising_maze.gif") as image:
        assert image.n_frames == 3
    assert report["own_actions"] is not None  # the mazes are repeatable
