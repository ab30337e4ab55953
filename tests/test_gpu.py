"""On a CUDA device, where there is one: the same plans as on the CPU, no wait that is not listed, whole fits.

Deselected by default; run by ``make test-gpu``. The stand-in device of tests/fake_device.py asks the same without one.
"""

import json
import os
import signal
import warnings
from contextlib import suppress

import numpy as np
import pytest
import torch
from fakes import NUMPY_2, OBSERVATION, UNITS, H, O, T, denoiser, planner, seeded, value_network, write_tiny
from learners import make_module

from vgp_lightning import cli
from vgp_lightning.pipeline.sampling import SAMPLERS
from vgp_lightning.training.checkpoints import LastCheckpoint

pytestmark = [pytest.mark.gpu, NUMPY_2]


def two(**settings):
    """Return equal planners, one on the CPU, one on the GPU."""
    made = [planner(denoiser(), value_network(), normalization=UNITS, **settings) for _ in range(2)]
    return made[0], made[1].to("cuda")


@pytest.fixture(autouse=True)
def exact():
    """Without TF32 a GPU rounds as a CPU does, but for the order of sums."""
    assert torch.cuda.is_available(), "these tests need a CUDA device"
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "options",
    [
        {"n_guide_steps": 0},
        {"n_guide_steps": 2},
        {"n_guide_steps": 1, "guide_on": "clean", "guide_scaling": "std", "max_grad_norm": 1.0},
        {"warm_start": np.zeros((1, H, T), np.float32), "warm_start_strength": 0.5},
        {"conditions": {-1: np.array([np.nan, 1.0, 2.0])}},
    ],
    ids=lambda options: "-".join(options),
)
def test_plans_are_those_of_the_cpu_on_the_same_noise(sampler, options):
    here, there = two(sampler=sampler, num_inference_steps=5)

    # A generator of the CPU draws the same noise for both.
    expected, found = (one(OBSERVATION, generator=seeded(), **options) for one in (here, there))

    assert found.actions.device.type == "cuda"
    for name in ("actions", "observations", "values"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(expected, name), rtol=1e-3, atol=1e-3)


def test_autocast_around_a_call_changes_nothing():
    _, there = two(num_inference_steps=5, n_guide_steps=1)
    expected = there(OBSERVATION, generator=seeded())
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = there(OBSERVATION, generator=seeded())
    torch.testing.assert_close(found.trajectories, expected.trajectories, rtol=1e-5, atol=1e-5)


def test_a_generator_of_the_device_repeats_a_plan():
    _, there = two(num_inference_steps=5)
    plans = [there(OBSERVATION, generator=torch.Generator("cuda").manual_seed(1)) for _ in range(2)]
    torch.testing.assert_close(plans[0].trajectories, plans[1].trajectories, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver"])
@pytest.mark.parametrize("steps", [2, 5])
def test_the_sampling_loop_does_not_wait_for_the_device(sampler, steps):
    _, there = two(sampler=sampler, n_guide_steps=1)
    observation = torch.zeros(4, O, device="cuda")
    there(observation, num_inference_steps=steps)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")  # which warns of itself
        try:
            there(observation, num_inference_steps=steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(one.message) for one in found if "called a synchronizing" in str(one.message)]
    # Whether the observation and the plan are finite, and the copy of the conditions; none of them in the loop.
    assert len(waits) <= 5, waits


def test_a_compiled_planner_plans_as_an_uncompiled_one_and_keeps_its_plans():
    here, there = two(sampler="ddim", num_inference_steps=3, n_guide_steps=1)
    there.compile()
    observations = [OBSERVATION, OBSERVATION + 0.5, OBSERVATION - 0.5]

    found = [there(one, generator=seeded()) for one in observations]

    for plan, observation in zip(found, observations, strict=True):
        expected = here(observation, generator=seeded())
        torch.testing.assert_close(plan.trajectories.cpu(), expected.trajectories, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_a_fit_an_export_and_an_evaluation_run_there(precision, make_data, make_episode, tmp_path, monkeypatch, track):
    monkeypatch.chdir(tmp_path)
    make_data([make_episode(12, number) for number in range(8)])
    options = ["--data.dataset_id", "test/tiny-v0", "--data.horizon", "8", "--data.padding", "all"]
    options += ["--data.batch_size", "16", "--trainer.log_every_n_steps", "2"]
    sizes = ["--model.num_train_timesteps", "5", "--model.widths", "[16, 64]"]
    fit = ["fit", "-c", "planner.yaml", *options, *sizes, "--trainer.accelerator", "gpu", "--trainer.devices", "1"]

    cli.main(
        [*fit, "--trainer.max_steps", "30", "--trainer.precision", precision, "--trainer.val_check_interval", "15"]
    )
    checkpoint = "runs/planner/version_0/checkpoints/last.ckpt"
    cli.main(["validate", "-c", "planner.yaml", *options, *sizes, "--ckpt_path", checkpoint])
    cli.main(["export", "--denoiser", checkpoint, "--output", "folder", "--n_guide_steps", "1"])
    cli.main(["evaluate", "folder", "--env_id", "Track-v0", "--episodes", "2", "--device", "cuda", "--video", "false"])

    report = json.loads((tmp_path / "runs/evaluate/folder/evaluation.json").read_text())
    assert report["device"].startswith("cuda")
    assert np.isfinite(report["return_mean"])


def test_batches_that_are_gathered_there_are_those_from_the_host_to_the_bit(make_data, make_trainer):
    found = {}
    for on_device in (True, False):
        data = make_data(on_device=on_device, **{} if on_device else {"dataset_id": "test/tiny-v0"})
        trainer = make_trainer(accelerator="gpu", max_steps=1)
        trainer.fit(make_module(), data)
        found[on_device] = [trainer.strategy.batch_to_device(batch) for batch in data.train_dataloader()]
    for there, host in zip(*found.values(), strict=True):
        assert there.trajectories.device.type == "cuda"
        assert torch.equal(there.trajectories, host.trajectories)
        assert torch.equal(there.returns, host.returns)


def test_a_run_that_is_resumed_there_ends_near_the_unbroken_one(make_data, make_episode, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_data([make_episode(12, number) for number in range(8)])
    fit = ["fit", "-c", "denoiser.yaml", "--data.dataset_id", "test/tiny-v0", "--data.horizon", "8"]
    fit += ["--data.padding", "all", "--data.batch_size", "16", "--trainer.log_every_n_steps", "2"]
    fit += ["--model.widths", "[16, 64]", "--model.num_train_timesteps", "5"]
    fit += ["--trainer.accelerator", "gpu", "--checkpoint.every_n_train_steps", "10"]

    fit += ["--trainer.max_steps", "20"]
    notice = LastCheckpoint.on_train_batch_end

    def interrupt(self, trainer, *args):
        notice(self, trainer, *args)
        if trainer.global_step == 9:
            os.kill(os.getpid(), signal.SIGINT)

    cli.main(fit)
    other = ["--trainer.logger.init_args.save_dir", "other"]
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt, SystemExit):
        patch.setattr(LastCheckpoint, "on_train_batch_end", interrupt)
        cli.main([*fit, *other])
    stopped = next((tmp_path / "other").glob("*/version_0/checkpoints/last.ckpt"))
    assert torch.load(stopped, map_location="cpu", weights_only=True)["global_step"] == 10
    cli.main([*fit, *other, "--ckpt_path", "last"])

    paths = [next((tmp_path / root).glob("*/version_0/checkpoints/last.ckpt")) for root in ("runs", "other")]
    first, second = (torch.load(path, map_location="cpu", weights_only=True)["state_dict"] for path in paths)
    for name, weights in first.items():
        torch.testing.assert_close(second[name], weights, rtol=1e-3, atol=1e-4)


def test_a_folder_is_loaded_onto_the_device(tmp_path, track, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "tiny")
    cli.main(["diagnose", "tiny", "--env_id", "Track-v0", "--episodes", "1", "--device", "auto", "--video", "false"])
    assert json.loads((tmp_path / "runs/diagnose/tiny/diagnostics.json").read_text())["device"].startswith("cuda")
