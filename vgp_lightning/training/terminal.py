"""What a training prints: a line at its start, progress where no bar can be drawn, the next command at its end."""

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar

from vgp_lightning.training.base import LearningModule
from vgp_lightning.training.checkpoints import run_folder
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.value import ValueModule

# Where TensorBoard, started without options, shows training and validation in one chart.
_LOSSES = "http://localhost:6006/#custom_scalars"
_EVERY = 300.0  # seconds between two lines of progress, where validations are rarer
# Warnings that a user can do nothing about.
_NOT_FOR_USERS = (
    # Lightning 2.6.6 asks for torch's LeafSpec in its own loaders; torch 2.13 deprecates it.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # It counts the cores; a batch is one gather, which needs no worker.
    r"The '(train|val)_dataloader' does not have many workers",
    # It suspects that arguments given by code (the demo, a test) were meant for the command line.
    "LightningCLI's args parameter is intended",
    # `vgp fit --ckpt_path last` goes on in the run's folder.
    r"Checkpoint directory .* exists and is not empty",
    r"Experiment logs directory .* exists and is not empty",
    # Steps are counted across epochs: a small dataset is logged as often as a large one.
    r"The number of training batches \(\d+\) is smaller than the logging interval",
)


@contextmanager
def silence_lightning() -> Iterator[None]:
    """Keep Lightning from saying which accelerators there are, what else one could install, and that it has stopped."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _NOT_FOR_USERS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def plain_output(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the Trainer that differ from those given, so that its output suits where it goes.

    A progress bar in a file is thousands of characters that nobody reads. There, lines take its place.

    Args:
        options: Those given: ``callbacks`` and ``enable_progress_bar`` are read.
    """
    callbacks = options.get("callbacks") or []
    callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
    wanted, terminal = options.get("enable_progress_bar") is not False, sys.stdout.isatty()
    lines = [ProgressLines(shows_progress=wanted and not terminal)]
    if terminal:
        return {"callbacks": [*callbacks, *lines]}
    bars = [one for one in callbacks if isinstance(one, ProgressBar)]
    return {"callbacks": [*(one for one in callbacks if one not in bars), *lines], "enable_progress_bar": False}


class ProgressLines(pl.Callback):
    """Prints what is trained, and the progress as one line at each validation and every five minutes."""

    def __init__(self, shows_progress: bool = True) -> None:
        """Set up.

        Args:
            shows_progress: Whether to print the progress too, as where there is no progress bar.
        """
        self._shows_progress = shows_progress

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what is trained, where, and where its files go."""
        self._first, self._start = trainer.global_step, time.monotonic()
        self._latest = self._start
        if not trainer.is_global_zero:
            return
        count = sum(weight.numel() for weight in pl_module.parameters())
        device = f"{trainer.world_size} x {pl_module.device.type}" if trainer.world_size > 1 else pl_module.device
        steps = f"{trainer.max_steps} steps" if trainer.max_steps > 0 else f"{trainer.max_epochs} epochs"
        print(
            f"vgp: training {type(pl_module).__name__}, {count / 1e6:.2f} million weights, {steps} on {device}, "
            f"in {run_folder(trainer)}",
            flush=True,
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if the latest one is old."""
        if time.monotonic() - self._latest >= _EVERY:
            self._print(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print a line."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._print(trainer)

    def _print(self, trainer: pl.Trainer) -> None:
        self._latest = time.monotonic()
        if not (self._shows_progress and trainer.is_global_zero):
            return
        step, seconds = trainer.global_step, self._latest - self._start
        total = trainer.estimated_stepping_batches
        left = (total - step) * seconds / max(step - self._first, 1)
        # The losses: what a progress bar would show.
        shown = [f"{name} {value:.4g}" for name, value in trainer.progress_bar_metrics.items() if "loss" in name]
        rate = (step - self._first) / max(seconds, 1e-9)
        print(
            f"step {step} of {total:.0f}, {_clock(seconds)} gone, {_clock(left)} left, {rate:.3g} steps/s"
            + "".join(f", {one}" for one in shown),
            flush=True,
        )


def say_next(trainer: pl.Trainer, module: pl.LightningModule, seconds: float) -> None:
    """Name the checkpoint of a training that has ended, and the command that makes a planner of it.

    Args:
        trainer: What has trained.
        module: What was trained.
        seconds: How long it took.
    """
    run = run_folder(trainer)
    checkpoint = run / "checkpoints" / "last.ckpt"
    if not (trainer.is_global_zero and checkpoint.is_file()):
        return
    print(f"vgp: trained {trainer.global_step} steps in {_clock(seconds)}; the checkpoint is {checkpoint}")
    if isinstance(module, LearningModule):
        print(f"next:  {_export(module, checkpoint, run)}")
    if trainer.logger is not None and trainer.logger.save_dir is not None:
        print(f"watch: tensorboard --logdir {trainer.logger.save_dir}, then open {_LOSSES}", flush=True)


def _export(module: LearningModule, checkpoint: Path, run: Path) -> str:
    """Return the command that makes a pipeline folder of a checkpoint."""
    folder = f"exports/{run.parent.name}-{run.name.removeprefix('version_')}"
    if isinstance(module, ValueModule):
        return f"vgp export --denoiser RUN_OF_A_DENOISER --value {checkpoint} --output {folder}"
    guide = " [--value RUN_OF_A_VALUE_FUNCTION]" if isinstance(module, DenoiserModule) else ""
    return f"vgp export --denoiser {checkpoint}{guide} --output {folder}"


def _clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds."""
    return str(timedelta(seconds=round(max(seconds, 0))))
