"""Runs in processes of their own: killed at any moment and resumed; two processes learn what one does."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vgp_lightning.cli import main
from vgp_lightning.shipped import CONFIGS

pytestmark = pytest.mark.slow

STEPS = 60
PICTURES = [f"vgp_lightning.callbacks.{name}" for name in ("CalibrationPicture", "PlanPicture")]
# Kills the run, all processes of it, where it is told to: at a hook of a step, or while a checkpoint is written. Each
# process notes what it was shown.
SPY = """
import json, os, signal
import lightning.pytorch as pl
from vgp_lightning.training import checkpoints

def kill(moment):
    if os.environ.get("KILL") == moment and os.environ.get("LOCAL_RANK", "0") == "0":
        os.killpg(0, signal.SIGKILL)

class Spy(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        name = f"{os.environ['SEEN']}.{trainer.global_rank}"
        with open(name, "a") as file:
            file.write(json.dumps([trainer.global_step, batch.draw.windows.tolist()]) + "\\n")
        kill(f"start {trainer.global_step}")

    def on_after_backward(self, trainer, module):
        kill(f"backward {trainer.global_step}")

    def on_train_batch_end(self, trainer, *args):
        kill(f"end {trainer.global_step}")

    def on_validation_batch_end(self, trainer, *args):
        kill(f"validation {trainer.global_step}")

saves, fsync = [0], os.fsync

def dying_fsync(number):
    saves[0] += 1
    kill(f"save {saves[0]}")
    fsync(number)

checkpoints.os.fsync = dying_fsync
"""


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a run of 60 steps (3.5 epochs), validated every 15 and saved every 7 steps."""
    options = ["--env_id", "Pendulum-v1", "--behaviour", "random", "--steps", "320", "--max_episode_steps", "40"]
    main(["collect", *options, "--dataset_id", "test/pendulum-v0"])
    data = {"dataset_id": "test/pendulum-v0", "horizon": 8, "batch_size": 14, "validation_share": 0.2}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": data}))
    (tmp_path / "spy.py").write_text(SPY)

    def start(name, processes=1, base="planner", kill="", *more):
        words = ["-c", CONFIGS / f"{base}.yaml", "-c", tmp_path / "data.yaml", "-c", CONFIGS / "smoke.yaml"]
        words += ["--trainer.logger.init_args.save_dir", tmp_path / "runs", "--trainer.logger.init_args.name", name]
        words += ["--trainer.accelerator", "cpu", "--trainer.devices", processes]
        words += ["--trainer.strategy", "ddp" if processes > 1 else "auto", "--trainer.callbacks", "[spy.Spy]"]
        words += ["--trainer.max_steps", STEPS, "--trainer.val_check_interval", 15, "--trainer.limit_val_batches", 1.0]
        words += ["--checkpoint.every_n_train_steps", 7, "--model.init_args.learning_rate", "1e-3"]
        words += ["--ckpt_path", "last", *more]
        environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path), "KILL": kill, "SEEN": str(tmp_path / name)}
        return subprocess.run(
            [sys.executable, "-m", "vgp_lightning.cli", "fit", *map(str, words)],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=300,
            start_new_session=True,  # so that a kill does not reach the tests
        )

    return start


def last(tmp_path, name):
    (path,) = (tmp_path / "runs" / name).glob("version_*/checkpoints/last.ckpt")
    return torch.load(path, weights_only=True)


def metrics(tmp_path, name):
    """Return {tag: {step: value}} of a run, which has one file of events for each time that it was started.

    All in one folder, but for what was killed before there was a checkpoint.
    """
    found = {}
    for file in sorted((tmp_path / "runs" / name).glob("version_*/events.*")):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            if tag.startswith(("val/", "train/diffusion", "train/value", "train/grad")):
                found.setdefault(tag, {}).update({event.step: event.value for event in events.Scalars(tag)})
    return found


def images(tmp_path, name):
    """Return {tag: steps} of the pictures of a run that was started once."""
    (file,) = (tmp_path / "runs" / name).glob("version_*/events.*")
    events = EventAccumulator(str(file), size_guidance={"images": 0}).Reload()
    found = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    assert found.keys() >= {"val_pictures/calibration", "val_pictures/rank_by_level"}
    assert all(steps == list(range(15, STEPS + 1, 15)) for steps in found.values())
    return found


def seen(tmp_path, name, processes=1):
    """Return {step: windows} that each process saw last at each step."""
    return [
        dict(json.loads(line) for line in (tmp_path / f"{name}.{rank}").read_text().splitlines())
        for rank in range(processes)
    ]


def assert_same(found, expected, path="checkpoint"):
    assert type(found) is type(expected), path
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), path
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key, value in expected.items():
            assert_same(found[key], value, f"{path}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), path
        for number, value in enumerate(expected):
            assert_same(found[number], value, f"{path}[{number}]")
    else:
        assert found == expected, path


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_five_times_and_resumed_ends_in_the_same_bits(start, tmp_path, processes):
    whole = start("whole", processes)
    assert whole.returncode == 0, whole.stderr
    generator = random.Random(processes)
    moments = [f"backward {generator.randint(1, 9)}", "save 2", "validation 30"]  # the second checkpoint of that part
    moments += [f"start {generator.randint(32, 40)}", f"end {generator.randint(43, 57)}"]
    for moment in moments:
        result = start("killed", processes, "planner", moment)
        assert result.returncode == -9, (moment, result.stderr)
    rest = start("killed", processes)
    assert rest.returncode == 0, rest.stderr

    expected, found = last(tmp_path, "whole"), last(tmp_path, "killed")
    assert expected["global_step"] == STEPS
    for checkpoint in (expected, found):
        del checkpoint["vgp_config"]  # it holds the runs' names
    assert_same(found, expected)
    assert metrics(tmp_path, "killed") == metrics(tmp_path, "whole")
    assert seen(tmp_path, "killed", processes) == seen(tmp_path, "whole", processes)


def test_two_processes_share_each_epoch_and_learn_what_one_does(start, tmp_path):
    # In 64 bits and with a low learning rate: training amplifies rounding, and only a fault shall make a difference.
    for name, processes in (("one", 1), ("two", 2)):
        options = ["--trainer.precision", "64-true", "--model.init_args.learning_rate", "1e-5"]
        options += ["--trainer.callbacks", f"[spy.Spy, {', '.join(PICTURES)}]"]
        result = start(name, processes, "planner", "", *options)
        assert result.returncode == 0, result.stderr
    (one,), (first, second) = seen(tmp_path, "one"), seen(tmp_path, "two", 2)
    for step in one:
        assert sorted(first[step] + second[step]) == sorted(one[step])
        assert abs(len(first[step]) - len(second[step])) <= 1
    total = max(window for windows in one.values() for window in windows) + 1
    batches = -(-total // 14)
    epochs = [np.concatenate([first[s] + second[s] for s in range(e * batches, (e + 1) * batches)]) for e in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(total))
    assert list(epochs[0]) != list(epochs[1])

    expected, found = metrics(tmp_path, "one"), metrics(tmp_path, "two")
    assert {tag for tag in expected if tag.startswith("val/")} == {tag for tag in found if tag.startswith("val/")}
    assert {"train/diffusion_loss", "train/value_loss", "val/diffusion_loss", "val/value_loss"} <= expected.keys()
    for tag in expected:
        if tag.startswith(("val/", "train/diffusion_loss", "train/value_loss")):
            assert found[tag] == pytest.approx(expected[tag], rel=1e-6, abs=1e-6), tag
    assert images(tmp_path, "one") == images(tmp_path, "two")
    weights, others = (last(tmp_path, name)["current_model_state"] for name in ("one", "two"))
    average = last(tmp_path, "one")["state_dict"]
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=1e-9)
    assert max((average[name] - value).abs().max().item() for name, value in weights.items()) > 1e-6  # it has learned
