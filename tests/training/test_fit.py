"""`vgp fit`: the same run is resumed, another is refused, and a run's config repeats it to the bit."""

import math
import os
import signal
import warnings

import lightning.pytorch as pl
import minari
import pytest
import torch
import yaml
from fakes import differences
from lightning.pytorch.callbacks import LearningRateFinder

from vgp_lightning.cli import main
from vgp_lightning.shipped import CONFIGS


class Stop(pl.Callback):
    """Sends this process SIGTERM in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def on_before_backward(self, trainer, module, loss):
        if trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


class Start(pl.Callback):
    """Records weights and windows of the first step, learning rates and batch sizes, of the last Trainer."""

    weights, windows, rates, sizes = None, None, None, None

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 0:
            Start.weights = {name: value.clone() for name, value in module.state_dict().items()}
            Start.windows = batch.draw.windows.tolist()
            Start.sizes = []
            Start.rates = []
        Start.sizes.append(batch.draw.total)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        Start.rates.append(optimizer.param_groups[0]["lr"])


@pytest.fixture
def fit(make_data, tmp_path):
    """Train on a tiny dataset by the command line, into the folder ``runs``; ``step`` is where SIGTERM stops it."""
    make_data()

    def run(*options, step=None, base="denoiser", runs="runs", verb="fit"):
        data = {"dataset_id": "test/tiny-v0", "horizon": 4, "batch_size": 16, "validation_share": 0.25}
        (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": data}))
        files = [CONFIGS / f"{base}.yaml", CONFIGS / "smoke.yaml", tmp_path / "data.yaml"]
        arguments = [word for file in files for word in ("-c", str(file))]
        arguments += ["--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false"]
        arguments += [
            "--trainer.max_steps",
            "12",
            "--trainer.log_every_n_steps",
            "1",
            "--trainer.val_check_interval",
            "5",
        ]
        arguments += [
            "--model.init_args.widths",
            "[16, 16]",
            "--trainer.logger.init_args.save_dir",
            str(tmp_path / runs),
        ]
        arguments += ["--trainer.callbacks", "[]", "--trainer.enable_progress_bar", "false"]
        if step is not None:
            arguments += [f"--trainer.callbacks+={__name__}.Stop", f"--trainer.callbacks.step={step}"]
        arguments += options
        if step is None:
            main([verb, *arguments])
        else:
            with pytest.raises(SystemExit) as ended:
                main(["fit", *arguments])
            assert ended.value.code == 143

    return run


@pytest.fixture
def refused(fit, capfd):
    """Return the message of a run that has to fail."""

    def run(*options, **others):
        with pytest.raises(SystemExit) as ended:
            fit(*options, **others)
        message = capfd.readouterr().err
        assert ended.value.code == 2
        assert "Traceback" not in message
        return message

    return run


def loaded(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def assert_same_run(first, second):
    """Compare everything but the paths, to the bit."""
    assert differences(first | {"vgp_config": ""}, second | {"vgp_config": ""}) == []


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- going on


def test_a_stopped_run_resumes_in_its_folder_and_equals_one_that_was_not_stopped(fit, tmp_path):
    fit(runs="whole")
    for step in (3, 5, 9):
        fit("--ckpt_path", "last", step=step)
    fit("--ckpt_path", "last")
    (folder,) = (tmp_path / "runs/denoiser").iterdir()
    assert folder.name == "version_0"
    assert_same_run(loaded(folder), loaded(tmp_path / "whole/denoiser/version_0"))


def test_the_run_of_the_highest_number_is_resumed_whatever_the_times_of_the_files_and_is_named(fit, tmp_path, capfd):
    fit(step=2)
    fit(step=3)
    fit("--trainer.logger.init_args.version", "named", step=4)
    versions = {name: tmp_path / "runs/denoiser" / name for name in ("version_0", "version_1", "named")}
    for age, name in enumerate(("version_1", "version_0", "named")):  # as after `touch`, or from a backup
        os.utime(versions[name] / "checkpoints/last.ckpt", (age, age))
    (versions["version_0"].parent / "version_2").mkdir()  # of a run that was stopped before its first checkpoint
    capfd.readouterr()
    fit("--ckpt_path", "last")
    assert f"vgp: resuming from {versions['version_1']}/checkpoints/last.ckpt, step 3\n" in capfd.readouterr().out
    assert {name: loaded(folder)["global_step"] for name, folder in versions.items()} == {
        "version_0": 2,
        "version_1": 12,
        "named": 4,
    }
    assert len(list((tmp_path / "runs/denoiser").iterdir())) == 4


def test_of_several_runs_with_names_one_has_to_be_named(fit, refused, tmp_path, capfd):
    fit("--trainer.logger.init_args.version", "first", step=2)
    fit("--ckpt_path", "last", step=3)
    fit("--trainer.logger.init_args.version", "second", step=2)
    message = refused("--ckpt_path", "last")
    assert "holds the runs first, second: name one, such as --trainer.logger.init_args.version first" in message


@pytest.mark.parametrize(("version", "folder"), [("0", "version_0"), ("named", "named")])
def test_the_requested_version_is_resumed_and_not_the_newest(fit, tmp_path, version, folder):
    fit("--trainer.logger.init_args.version", version, step=2)
    fit(step=3)
    fit("--trainer.logger.init_args.version", version, "--ckpt_path", "last")
    assert loaded(tmp_path / "runs/denoiser" / folder)["global_step"] == 12
    assert len(list((tmp_path / "runs/denoiser").iterdir())) == 2


def test_without_a_checkpoint_the_run_starts_at_its_beginning_and_says_so(fit, tmp_path, capfd):
    fit("--ckpt_path", "last")
    assert "there is no checkpoint yet, the run starts at its beginning" in capfd.readouterr().out
    assert loaded(tmp_path / "runs/denoiser/version_0")["global_step"] == 12


def test_without_a_logger_the_last_checkpoint_is_found_too(fit, tmp_path):
    options = ["--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path / "plain")]
    fit(*options, runs="other", step=4)
    fit(*options, "--ckpt_path", "last", runs="other")
    assert loaded(tmp_path / "plain")["global_step"] == 12


def test_a_run_of_another_module_is_not_resumed(fit, refused):
    fit(step=2)
    message = refused("--ckpt_path", "last", "--trainer.logger.init_args.name", "denoiser", base="value")
    assert (
        "model.class_path: vgp_lightning.training.DenoiserModule there, vgp_lightning.training.ValueModule" in message
    )


# ---------------------------------------------------------------- another run


def test_each_difference_is_named_with_both_values_and_nothing_is_written(fit, refused, tmp_path, capfd):
    fit(step=2)
    before = snapshot(tmp_path / "runs")
    options = {
        "model.init_args.learning_rate": ("0.0002", "0.001"),
        "data.batch_size": ("16", "32"),
        "seed_everything": ("0", "5"),
        "trainer.gradient_clip_val": ("1.0", "2.0"),
        "trainer.max_steps": ("12", "14"),
        "ema.decay": ("0.9999", "0.5"),
    }
    capfd.readouterr()
    message = refused(
        "--ckpt_path", "last", *(word for name, (_, value) in options.items() for word in (f"--{name}", value))
    )
    lines = message.splitlines()
    for name, (there, here) in options.items():
        assert f"  {name}: {there} there, {here} here" in lines
    assert len([line for line in lines if line.startswith("  ")]) == len(options)
    assert f"--may_differ '[{', '.join(sorted(options))}]'" in message
    assert snapshot(tmp_path / "runs") == before


@pytest.mark.parametrize("of", ["last", "path"])
def test_another_dataset_is_refused(fit, refused, make_dataset, make_episode, tmp_path, of):
    fit(step=2)
    make_dataset("test/other-v0", [make_episode(12, number) for number in range(8)])
    path = "last" if of == "last" else str(tmp_path / "runs/denoiser/version_0/checkpoints/last.ckpt")
    message = refused("--ckpt_path", path, "--data.dataset_id", "test/other-v0")
    assert "data.dataset_id: test/tiny-v0 there, test/other-v0 here" in message


def test_a_dataset_that_has_changed_under_its_name_is_refused(fit, refused, make_dataset, make_episode, tmp_path):
    fit(step=2)
    minari.delete_dataset("test/tiny-v0")
    make_dataset("test/tiny-v0", [make_episode(12, number + 1) for number in range(8)])
    checkpoint = loaded(tmp_path / "runs/denoiser/version_0")
    message = refused("--ckpt_path", "last")
    assert "the data have changed since the checkpoint was written: shift is" in message
    assert differences(loaded(tmp_path / "runs/denoiser/version_0"), checkpoint) == []


def test_options_that_do_not_decide_the_weights_may_differ(fit, tmp_path):
    fit(runs="whole")
    fit(step=4)
    options = [
        "--data.num_workers",
        "1",
        "--data.on_device",
        "false",
        "--trainer.val_check_interval",
        "6",
        "--trainer.log_every_n_steps",
        "3",
    ]
    options += ["--trainer.limit_val_batches", "1", "--checkpoint.every_n_train_steps", "3", "--trainer.devices", "1"]
    options += ["--data.cache_dir", str(tmp_path / "cache2"), "--health.max_growth", "50"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This process .* is multi-threaded")
        fit("--ckpt_path", "last", *options)
    first, second = (loaded(tmp_path / name / "denoiser/version_0") for name in ("runs", "whole"))
    for name in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert differences(first[name], second[name]) == []


def test_only_named_options_may_differ(fit, refused, tmp_path):
    fit(step=2)
    options = ["--ckpt_path", "last", "--model.init_args.learning_rate", "0.001", "--model.init_args.weight_decay", "0"]
    message = refused(*options, "--may_differ", "[model.init_args.learning_rate]")
    assert "model.init_args.weight_decay: 0.0001 there, 0.0 here" in message
    assert "model.init_args.learning_rate:" not in message
    fit(*options, "--may_differ", "[model.init_args.learning_rate, model.init_args.weight_decay]")
    checkpoint = loaded(tmp_path / "runs/denoiser/version_0")
    assert checkpoint["global_step"] == 12
    (group,) = checkpoint["optimizer_states"][0]["param_groups"]
    assert (group["initial_lr"], group["weight_decay"]) == (0.001, 0)


def test_a_run_that_is_made_longer_takes_the_longer_schedules_rates_from_its_first_step(fit):
    record = [f"--trainer.callbacks+={__name__}.Start"]
    fit(*record, "--trainer.max_steps", "24", runs="whole")
    whole = Start.rates
    fit(*record)
    Start.rates, Start.sizes = [], []
    fit(*record, "--trainer.max_steps", "24", "--ckpt_path", "last", "--may_differ", "[trainer.max_steps]")
    assert Start.rates == pytest.approx(whole[12:])


class Measured(pl.Callback):
    """Records what is validated."""

    learning_rate, weights = None, None

    def on_validation_start(self, trainer, module):
        Measured.learning_rate = module.hparams["learning_rate"]
        Measured.weights = {name: value.clone() for name, value in module.state_dict().items()}


def test_validating_loads_a_checkpoints_average_and_keeps_the_command_lines_options(fit, tmp_path):
    fit(step=4)
    path = tmp_path / "runs/denoiser/version_0/checkpoints/last.ckpt"
    options = ["--ckpt_path", str(path), "--model.init_args.learning_rate", "0.25"]
    fit(*options, f"--trainer.callbacks+={__name__}.Measured", verb="validate")
    assert Measured.learning_rate == 0.25
    assert differences(Measured.weights, torch.load(path, weights_only=True)["state_dict"]) == []


# ---------------------------------------------------------------- a run's own config


@pytest.mark.parametrize("resumed", [False, True])
def test_a_runs_own_config_repeats_it_to_the_bit(fit, tmp_path, resumed):
    if resumed:
        fit(step=7)
        fit("--ckpt_path", "last")
    else:
        fit()
    config = tmp_path / "runs/denoiser/version_0/config.yaml"
    main(["fit", "-c", str(config), "--trainer.logger.init_args.save_dir", str(tmp_path / "again")])
    (again,) = (tmp_path / "again/denoiser").iterdir()
    assert_same_run(loaded(again), loaded(config.parent))
    assert loaded(again)["global_step"] == 12


# ---------------------------------------------------------------- Lightning's tools


@pytest.fixture
def plain_start(fit):
    fit(f"--trainer.callbacks+={__name__}.Start", runs="plain")
    return Start.weights, Start.windows


@pytest.mark.slow
def test_the_learning_rate_finder_leaves_weights_and_order_as_they_were(fit, plain_start, tmp_path, monkeypatch):
    found = []
    search = LearningRateFinder.lr_find

    def lr_find(self, trainer, module):
        search(self, trainer, module)
        found.append(self.optimal_lr.suggestion())

    monkeypatch.setattr(LearningRateFinder, "lr_find", lr_find)
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateFinder"]
    options += ["--trainer.callbacks.num_training_steps=20", f"--trainer.callbacks+={__name__}.Start"]
    fit(*options)
    weights, windows = plain_start
    assert found[0] is not None
    assert Start.windows == windows
    assert differences(Start.weights, weights) == []
    assert loaded(tmp_path / "runs/denoiser/version_0")["global_step"] == 12
    # Two steps of warm-up, then a cosine over ten.
    expected = [found[0] * min(step / 2, (1 + math.cos(math.pi * (step - 2) / 10)) / 2) for step in range(12)]
    assert Start.rates == pytest.approx(expected)


@pytest.mark.slow
def test_the_batch_size_finder_leaves_weights_as_they_were(fit, plain_start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.callbacks+=lightning.pytorch.callbacks.BatchSizeFinder"]
    options += ["--trainer.callbacks.max_trials=3", "--trainer.callbacks.init_val=3"]
    options += ["--trainer.callbacks.steps_per_trial=2", f"--trainer.callbacks+={__name__}.Start"]
    fit(*options)
    weights, _ = plain_start
    assert differences(Start.weights, weights) == []
    assert Start.sizes == [12, 12, 12, 12, 6] * 2 + [12, 12]  # 3, 6, 12; 54 windows
    assert loaded(tmp_path / "runs/denoiser/version_0")["global_step"] == 12


def test_a_fast_dev_run_takes_a_step_and_writes_nothing(fit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    fit("--trainer.fast_dev_run", "true", f"--trainer.callbacks+={__name__}.Start")
    assert Start.sizes == [16]
    written = {path.relative_to(tmp_path).parts[0] for path in snapshot(tmp_path).keys() - before.keys()}
    assert written <= {"cache", "data.yaml"}


def test_overfitting_trains_on_one_batch_alone(fit):
    fit("--trainer.overfit_batches", "1", f"--trainer.callbacks+={__name__}.Start")
    assert Start.sizes == [16] * 12
