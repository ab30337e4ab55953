"""EMA that is safe from the first step, and a throughput meter that does not wait for the device."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from vgp_lightning.data.windows import Batch


class EMA(WeightAveraging):
    """Exponential moving average of the weights; validation and checkpoints use it as soon as there is one.

    Lightning's own EMA swaps in the random initial weights until its first update, and to the end if ``max_steps``
    comes first (Lightning #21724). Buffers are copied, not averaged: they are the dataset's statistics.
    """

    def __init__(self, decay: float = 0.9999, every_n_steps: int = 1) -> None:
        """Set the average up.

        Args:
            decay: The share of the average that stays at each step, in the long run; at first it is
                (1 + steps) / (10 + steps), so that the average forgets the random start in a short run too.
            every_n_steps: Optimizer steps between two updates, each of which moves the average as far as so many
                would: a slow average loses nothing by it, and a step on a CPU is a twentieth shorter with 10.

        Raises:
            ValueError: If the decay is not in [0, 1), or the interval below 1.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"ema.decay is {decay}: it must lie in [0, 1)")
        if every_n_steps < 1:
            raise ValueError(f"ema.every_n_steps is {every_n_steps}: it must be at least 1")
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self._decay, self._interval = decay, every_n_steps

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether the average takes part in the step of this index."""
        return step_idx is not None and step_idx % self._interval == 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the average; its count stays on the CPU, where reading it is no wait for the device."""
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    def _average(self, averages: list[Tensor], weights: list[Tensor], steps: Tensor | int) -> None:
        """Move the averages towards the weights, in place."""
        del steps  # a copy on the device
        count = self._interval * int(self._average_model.n_averaged) if self._average_model is not None else 0
        # Under other precisions than 32 bits the two can differ in type.
        weights = [weight.to(average) for average, weight in zip(averages, weights, strict=True)]
        kept = min(self._decay, (1 + count) / (10 + count)) ** self._interval
        torch._foreach_lerp_(averages, weights, 1 - kept)

    def _has_average(self) -> bool:
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swap the average in, once there is one."""
        if self._has_average():
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swap the average out, once there is one."""
        if self._has_average():
            super().on_validation_epoch_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as ``state_dict``, once there is one."""
        if self._has_average():
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore average and raw weights where training goes on; elsewhere the average is what was loaded.

        A checkpoint from before the first step, such as Lightning's finders write, has none.
        """
        if self._average_model is not None and "averaging_state" in checkpoint:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the module, once there is one."""
        if self._has_average():
            super().on_train_end(trainer, pl_module)


class Throughput(pl.Callback):
    """Logs steps and windows a second, validation aside, without a wait for the device."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._step, self._time, self._windows = trainer.global_step, time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Log at Lightning's interval."""
        self._windows += batch.draw.total
        steps = trainer.global_step - self._step
        if steps >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            seconds = time.perf_counter() - self._time
            pl_module.log("train/steps_per_second", steps / seconds)
            pl_module.log("train/windows_per_second", self._windows / seconds)
            self._step, self._time, self._windows = trainer.global_step, time.perf_counter(), 0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._stopped = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let it go on."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._time += time.perf_counter() - self._stopped
