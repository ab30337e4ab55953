"""A run that is stopped and resumed equals one that was not, to the bit; checkpoints are written atomically."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading

import learners
import lightning.pytorch as pl
import pytest
import torch
from fakes import differences

from vgp_lightning.training.callbacks import EMA
from vgp_lightning.training.checkpoints import LastCheckpoint, WholeFile, load_module
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.health import Health
from vgp_lightning.training.planner import PlannerModule


def make_module(kind=DenoiserModule):
    widths = {"widths": [16, 16]} | ({"value_widths": [16, 64]} if kind is PlannerModule else {})
    sizes = {"transition_dim": 3, "action_dim": 1, "horizon": 4, "task": {}}
    return kind(**sizes, **widths, num_train_timesteps=5, learning_rate=0.01, warmup_steps=2)


class Signals(pl.Callback):
    """Sends this process signals in the middle of a step."""

    def __init__(self, step, *numbers, batch=0):
        self.step, self.numbers, self.batch = step, numbers, batch

    def on_before_backward(self, trainer, module, loss):
        place = trainer.fit_loop.epoch_loop.batch_idx % trainer.accumulate_grad_batches
        if (trainer.global_step + 1, place) == (self.step, self.batch):
            for number in self.numbers:
                os.kill(os.getpid(), number)


class Crash(pl.Callback):
    """Ends the run by an error in the middle of a step."""

    class Error(Exception):
        pass

    def __init__(self, step):
        self.step = step

    def on_before_backward(self, trainer, module, loss):
        if trainer.global_step + 1 == self.step:
            raise self.Error


class Validations(pl.Callback):
    """Records what validation measures, by step."""

    def __init__(self):
        self.found = {}

    def on_validation_end(self, trainer, module):
        values = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.found[trainer.global_step] = values


# Four batches an epoch: 16, 16, 16 and 6 windows.
STEPS = {"max_steps": 13, "gradient_clip_val": 0.5, "val_check_interval": 3, "check_val_every_n_epoch": None}
EPOCHS = {"max_steps": -1, "max_epochs": 3}
SECOND_EPOCHS = {"max_steps": -1, "max_epochs": 3, "check_val_every_n_epoch": 2}
BOTH = {"max_steps": 11, "max_epochs": 3, "val_check_interval": 2}
# Three batches an epoch, so that the second of its two steps has one batch.
ACCUMULATED = STEPS | {"max_steps": 7, "accumulate_grad_batches": 2, "batch_size": 20}


@pytest.fixture
def run(make_data, make_trainer, tmp_path):
    """Train, and return the last checkpoint and what validation found."""

    def fit(
        name,
        *callbacks,
        resume=False,
        interval=100,
        kind=DenoiserModule,
        batch_size=16,
        validation_share=0.25,
        **options,
    ):
        torch.manual_seed(99 if resume else 7)  # a resumed run takes the seed of its checkpoint
        path, validations = tmp_path / name / "checkpoints/last.ckpt", Validations()
        dataset = {"dataset_id": "test/tiny-v0"} if (tmp_path / "minari").exists() else {}
        trainer = make_trainer(
            enable_checkpointing=True,
            default_root_dir=tmp_path / name,
            callbacks=[EMA(0.9), Health(), LastCheckpoint(interval), validations, *callbacks],
            **options,
        )
        data = make_data(validation_share=validation_share, batch_size=batch_size, **dataset)
        try:
            trainer.fit(make_module(kind), data, ckpt_path=path if resume else None, weights_only=True)
        finally:
            fit.validations = validations.found
        return torch.load(path, weights_only=True)

    return fit


# ---------------------------------------------------------------- stopped and resumed


@pytest.mark.parametrize(
    ("options", "every"),
    [
        (STEPS, 8),
        (BOTH, 3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((STEPS, 1), (EPOCHS, 1), (SECOND_EPOCHS, 3), (ACCUMULATED, 1))
        ),
    ],
)
def test_a_run_that_is_stopped_and_resumed_repeatedly_equals_one_that_was_not(run, tmp_path, options, every):
    whole = run("whole", **options)
    validations, found = run.validations, {}
    for step in range(every, whole["global_step"], every):
        number = (signal.SIGTERM, signal.SIGINT)[step % 2]
        with pytest.raises(SystemExit) as ended:
            run("parts", Signals(step, number), resume=step > every, **options)
        assert ended.value.code == 128 + number
        assert torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)["global_step"] == step
        assert not found.keys() & run.validations.keys()  # none twice
        found |= run.validations
    resumed = run("parts", resume=True, **options)
    assert differences(resumed, whole) == []
    assert found | run.validations == validations
    assert len(validations) > 0


@pytest.mark.parametrize(("options", "interval"), [(STEPS, 1), (EPOCHS, 3)])
def test_a_run_that_dies_and_is_resumed_equals_one_that_did_not(run, options, interval):
    whole = run("whole", **options)
    validations, found = run.validations, {}
    for step in range(4, whole["global_step"], 3):
        with pytest.raises(Crash.Error):
            run("parts", Crash(step + 1), resume=step > 4, interval=interval, **options)
        for validated, values in run.validations.items():
            assert found.setdefault(validated, values) == values
    resumed = run("parts", resume=True, interval=interval, **options)
    assert differences(resumed, whole) == []
    assert found | run.validations == validations


def test_both_networks_together_resume_to_the_bit(run):
    whole = run("whole", kind=PlannerModule, **STEPS)
    with pytest.raises(SystemExit):
        run("parts", Signals(6, signal.SIGTERM), kind=PlannerModule, **STEPS)
    assert differences(run("parts", resume=True, kind=PlannerModule, **STEPS), whole) == []


@pytest.mark.parametrize("batch", [0, 1])
def test_a_stop_waits_until_all_accumulated_gradients_are_used(run, tmp_path, batch):
    with pytest.raises(SystemExit):
        run("parts", Signals(3, signal.SIGTERM, batch=batch), **ACCUMULATED)
    assert torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3


def test_a_signal_during_validation_stops_the_run_after_it(run, tmp_path):
    class During(pl.Callback):
        def on_validation_batch_start(self, trainer, *args):
            if trainer.global_step == 6:
                os.kill(os.getpid(), signal.SIGTERM)

    whole = run("whole", **STEPS)
    validations = run.validations
    with pytest.raises(SystemExit):
        run("parts", During(), **STEPS)
    assert list(run.validations) == [3, 6]
    assert torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6
    assert differences(run("parts", resume=True, **STEPS), whole) == []
    assert [*range(3, 13, 3)] == list(validations)
    assert run.validations == {step: validations[step] for step in (9, 12)}


def test_a_run_that_is_resumed_after_its_last_step_does_nothing_more(run):
    whole = run("whole", **STEPS)
    with pytest.raises(SystemExit):
        run("parts", Signals(13, signal.SIGTERM), **STEPS)
    assert differences(run("parts", resume=True, **STEPS), whole) == []
    assert run.validations == {}


def test_a_run_resumes_where_another_callback_has_ended_it_with_raw_weights_and_average(run):
    class Enough(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 5

    whole = run("whole", **STEPS)
    stopped = run("parts", Enough(), **STEPS)
    assert stopped["global_step"] == 5
    assert differences(stopped["state_dict"], stopped["current_model_state"])
    resumed = run("parts", resume=True, **STEPS)
    # It may have ended an epoch early; what is learned is the same.
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "callbacks")
    assert differences({name: resumed[name] for name in names}, {name: whole[name] for name in names}) == []


@pytest.mark.parametrize(
    "options", [BOTH, pytest.param(STEPS, marks=pytest.mark.slow), pytest.param(EPOCHS, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("step", [3, 4, 8])  # 4 and 8 are the last steps of an epoch
def test_a_checkpoint_of_version_0_1_resumes_which_has_the_order_of_windows_in_lightnings_loops_alone(
    run, tmp_path, options, step
):
    whole = run("whole", **options)
    with pytest.raises(SystemExit):
        run("parts", Signals(step, signal.SIGTERM), **options)
    path = tmp_path / "parts/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint.pop("vgp_position") == {"drawn": step, "seed": 7}
    torch.save(checkpoint, path)
    assert differences(run("parts", resume=True, **options), whole) == []


@pytest.mark.parametrize("options", [STEPS, EPOCHS])
def test_where_lightning_does_not_save_the_order_of_windows_ours_is_enough(run, tmp_path, options):
    whole = run("whole", **options)
    with pytest.raises(SystemExit):
        run("parts", Signals(6, signal.SIGTERM), **options)
    path = tmp_path / "parts/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    torch.save(checkpoint, path)
    assert differences(run("parts", resume=True, **options), whole) == []


# ---------------------------------------------------------------- when it is saved


class Saved(pl.Callback):
    """Records, at the start of each step, the step that ``last.ckpt`` was saved at."""

    def __init__(self, path):
        self.path, self.steps, self.validations = path, [], []

    def _step(self):
        return torch.load(self.path, weights_only=True)["global_step"] if self.path.exists() else None

    def on_train_batch_start(self, *args):
        self.steps.append(self._step())

    def on_validation_batch_start(self, trainer, *args):
        self.validations.append((trainer.global_step, self._step()))


def test_the_last_checkpoint_is_rewritten_at_its_interval_and_after_the_last_step(run, tmp_path):
    path = tmp_path / "whole/checkpoints/last.ckpt"
    saved = Saved(path)
    checkpoint = run("whole", saved, interval=3, max_steps=7, limit_val_batches=0)
    assert saved.steps == [None, None, None, 3, 3, 3, 6]
    assert checkpoint["global_step"] == 7
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("interval", [3, 4, 100])
def test_training_that_ends_by_epochs_saves_its_last_step_too(run, interval):
    checkpoint = run("whole", interval=interval, max_steps=-1, max_epochs=2)
    assert checkpoint["global_step"] == 8
    assert checkpoint["averaging_state"]["n_averaged"] == 8
    assert differences(checkpoint["state_dict"], checkpoint["current_model_state"])


@pytest.mark.parametrize("options", [STEPS, SECOND_EPOCHS | {"max_epochs": 2, "check_val_every_n_epoch": 2}])
def test_a_validation_that_is_due_comes_before_the_checkpoint(run, tmp_path, options):
    saved = Saved(tmp_path / "whole/checkpoints/last.ckpt")
    run("whole", saved, interval=1, **options)
    assert saved.steps[1:] == [*range(1, len(saved.steps))]
    assert saved.validations
    assert all(before == step - 1 for step, before in saved.validations)


@pytest.mark.parametrize("options", [STEPS, SECOND_EPOCHS])
def test_without_held_out_windows_no_checkpoint_waits_for_a_validation(run, tmp_path, options):
    saved = Saved(tmp_path / "whole/checkpoints/last.ckpt")
    run("whole", saved, interval=1, validation_share=0, **options)
    assert saved.steps[1:] == [*range(1, len(saved.steps))]


def test_an_interval_below_one_is_refused():
    with pytest.raises(ValueError, match=r"checkpoint\.every_n_train_steps is 0: it must be at least 1"):
        LastCheckpoint(0)


# ---------------------------------------------------------------- signals


def test_a_second_ctrl_c_stops_at_once_without_a_checkpoint(run, tmp_path, capfd):
    reached = []

    class Reached(pl.Callback):
        def on_before_optimizer_step(self, trainer, *args):
            reached.append(trainer.global_step + 1)

        def on_exception(self, trainer, module, exception):
            reached.append(type(exception))

    with pytest.raises(SystemExit) as ended:
        run("whole", Signals(3, signal.SIGINT, signal.SIGINT), Reached(), **STEPS)
    assert ended.value.code == 1  # Lightning's answer to a KeyboardInterrupt
    assert reached == [1, 2, KeyboardInterrupt]
    assert not (tmp_path / "whole/checkpoints").exists()
    assert "SIGINT: stopping after this step; once more to stop at once" in capfd.readouterr().err


def test_a_second_sigterm_changes_nothing(run, tmp_path):
    with pytest.raises(SystemExit) as ended:
        run("whole", Signals(3, signal.SIGTERM, signal.SIGTERM), **STEPS)
    assert ended.value.code == 143
    assert torch.load(tmp_path / "whole/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3


@pytest.fixture
def handlers():
    """The handlers of the signals that are caught; restored at the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield lambda: {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_ctrl_c_that_was_ignored_stays_ignored(run, handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert run("whole", Signals(3, signal.SIGINT), **STEPS)["global_step"] == 13
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize("stopped", [False, True])
def test_the_handlers_are_restored(run, handlers, stopped):
    before, within = handlers(), {}

    class Within(pl.Callback):
        def on_train_batch_start(self, *args):
            within.update(handlers())

    if stopped:
        with pytest.raises(SystemExit):
            run("whole", Within(), Signals(2, signal.SIGTERM), **STEPS)
    else:
        run("whole", Within(), **STEPS | {"max_steps": 2})
    assert handlers() == before
    assert within[signal.SIGINT] != before[signal.SIGINT]
    assert within[signal.SIGTERM] != before[signal.SIGTERM]


def test_training_outside_the_main_thread_leaves_the_signals_alone(run):
    found = []
    thread = threading.Thread(target=lambda: found.append(run("whole", **STEPS | {"max_steps": 2})["global_step"]))
    thread.start()
    thread.join(timeout=60)
    assert found == [2]


# ---------------------------------------------------------------- SLURM


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """The environment of a job of one task, and a ``scontrol`` that records its arguments."""
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    job = {"NTASKS": 1, "JOB_ID": 4711, "JOB_NAME": "train", "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    return tmp_path / "asked"


@pytest.mark.parametrize("array", [False, True])
def test_slurms_signal_saves_and_has_the_job_run_again_where_it_resumes(run, slurm, monkeypatch, array):
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4700")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    whole = run("whole", **STEPS)
    with pytest.raises(SystemExit) as ended:
        run("parts", Signals(5, signal.SIGUSR1), **STEPS)
    assert ended.value.code == 128 + signal.SIGUSR1
    assert slurm.read_text().splitlines() == [f"requeue {'4700_3' if array else '4711'}"]
    assert differences(run("parts", resume=True, **STEPS), whole) == []
    assert len(slurm.read_text().splitlines()) == 1


def test_slurms_end_of_a_job_saves_and_does_not_have_it_run_again(run, slurm, tmp_path):
    with pytest.raises(SystemExit) as ended:
        run("whole", Signals(5, signal.SIGTERM), **STEPS)
    assert ended.value.code == 143
    assert torch.load(tmp_path / "whole/checkpoints/last.ckpt", weights_only=True)["global_step"] == 5
    assert not slurm.exists()


def test_an_interactive_job_is_not_run_again(run, slurm, monkeypatch, handlers):
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert run("whole", Signals(3, signal.SIGUSR1), **STEPS)["global_step"] == 13
    assert not slurm.exists()


# ---------------------------------------------------------------- whole or absent


class FullDisk(pl.Callback):
    """From one step on, no file can grow beyond 100 kB; a checkpoint is larger."""

    def __init__(self, step):
        self.step, self.before = step, resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step + 1 == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, self.before[1]))

    def on_exception(self, *args):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.mark.parametrize("step", [1, 6])
def test_a_full_disk_is_an_error_and_leaves_the_previous_checkpoint(run, tmp_path, step):
    path = tmp_path / "whole/checkpoints/last.ckpt"
    before = []

    class Before(pl.Callback):
        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == 5:
                before.append(path.read_bytes())

    with pytest.raises(OSError, match="File too large"):
        run("whole", FullDisk(step), Before(), interval=1, **STEPS)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000
    assert [file.read_bytes() for file in path.parent.iterdir()] == before  # and no part of another beside it
    if before:
        assert len(before[0]) > 100_000
        assert torch.load(path, weights_only=True)["global_step"] == 5
        whole = run("other", **STEPS)
        assert differences(run("whole", resume=True, **STEPS), whole) == []


WRITES = """
import resource, signal, sys
from pathlib import Path
import torch
from vgp_lightning.training.checkpoints import WholeFile

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which kills the process when a file grows further
WholeFile().save_checkpoint({"weights": torch.ones(100_000)}, Path(sys.argv[1]))
"""


def test_a_kill_while_a_checkpoint_is_written_leaves_the_previous_one(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeFile().save_checkpoint({"step": 1}, path)
    result = subprocess.run([sys.executable, "-c", WRITES, str(path)], timeout=60, check=False)
    assert result.returncode == -signal.SIGXFSZ
    assert torch.load(path, weights_only=True) == {"step": 1}
    WholeFile().save_checkpoint({"step": 2}, path)  # the remaining part does no harm
    assert torch.load(path, weights_only=True) == {"step": 2}
    assert list(tmp_path.glob("last*")) == [path]


def test_a_checkpoint_that_is_being_read_stays_complete_while_the_next_is_written(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeFile().save_checkpoint({"step": 1}, path)
    with path.open("rb") as file:
        WholeFile().save_checkpoint({"step": 2}, path)
        assert torch.load(file, weights_only=True) == {"step": 1}
    assert torch.load(path, weights_only=True) == {"step": 2}


def test_the_folder_of_a_checkpoint_is_made_and_a_remote_one_is_written_by_lightning(tmp_path):
    WholeFile().save_checkpoint({"step": 1}, tmp_path / "a/b/last.ckpt")
    assert torch.load(tmp_path / "a/b/last.ckpt", weights_only=True) == {"step": 1}
    WholeFile().save_checkpoint({"step": 2}, f"file://{tmp_path}/remote.ckpt")
    assert torch.load(tmp_path / "remote.ckpt", weights_only=True) == {"step": 2}


# ---------------------------------------------------------------- read


@pytest.mark.parametrize("kind", learners.MODULES)
def test_a_checkpoint_alone_has_weights_statistics_and_plain_settings(make_data, make_trainer, tmp_path, batch, kind):
    trained, trainer, path = (
        learners.make_module(kind, learning_rate=0.01),
        make_trainer(max_steps=2),
        tmp_path / "a.ckpt",
    )
    trainer.fit(trained, make_data())
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    settings = checkpoint["hyper_parameters"]
    assert json.loads(json.dumps(settings)) == settings
    assert (settings["widths"], settings["task"], settings["learning_rate"]) == (
        [16, 16] if kind is DenoiserModule else [16, 64],
        {"env_id": "Tiny-v0"},
        0.01,
    )
    loaded = load_module(str(path))
    assert type(loaded) is kind
    assert loaded.normalization == trained.normalization
    timesteps = torch.tensor([0, 2, 4])
    sample = batch.trajectories.transpose(1, 2)
    with torch.inference_mode():
        answers = [module.eval().network(sample, timesteps).sample for module in (loaded, trained)]
    assert torch.equal(*answers)
    assert not torch.equal(answers[0], learners.make_module(kind).network(sample, timesteps).sample)


def test_a_checkpoint_that_is_missing_names_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"none\.ckpt does not exist: train one with vgp fit"):
        load_module(str(tmp_path / "none.ckpt"))


@pytest.mark.parametrize("content", ["", "# Title", "hello", "a: 1", "{}"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "a.ckpt").write_text(content)
    with pytest.raises(ValueError, match=r"a\.ckpt cannot be read as a checkpoint"):
        load_module(str(tmp_path / "a.ckpt"))


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_module(str(tmp_path))


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"vgp_module": "Other", "state_dict": {}}])
def test_another_programs_checkpoint_is_refused_by_name(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of DenoiserModule or ValueModule"):
        load_module(str(tmp_path / "a.ckpt"))


def test_a_checkpoint_of_another_lightning_module_is_refused(make_trainer, tmp_path):
    class Other(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch):
            return self.layer(batch).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = make_trainer(max_steps=1)
    trainer.fit(Other(), torch.utils.data.DataLoader(torch.ones(2, 1)))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of"):
        load_module(str(tmp_path / "a.ckpt"))
