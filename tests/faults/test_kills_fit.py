"""Trainings and exports that are killed at random moments: the first go on, the second leave a whole folder or none."""

import multiprocessing

import numpy as np
import pytest
import torch
from children import kill, kill_and_finish, moments, timed
from fakes import differences
from tally import case
from trainings import fit_words, last_of

import vgp_lightning.training.fit  # noqa: F401 (imported here, each child has it at once)
from vgp_lightning.cli import main
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")


@pytest.mark.parametrize("kills", [3, pytest.param(15, marks=pytest.mark.slow)])
def test_fit_goes_on_after_kills(make_data, tmp_path, kills):
    more = ["--trainer.max_steps", "60", "--checkpoint.every_n_train_steps", "7", "--ckpt_path", "last"]
    longest = timed(["fit", *fit_words(tmp_path, make_data, "whole"), *more], tmp_path / "log")
    whole, runs = last_of(tmp_path / "whole"), tmp_path / "killed"

    def check():
        for path in runs.glob("*/*/checkpoints/last.ckpt"):
            torch.load(path, weights_only=True)

    with case("kills", f"fit, {kills} kills"):
        drawn = moments(np.random.default_rng(kills), kills, longest)
        kill_and_finish(["fit", *fit_words(tmp_path, make_data, "killed"), *more], tmp_path / "log", drawn, check)
        (path,) = (path for path in runs.glob("*/*/checkpoints/last.ckpt") if check() is None)
        found = torch.load(path, weights_only=True)
        assert found["global_step"] == 60
        assert differences(found["state_dict"], whole["state_dict"]) == []
        assert differences(found["optimizer_states"], whole["optimizer_states"]) == []


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_export_that_is_killed_leaves_a_whole_folder_or_none(make_data, tmp_path, kills):
    main(["fit", *fit_words(tmp_path, make_data)])
    command = ["export", "--denoiser", tmp_path / "runs/denoiser/version_0/checkpoints/last.ckpt", "--output"]
    longest = timed([*command, tmp_path / "whole"], tmp_path / "log")
    with case("kills", f"export, {kills} kills"):
        for i, (seconds, number) in enumerate(moments(np.random.default_rng(kills), kills, longest)):
            kill([*command, tmp_path / f"planner{i}"], tmp_path / "log", seconds, number)
            if (tmp_path / f"planner{i}").exists():
                ValueGuidedPlannerPipeline.from_pretrained(tmp_path / f"planner{i}")
