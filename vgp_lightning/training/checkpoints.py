"""Checkpoints: written atomically, at signals too, and read as data, never as code."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from vgp_lightning.report.files import replace_file
from vgp_lightning.training.contents import check_form, check_tensors, check_weights
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.hyperparameters import check_hyperparameters
from vgp_lightning.training.internals import batches_trained, requeue_signal
from vgp_lightning.training.planner import PlannerModule
from vgp_lightning.training.value import ValueModule

ASK_EVERY = 20  # steps after which the processes of a distributed run tell each other of a signal or a fault


def run_folder(trainer: pl.Trainer) -> Path:
    """Return where a run's files go: the first logger's folder of this run, as the main process names it."""
    folder = Path(trainer.default_root_dir)
    if trainer.loggers:
        logger = trainer.loggers[0]
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        folder = Path(logger.save_dir or folder) / str(logger.name) / version
    return Path(trainer.strategy.broadcast(str(folder)))


class WholeFile(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: a full disk or a kill leaves the previous one intact.

    Lightning's own goes through the temporary folder, from which a file is copied if that is another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the checkpoint; a remote one as Lightning does.

        Raises:
            OSError: If the disk cannot hold it.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            replace_file(target, lambda file: torch.save(checkpoint, file))
        except RuntimeError as error:
            # torch's writer hides the operating system's message.
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


class LastCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt``: rewritten at an interval, after the last step, and at a signal.

    Ctrl-C (SIGINT), SIGTERM and SLURM's signal before its time limit end the run after the current step; resumed, it
    is to the bit the run that was not interrupted. SLURM is asked to run the job again. A second Ctrl-C does not wait.
    """

    def __init__(self, every_n_train_steps: int = 1000) -> None:
        """Set the interval.

        Args:
            every_n_train_steps: Optimizer steps between two checkpoints.

        Raises:
            ValueError: If it is below 1.
        """
        if every_n_train_steps < 1:
            raise ValueError(f"checkpoint.every_n_train_steps is {every_n_train_steps}: it must be at least 1")
        self._interval = every_n_train_steps
        self.has_trained = False  # whether a batch has been trained since the start
        self._saved_step = -1
        self._signal: int | None = None
        self._step = 0  # optimizer steps taken before the current batch
        self._stepped = False  # whether the current batch has ended one

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have checkpoints written atomically, unless the user has chosen how they are written."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFile()
        self._path = run_folder(trainer) / "checkpoints/last.ckpt"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals; the Trainer restores their handlers when it ends."""
        self._step = trainer.global_step
        self._requeue_signal = requeue_signal(trainer)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, self._requeue_signal):
                # A shell's background job ignores Ctrl-C, and has to go on doing so.
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to, and stop if a signal asks for it.

        If a validation is due now, wait for its end: a resumed run would not make up for it.
        """
        self.has_trained = True
        self._stepped = trainer.global_step > self._step
        self._step = trainer.global_step
        if not _validates(trainer, batch_idx):
            self._save_or_stop(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do what had to wait for the validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_or_stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where another callback has ended the training, while average and raw weights are still separate."""
        if trainer.should_stop:
            self._save(trainer)

    def _save_or_stop(self, trainer: pl.Trainer) -> None:
        if not self._stepped:
            return  # accumulated gradients are in no checkpoint
        if self._stops(trainer):
            self._save(trainer)
            self._leave(trainer)
        if self._is_due(trainer):
            self._save(trainer)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        step = trainer.global_step
        last_of_epochs = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        return step > 0 and (step % self._interval == 0 or step == trainer.max_steps or last_of_epochs)

    def _save(self, trainer: pl.Trainer) -> None:
        if self._saved_step != trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self._path, weights_only=False)
            self._saved_step = trainer.global_step

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal until the step is done."""
        del frame
        if number == signal.SIGINT and self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number
        again = "; once more to stop at once, without a checkpoint" if number == signal.SIGINT else ""
        print(f"\nvgp: {signal.Signals(number).name}: stopping after this step{again}", file=sys.stderr)

    def _stops(self, trainer: pl.Trainer) -> bool:
        """Return whether any process has received a signal; a distributed run asks only at intervals."""
        wanted = self._signal is not None
        if trainer.world_size == 1:
            return wanted
        return trainer.global_step % ASK_EVERY == 0 and trainer.strategy.reduce_boolean_decision(wanted, all=False)

    def _leave(self, trainer: pl.Trainer) -> None:
        number = self._signal or signal.SIGTERM  # the signal of another process
        if trainer.is_global_zero:
            print(
                f"vgp: stopped after step {trainer.global_step}: {self._path} is written. "
                "To resume, give the same command with --ckpt_path last",
                file=sys.stderr,
            )
            if number == self._requeue_signal:
                array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
                job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
                subprocess.run(["scontrol", "requeue", job], check=True)
        raise SystemExit(128 + number)


def _validates(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Return whether Lightning validates after this batch.

    An interval in wall-clock time is not foreseen: a signal at the same step then stops the run before the validation.
    """
    every_epochs, every_batches = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not trainer.enable_validation or (every_epochs is not None and (trainer.current_epoch + 1) % every_epochs):
        return False
    ends_early = (
        trainer.should_stop
        and trainer.current_epoch >= (trainer.min_epochs or 0)
        and trainer.global_step >= (trainer.min_steps or 0)
    )
    if not ends_early:
        count = batches_trained(trainer) if every_epochs is None else batch_idx + 1
        if every_batches is None or count % every_batches:
            return False
    # Lightning asks for the held-out windows when the first validation begins, and skips it if there are none.
    loaders = trainer.val_dataloaders
    if loaders is None and trainer.datamodule is not None:  # type: ignore[attr-defined]
        loaders = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
    return loaders is None or not isinstance(loaders, list) or len(loaders) > 0


def read_checkpoint(path: str | Path, advice: str = "") -> Any:
    """Read a file that ``torch.save`` wrote, which may hold tensors and plain values, but no code.

    Args:
        path: The file.
        advice: End of the message if it is missing.

    Raises:
        ValueError: If the file is missing, or is not such a file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"checkpoint {path} does not exist{advice}") from error
    except (
        *(OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, MemoryError),
        *(AssertionError, pickle.UnpicklingError),
    ) as error:
        # torch's own message is a page long, and advises loading it as code.
        raise ValueError(f"{path} cannot be read as a checkpoint ({type(error).__name__})") from error


def load_module(path: str) -> DenoiserModule | ValueModule | PlannerModule:
    """Load a checkpoint of any of the modules, with the EMA weights if it was trained with EMA.

    The module's class is called here with the hyper-parameters as plain values. Lightning's ``load_from_checkpoint``
    would call the function that the checkpoint names as its instantiator, which makes objects of any class.

    Raises:
        ValueError: If the file is missing, is no checkpoint, is another program's, or holds what no training writes.
    """
    checkpoint = read_checkpoint(path, advice=": train one with vgp fit")
    kinds = {kind.__name__: kind for kind in (DenoiserModule, ValueModule, PlannerModule)}
    name = checkpoint.get("vgp_module") if isinstance(checkpoint, dict) else None
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"{path} is not a checkpoint of {' or '.join(kinds)}: train one with vgp fit")
    check_form(checkpoint, path)
    weights = checkpoint["state_dict"]
    check_tensors(weights, f"state_dict of {path}")
    size = Path(path).stat().st_size
    arguments = check_hyperparameters(kind, checkpoint.get("hyper_parameters"), size, path)
    try:
        module: DenoiserModule | ValueModule | PlannerModule = kind(**arguments)
    except ValueError as error:
        raise ValueError(f"{path} has hyper_parameters that describe no {kind.__name__}: {error}") from error
    check_weights(weights, module.state_dict(), f"state_dict of {path}")
    module.load_state_dict(weights)
    return module
