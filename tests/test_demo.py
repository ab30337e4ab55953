import json
import os
import re

import pytest
import torch

from vgp_lightning.cli import main
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

MINIATURE = ["--episodes", "2", "--steps", "600", "--denoiser_steps", "3", "--value_steps", "3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "demo"
    (folder.parent / "random.py").write_text("raise SystemExit('a file of the current folder was run')")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        patch.setenv("MINARI_DATASETS_PATH", "demo puts its own in place")
        main(["demo", "--output_dir", str(folder), *MINIATURE])
    return folder


def test_the_demo_reports_three_planners_on_the_same_seeds(folder):
    report = json.loads((folder / "report.json").read_text())
    for name in ("behaviour", "unguided", "guided"):
        assert {"return_mean", "return_iqm", "return_ci95", "episodes"} <= report[name].keys()
        assert [episode["seed"] for episode in report[name]["episodes"]] == [1_000_000, 1_000_001]
    assert report["unguided"]["settings"]["n_guide_steps"] == 0
    assert report["guided"]["settings"]["n_guide_steps"] > 0 < report["guided"]["settings"]["choice_temperature"]


def test_the_demo_says_how_long_each_stage_took(folder):
    seconds = json.loads((folder / "report.json").read_text())["seconds"]
    assert list(seconds) == ["collect", "train", "export", "behaviour", "unguided", "guided"]
    assert all(value >= 0 for value in seconds.values())


def test_the_demos_pipeline_folder_plans(folder):
    report = json.loads((folder / "report.json").read_text())
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(report["pipeline"])
    assert pipeline.task["env_id"] == report["environment"] == "Hopper-v5"


def test_the_demo_leaves_pictures_and_tensorboard_logs(folder):
    assert (folder / "returns.png").stat().st_size > 1000
    logs = {path.relative_to(folder).parts[0] for path in folder.rglob("events.out.tfevents.*")}
    assert logs == {"denoiser", "value", "evaluation"}


def test_the_demo_ends_in_a_page(folder):
    page = (folder / "report.html").read_text()
    assert page.index("Guided against unguided: ") < page.index("guided - behaviour")
    assert "vgp demo" in page


def test_a_folder_that_is_not_a_demos_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit):
        main(["demo", "--output_dir", str(tmp_path), *MINIATURE])
    assert "was not made by vgp demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow  # 20 s
def test_a_dry_run_of_the_demo_measures_each_stage_and_leaves_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vgp_lightning.report.estimates._ENOUGH", 0.0)
    monkeypatch.setattr("vgp_lightning.training.rehearsal._SECONDS", 0.1)
    datasets, threads = os.environ["MINARI_DATASETS_PATH"], torch.get_num_threads()
    main(["demo", "--dry_run", "--episodes", "3"])
    said, what, duration, _ = capfd.readouterr().out.splitlines()
    assert said == "dry run: nothing is kept"
    assert what == (
        "would collect 80000 steps, train two networks side by side (2000 and 3000 steps), and play 3 x 3 episodes in "
        "Hopper-v5, all in runs/demo"
    )
    hours, minutes, seconds = map(int, re.search(r"about (\d+):(\d+):(\d+) ", duration).groups())
    assert 60 < 3600 * hours + 60 * minutes + seconds < 12 * 3600
    assert not (tmp_path / "runs").exists()
    assert (os.environ["MINARI_DATASETS_PATH"], torch.get_num_threads()) == (datasets, threads)


def test_a_dry_run_of_the_demo_refuses_a_folder_that_is_not_a_demos(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit):
        main(["demo", "--output_dir", str(tmp_path), "--dry_run"])
    assert "was not made by vgp demo" in capsys.readouterr().err


def test_a_demos_folder_is_emptied_for_the_next(tmp_path, monkeypatch):
    (tmp_path / ".vgp_demo").touch()
    (tmp_path / "report.json").write_text("an earlier one's")
    monkeypatch.setenv("MINARI_DATASETS_PATH", "demo puts its own in place")
    monkeypatch.setattr("vgp_lightning.demo.collect", lambda *_, **__: (_ for _ in ()).throw(ValueError("enough")))
    with pytest.raises(SystemExit):
        main(["demo", "--output_dir", str(tmp_path), *MINIATURE])
    assert not (tmp_path / "report.json").exists()


def test_a_training_that_fails_ends_the_demo_with_one_message(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MINARI_DATASETS_PATH", "demo puts its own in place")
    monkeypatch.setattr("vgp_lightning.demo._TRAINING", "raise SystemExit(3)")
    with pytest.raises(SystemExit):
        main(["demo", "--output_dir", str(tmp_path / "demo"), *MINIATURE])
    assert "training the denoiser failed" in capfd.readouterr().err
    assert not (tmp_path / "demo" / "report.json").exists()
