"""Mistakes in the options of a training: each is refused before anything is written, or does what was meant."""

import pickle
import signal

import lightning.pytorch as pl
import pytest
import tally
import torch
import yaml

from vgp_lightning.cli import main
from vgp_lightning.shipped import CONFIGS
from vgp_lightning.training.callbacks import EMA
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.planner import PlannerModule
from vgp_lightning.training.trainers import check_trainer
from vgp_lightning.training.value import ValueModule

GROUP = "mistakes in training"
DIMENSIONS = {"transition_dim": 3, "action_dim": 1, "horizon": 8, "task": {}}
NAN, INF = float("nan"), float("inf")


# ---------------------------------------------------------------- Python

MODULES = [
    *(("learning_rate", value, "model.init_args.learning_rate is") for value in (-1.0, 0.0, NAN, INF, -INF)),
    *(("weight_decay", value, "model.init_args.weight_decay is") for value in (-1.0, NAN, INF)),
    *(("warmup_steps", value, "model.init_args.warmup_steps is") for value in (-1, -500)),
    *(("num_train_timesteps", value, "model.init_args.num_train_timesteps is") for value in (0, -1)),
    *(("beta_schedule", value, "model.init_args.beta_schedule is 'nonsense': the name of") for value in ("nonsense",)),
    *(("widths", value, "widths are") for value in ([], [16], [0, 0], [16, -16], [16, 17])),
]
OF_DENOISER = [
    *(("action_weight", value, "model.init_args.action_weight is") for value in (-1.0, NAN, INF)),
    *(("loss_discount", value, "model.init_args.loss_discount is") for value in (0.0, -1.0, NAN, INF)),
]
OF_PLANNER = [
    *(("value_learning_rate", value, "model.init_args.value_learning_rate is") for value in (0.0, -1.0, NAN, INF))
]


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        *((DenoiserModule, *row) for row in (*MODULES, *OF_DENOISER)),
        *((ValueModule, *row) for row in MODULES[:10]),
        *((PlannerModule, *row) for row in (*MODULES, *OF_DENOISER, *OF_PLANNER)),
    ],
)
def test_a_module_refuses_a_number_with_which_it_would_learn_nothing(kind, name, value, message):
    with tally.case(GROUP, f"{kind.__name__}({name}={value})") as verdict:
        verdict.outcome = "clear"
        with pytest.raises(ValueError, match=message):
            kind(**DIMENSIONS | {"widths": [16, 64], name: value})


@pytest.mark.parametrize("decay", [1.0, -0.1, NAN, 2.0])
def test_an_average_refuses_a_decay_that_never_forgets_or_always(decay):
    with tally.case(GROUP, f"EMA(decay={decay})") as verdict:
        verdict.outcome = "clear"
        with pytest.raises(ValueError, match=r"ema\.decay is"):
            EMA(decay=decay)


TRAINERS = [
    *(("gradient_clip_val", value) for value in (-1.0, NAN, INF)),
    ("max_steps", 0),
    ("max_epochs", 0),
    ("limit_train_batches", 0),
    *(("log_every_n_steps", value) for value in (0, -1)),
    *(("check_val_every_n_epoch", value) for value in (0, -1)),
    *(("accumulate_grad_batches", value) for value in (0, -1)),
    ("val_check_interval", 0),
    ("reload_dataloaders_every_n_epochs", 1),
]


@pytest.mark.parametrize(("name", "value"), TRAINERS)
def test_a_trainer_that_would_train_nothing_or_the_same_again_is_refused(make_trainer, name, value):
    with tally.case(GROUP, f"Trainer({name}={value})") as verdict:
        verdict.outcome = "clear"
        with pytest.raises(ValueError, match=rf"trainer\.{name} is {value}: "):
            check_trainer(make_trainer(**{name: value}), trains=True)


def test_a_trainer_without_an_end_is_refused(make_trainer):
    with tally.case(GROUP, "Trainer(max_steps=-1, max_epochs=-1)") as verdict:
        verdict.outcome = "clear"
        with pytest.raises(ValueError, match="the cosine schedule needs an end"):
            check_trainer(make_trainer(max_steps=-1), trains=True)


@pytest.mark.parametrize("options", [{"gradient_clip_val": 0}, {"gradient_clip_val": None}, {"fast_dev_run": True}])
def test_a_trainer_that_trains_something_is_not_refused(make_trainer, options):
    with tally.case(GROUP, f"Trainer({options})"):
        check_trainer(make_trainer(**options), trains=True)


def test_python_users_are_told_the_same_before_the_first_step(make_data, make_trainer):
    with tally.case(GROUP, "Trainer.fit, gradient_clip_val -1") as verdict:
        verdict.outcome = "clear"
        data = make_data()
        module = DenoiserModule(
            transition_dim=data.transition_dim, action_dim=data.action_dim, horizon=4, task=data.task, widths=[16, 16]
        )
        with pytest.raises(ValueError, match=r"trainer.gradient_clip_val is -1.0: "):
            make_trainer(gradient_clip_val=-1.0).fit(module, datamodule=data)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def train(make_data, tmp_path, monkeypatch):
    """Run a verb on a tiny dataset, from an empty folder ``here``."""
    make_data()
    data = {"dataset_id": "test/tiny-v0", "horizon": 4, "batch_size": 16, "validation_share": 0.25}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": data}))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*options, verb="fit", base="denoiser"):
        files = [CONFIGS / f"{base}.yaml", CONFIGS / "smoke.yaml", tmp_path / "data.yaml"]
        words = [word for file in files for word in ("-c", str(file))]
        words += ["--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false"]
        words += ["--trainer.log_every_n_steps", "1", "--trainer.max_steps", "4", "--trainer.val_check_interval", "2"]
        main([verb, *words, "--model.init_args.widths", "[16, 16]", *options])

    return run


@pytest.fixture
def refused(train, tmp_path, capfd):
    """Return the message of a command that has to be refused without a trace."""

    def run(*options, **others):
        before = sorted((tmp_path / "here").rglob("*"))
        with pytest.raises(SystemExit) as ended:
            train(*options, **others)
        assert ended.value.code == 2
        message = capfd.readouterr().err
        assert "Traceback" not in message
        assert sorted((tmp_path / "here").rglob("*")) == before
        return message.rpartition("vgp: ")[2]

    return run


LINES = [
    *(("model.init_args.learning_rate", value, "it must be a finite number above 0") for value in ("-1", "0", ".nan")),
    ("model.init_args.weight_decay", "-1", "it must be a finite number"),
    ("model.init_args.warmup_steps", "-1", "it must be at least 0"),
    ("model.init_args.action_weight", "-1", "is -1.0: "),
    ("model.init_args.horizon", "16", "it follows from the data, so leave it out, and set data.horizon"),
    ("model.init_args.task", "{}", "it follows from the data, so leave it out"),
    ("trainer.gradient_clip_val", "-1", "it must be a finite number, at least 0"),
    ("trainer.max_steps", "0", "nothing would be trained"),
    ("trainer.limit_train_batches", "0", "nothing would be trained"),
    ("trainer.log_every_n_steps", "0", "it must be at least 1"),
    ("trainer.val_check_interval", "0", "it must be above 0"),
    ("trainer.accumulate_grad_batches", "0", "it must be at least 1"),
    ("ema.decay", "1", "it must lie in [0, 1)"),
    ("ema.decay", "-1", "it must lie in [0, 1)"),
    ("ema.every_n_steps", "0", "it must be at least 1"),
    ("health.max_growth", "1", "it must be above 1"),
    ("checkpoint.every_n_train_steps", "0", "it must be at least 1"),
    ("seed_everything", "-1", "a whole number from 0 to 4294967295 is needed"),
]


@pytest.mark.parametrize(("option", "value", "message"), LINES)
def test_a_run_that_would_learn_nothing_does_not_begin(refused, option, value, message):
    with tally.case(GROUP, f"fit --{option} {value}") as verdict:
        verdict.outcome = "clear"
        found = refused(f"--{option}", value)
        assert f"{option} is " in found
        assert message in found


OTHERS = [
    ("trainer.max_steps", "-1", "the cosine schedule needs an end"),
    ("trainer.max_steps", "-5", "max_steps"),
    ("trainer.devices", "-5", "devices"),
    ("trainer.devices", "0", "devices"),
    ("trainer.accelerator", "nonsense", "accelerator"),
    ("trainer.strategy", "nonsense", "strategy"),
    ("trainer.gradient_clip_algorithm", "nonsense", "gradient_clip_algorithm"),
    ("trainer.limit_train_batches", "1.5", "limit_train_batches"),
    ("trainer.precision", "16-true", "trainer.precision is 16-true"),
    ("trainer.profiler", "nonsense", "profiler"),
    ("trainer.max_time", "nonsense", "duration"),
    ("model.init_args.beta_schedule", "nonsense", "beta_schedule"),
    ("data.dataset_id", "nobody/nothing-v0", "minari download nobody/nothing-v0"),
]


@pytest.mark.parametrize(("option", "value", "message"), OTHERS)
def test_an_option_of_the_trainer_without_meaning_is_one_message(refused, option, value, message):
    with tally.case(GROUP, f"fit --{option} {value}") as verdict:
        verdict.outcome = "clear"
        assert message in refused(f"--{option}", value)


def test_validating_needs_a_checkpoint(refused):
    with tally.case(GROUP, "validate") as verdict:
        verdict.outcome = "clear"
        message = refused(verb="validate")
        assert (
            "vgp validate needs --ckpt_path, the checkpoint to measure: without one it would measure random" in message
        )


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_pickle_in_place_of_a_checkpoint_is_refused_without_advice_to_run_it(refused, tmp_path, verb):
    with tally.case(GROUP, f"{verb} --ckpt_path PICKLE") as verdict:
        verdict.outcome = "clear"
        (tmp_path / "code.ckpt").write_bytes(pickle.dumps(print, protocol=2))
        message = refused("--ckpt_path", str(tmp_path / "code.ckpt"), verb=verb)
        assert "code.ckpt cannot be read as a checkpoint" in message
        assert "weights_only" not in message


def test_a_runs_folder_and_the_word_last_stand_for_its_checkpoint(train, refused, tmp_path, capfd):
    with tally.case(GROUP, "validate --ckpt_path RUN, last"):
        train()
        (run,) = (tmp_path / "here/runs/denoiser").iterdir()
        capfd.readouterr()
        train("--ckpt_path", str(run), verb="validate")
        assert f"vgp: --ckpt_path {run} is a folder: taking {run}/checkpoints/last.ckpt\n" in capfd.readouterr().out
        train("--ckpt_path", "last", verb="validate")
        assert "val/diffusion_loss" in capfd.readouterr().out
    with tally.case(GROUP, "fit --ckpt_path, of another module") as verdict:
        verdict.outcome = "clear"
        message = refused("--ckpt_path", str(run), base="value", verb="validate")
        assert "the checkpoint holds a DenoiserModule, but the config asks for a ValueModule" in message


class Impatient(pl.Callback):
    """A user who presses Ctrl-C a second time in the second step."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2:
            raise KeyboardInterrupt


def test_a_second_ctrl_c_ends_a_training_with_130_and_keeps_its_checkpoint(train, tmp_path, capfd):
    with tally.case(GROUP, "fit, Ctrl-C twice") as verdict:
        verdict.outcome = "clear"
        handler = signal.getsignal(signal.SIGINT)
        options = [f"--trainer.callbacks+={__name__}.Impatient", "--checkpoint.every_n_train_steps", "1"]
        try:
            with pytest.raises(SystemExit) as ended:
                train(*options)
        finally:
            signal.signal(signal.SIGINT, handler)  # Lightning has it ignored
        assert ended.value.code == 130
        assert "vgp: interrupted: last.ckpt, if there is one yet, is kept" in capfd.readouterr().err
        (run,) = (tmp_path / "here/runs/denoiser").iterdir()
        assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def test_the_progress_bar_of_a_config_is_left_out_where_no_bar_is_wanted(train, tmp_path):
    with tally.case(GROUP, "fit --trainer.enable_progress_bar false"):
        assert "TQDMProgressBar" in (CONFIGS / "denoiser.yaml").read_text()
        train("--trainer.enable_progress_bar", "false")
        (run,) = (tmp_path / "here/runs/denoiser").iterdir()
        assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert "TQDMProgressBar" not in str(config)
        assert "Throughput" in str(config)


def test_a_resumed_run_leaves_a_config_that_begins_a_run_of_its_own(train, tmp_path):
    with tally.case(GROUP, "fit -c CONFIG of a resumed run"):
        train()
        train("--ckpt_path", "last", "--trainer.max_steps", "6", "--may_differ", "[trainer.max_steps]")
        runs = tmp_path / "here/runs/denoiser"
        main(["fit", "-c", str(runs / "version_0/config.yaml")])
        assert sorted(path.name for path in runs.iterdir()) == ["version_0", "version_1"]
