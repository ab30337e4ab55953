"""Training on a device that is not the CPU: nothing is left behind on the host, and each wait for it is listed.

``tests/fake_device.py`` stands for a GPU. A whole fit runs on it: both networks, fused AdamW, gradient clipping, EMA,
Health, checkpoints, throughput, learning rate, progress bar, TensorBoard, validation, and both pictures, which draw
made-up numbers.

Not covered: a device's random generators (the stand-in has none, the test uses the CPU's), autocast, ``torch.compile``,
several processes, pinned memory (here each copy with ``non_blocking=True`` counts as asynchronous; that batches are
pinned is tested in tests/data), and the copies of a checkpoint: ``torch.save`` writes the stand-in's tensors without
numbers, and without a wait.
"""

import importlib
from collections import Counter
from contextlib import nullcontext

import lightning.pytorch as pl
import pytest
import torch
from fake_device import DEVICE, fake_device, move
from learners import Steps, T, make_module
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import SingleDeviceStrategy

from vgp_lightning.data.resident import ResidentWindows
from vgp_lightning.data.windows import WindowDataset
from vgp_lightning.training import health
from vgp_lightning.training.callbacks import EMA, Throughput
from vgp_lightning.training.checkpoints import LastCheckpoint
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.health import Health
from vgp_lightning.training.pictures import CalibrationPicture, PlanPicture
from vgp_lightning.training.planner import PlannerModule
from vgp_lightning.training.value import ValueModule

STEPS, LOGGED, CHECKED, VALIDATED, SAVED = 10, 4, 6, 7, 9  # steps, and intervals in steps

# What the host waits for, with the reason, and how often at most: the numbers of PlannerModule, with its two networks.
AT_FIRST = {("copy to device", "trajectory.py:noised"): 2}  # diffusers moves each noise schedule there once
LOGGING = {
    ("read", "base.py:training_step"): 2,  # the losses, for the progress bar
    ("read", "logger_connector.py:log_metrics"): 4,  # losses and norms of gradients, for TensorBoard
    ("copy to device", "lr_monitor.py:_extract_stats"): 2,  # LearningRateMonitor makes callback metrics there
}
CHECKING = {("copy to host", "health.py:_check"): 2}  # the losses since the last check, and their mean over processes
# Per validation, which has several batches: after the first one for PlanPicture, after the last one for all the rest.
VALIDATING = {
    ("read", "explained_variance.py:_explained_variance_compute"): 20,  # torchmetrics; four for each of five levels
    ("read", "spearman.py:_rank_data"): 10,  # torchmetrics counts ties; two for each level
    ("read", "result.py:metrics"): 8,  # Lightning reads both losses for the progress bar, four times
    ("read", "logger_connector.py:log_metrics"): 17,  # two losses, and three metrics at five levels
    ("copy to host", "pictures.py:on_validation_epoch_end"): 10,  # predicted and true returns at each level
    # PlanPicture builds a pipeline, for which the statistics are copied to the host and back.
    ("copy to host", "trajectory.py:normalization"): 6,
    ("copy to device", "frame.py:<genexpr>"): 4,
    ("read", "inputs.py:all_finite"): 1,  # whether the observations are
    ("copy to host", "sampling.py:make_stepper"): 1,  # the noise schedule, which training has moved there
    ("copy to host", "sampling.py:check_schedule"): 1,  # the same, where the pipeline is made
    ("read", "outcome.py:refuse_unsound"): 1,  # whether the plans are finite
    ("copy to host", "pictures.py:on_validation_batch_end"): 2,  # plans and windows, to be drawn
}


class OneDevice(Accelerator):
    """Lightning's view of the stand-in."""

    def setup_device(self, device):
        assert device == DEVICE

    def teardown(self):
        pass

    @staticmethod
    def parse_devices(devices):
        return devices

    @staticmethod
    def get_parallel_devices(devices):
        return [DEVICE] * devices

    @staticmethod
    def auto_device_count():
        return 1

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def name():
        return "stand-in"


class OnDevice(SingleDeviceStrategy):
    def model_to_device(self):
        move(self.model)


class Generator(torch.Generator):
    """A generator of the CPU that says it is the device's, which has none."""

    device = DEVICE

    def __new__(cls, device=None):
        del device
        return super().__new__(cls)


class Watch(pl.Callback):
    """Divides the waits among steps and validations; it has to be the first callback.

    Attributes:
        waits: By (``step`` or ``validation``, number of the step). Each ends where the next begins, so that logging,
            checkpoints and the copy of the next batch belong to the step before.
    """

    def __init__(self, device):
        self.waits, self._device, self._phase, self._seen = {}, device, ("start", 0), Counter()

    def begin(self, *phase):
        self.waits.setdefault(self._phase, Counter()).update(self._device.waits - self._seen)
        self._phase, self._seen = phase, self._device.waits.copy()

    def on_train_batch_start(self, trainer, *args):
        self.begin("step", trainer.global_step + 1)

    def on_validation_start(self, trainer, module):
        self.begin("validation", trainer.global_step)

    def on_train_end(self, *args):
        self.begin("end", 0)


@pytest.fixture
def fit_there(make_data, monkeypatch, tmp_path):
    """Train a module on the stand-in, and return the Trainer and what it waited for."""
    # torch takes these paths on a GPU, and knows no such device.
    foreach, optimizer = map(importlib.import_module, ("torch.utils._foreach_utils", "torch.optim.optimizer"))
    monkeypatch.setattr(foreach, "_get_foreach_kernels_supported_devices", lambda: ["meta"])
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["meta"])
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())
    monkeypatch.setattr(health, "ASK_EVERY", CHECKED)  # rather than 20

    def fit(module, steps=STEPS, on_device="auto"):
        with fake_device() as device:
            watch = Watch(device)
            callbacks = [
                *(watch, PlanPicture(3), CalibrationPicture(), LearningRateMonitor(), Throughput()),
                *(TQDMProgressBar(refresh_rate=1), EMA(0.99, every_n_steps=2), Health(), LastCheckpoint(SAVED)),
            ]
            trainer = pl.Trainer(
                accelerator=OneDevice(),
                strategy=OnDevice(DEVICE),
                max_steps=steps,
                max_epochs=-1,
                gradient_clip_val=1.0,
                log_every_n_steps=LOGGED,
                val_check_interval=VALIDATED,
                check_val_every_n_epoch=None,
                num_sanity_val_steps=0,
                enable_model_summary=False,
                default_root_dir=tmp_path,
                logger=TensorBoardLogger(tmp_path, name="run", version=0, default_hp_metric=False),
                callbacks=callbacks,
            )
            trainer.fit(module, make_data(validation_share=0.25, batch_size=8, on_device=on_device))
            return trainer, {phase: waits for phase, waits in watch.waits.items() if phase[0] in ("step", "validation")}

    return fit


def allowed(kind, number, last):
    """Return what a step, or the validation after it, may wait for in a run of so many steps."""
    if kind == "validation":
        return VALIDATING
    return (
        (AT_FIRST if number == 1 else {})
        | (LOGGING if number % LOGGED == 0 else {})
        | (CHECKING if number in (CHECKED, SAVED, last) else {})
    )


def unexpected(found):
    """Return the waits that are not listed, or happen too often, by phase."""
    last = max(number for _, number in found)
    excess = {
        phase: {where: count for where, count in waits.items() if count > allowed(*phase, last).get(where, 0)}
        for phase, waits in found.items()
    }
    return {phase: waits for phase, waits in excess.items() if waits}


@pytest.mark.parametrize(
    ("kind", "on_device"),
    [
        (PlannerModule, "auto"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((PlannerModule, True), (DenoiserModule, "auto"), (ValueModule, True))
        ),
    ],
)
def test_a_fit_leaves_nothing_on_the_host_and_waits_for_what_is_listed_alone(fit_there, tmp_path, kind, on_device):
    widths = {"widths": [16, 16], "value_widths": [16, 64]} if kind is PlannerModule else {}
    trainer, waits = fit_there(make_module(kind, **widths), on_device=on_device)
    source = trainer.train_dataloader._loader.dataset
    assert isinstance(source, ResidentWindows if on_device is True else WindowDataset)
    assert [number for kind, number in waits if kind == "step"] == list(range(1, STEPS + 1))
    assert [number for kind, number in waits if kind == "validation"] == [VALIDATED]
    assert unexpected(waits) == {}
    assert (tmp_path / "run/version_0/checkpoints/last.ckpt").exists()
    names = [part.loss_name for part in trainer.lightning_module.parts]
    assert trainer.progress_bar_metrics == {f"{run}/{name}": 1.0 for run in ("train", "val") for name in names}
    # EMA updates the average in two of these steps, and the progress bar is refreshed in each of them.
    assert [waits["step", number].total() for number in (2, 3, 5)] == [0, 0, 0]


def test_a_step_that_reads_a_number_is_named(fit_there, monkeypatch):
    original = DenoiserModule.training_loss

    def reads(module, batch):
        loss = original(module, batch)
        assert loss.item() == 1.0  # made up
        return loss

    monkeypatch.setattr(DenoiserModule, "training_loss", reads)
    _, waits = fit_there(make_module(), steps=3)
    assert unexpected(waits) == {("step", number): {("read", "base.py:training_step"): 1} for number in (1, 2, 3)}


def test_a_number_that_is_left_on_the_host_is_refused(fit_there, monkeypatch):
    monkeypatch.setattr(DenoiserModule, "normalise", lambda module, batch: batch.trajectories - torch.zeros(T))
    with pytest.raises(RuntimeError, match="device"):
        fit_there(make_module(), steps=1)


def test_on_a_cpu_the_progress_bar_shows_the_losses_of_each_step(make_data, make_trainer):
    steps = Steps()
    trainer = make_trainer(max_steps=3, log_every_n_steps=2, callbacks=[steps])
    trainer.fit(make_module(), make_data(validation_share=0))
    assert trainer.progress_bar_metrics == {"train/diffusion_loss": steps.losses[-1]}
