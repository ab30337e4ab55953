"""EMA of the weights that is safe from the first step, and a throughput meter that does not wait for the device."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from vgp_lightning.data.windows import Batch


class EMA(pl.Callback):
    """Exponential moving average of the weights; validation, checkpoints and the trained module hold it.

    Buffers are not averaged: they are the dataset's statistics. A checkpoint holds the average as ``state_dict``, the
    raw weights as ``current_model_state``, and the number of updates as ``averaging_state``: Lightning's own layout
    (``WeightAveraging`` of 2.6), whose average would be the random initial weights until the first update, and to the
    end if ``max_steps`` came first (Lightning #21724).
    """

    def __init__(self, decay: float = 0.9999, every_n_steps: int = 1) -> None:
        """Set the average up.

        Args:
            decay: Share of the average that remains at each step, in the long run; after k steps it is at most
                (1 + k) / (10 + k), so that the average forgets the random start in a short run too.
            every_n_steps: Optimizer steps between two updates, each of which moves the average as far as that many
                updates would: a slow average loses nothing by it, and with 10 a step on a CPU is a twentieth shorter.

        Raises:
            ValueError: If the decay is not in [0, 1), or the interval below 1.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"ema.decay is {decay}: it must lie in [0, 1)")
        if every_n_steps < 1:
            raise ValueError(f"ema.every_n_steps is {every_n_steps}: it must be at least 1")
        self._decay, self._interval = decay, every_n_steps
        self._average: dict[str, Tensor] = {}  # by the parameter's name; empty before the first update
        self._updates = 0
        self._latest_step = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin without an average."""
        if stage == "fit":
            self._average, self._updates, self._latest_step = {}, 0, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average after the first step, and after every so many more."""
        step = trainer.global_step
        if step > self._latest_step and (step - 1) % self._interval == 0:
            self._update(pl_module)
            self._latest_step = step

    @torch.no_grad()
    def _update(self, pl_module: pl.LightningModule) -> None:
        """Move the average towards the weights; the first time, take the weights."""
        if not self._average:
            self._average = {name: weight.detach().clone() for name, weight in pl_module.named_parameters()}
        else:
            steps = self._interval * self._updates
            kept = min(self._decay, (1 + steps) / (10 + steps)) ** self._interval
            for average, weight in self._pairs(pl_module):
                average.lerp_(weight, 1 - kept)
        self._updates += 1

    def _pairs(self, pl_module: pl.LightningModule) -> list[tuple[Tensor, Tensor]]:
        """Return (average, weight) of each parameter; a loaded average first goes where its weight is."""
        weights = dict(pl_module.named_parameters())
        self._average = {name: average.to(weights[name]) for name, average in self._average.items()}
        return [(average, weights[name]) for name, average in self._average.items()]

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Exchange the weights for the average."""
        self._exchange(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Exchange them back."""
        self._exchange(trainer, pl_module)

    @torch.no_grad()
    def _exchange(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":  # a module that is validated alone holds its average already
            for average, weight in self._pairs(pl_module):
                raw = weight.detach().clone()
                weight.copy_(average)
                average.copy_(raw)

    @torch.no_grad()
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the module."""
        for average, weight in self._pairs(pl_module):
            weight.copy_(average)

    def state_dict(self) -> dict[str, Any]:
        """Return the step of the latest update."""
        return {"latest_update_step": self._latest_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the step of the latest update.

        Raises:
            ValueError: If the checkpoint has none.
        """
        step = state_dict.get("latest_update_step")
        if not isinstance(step, int):
            raise ValueError(f"the checkpoint's state of EMA has latest_update_step {step}: the file is damaged")
        self._latest_step = step

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as ``state_dict``, once there is one."""
        if self._average:
            checkpoint["current_model_state"] = checkpoint["state_dict"]
            checkpoint["state_dict"] = checkpoint["state_dict"] | self._average
            checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self._updates)}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore average and raw weights where training is resumed; elsewhere the average is what is loaded.

        A checkpoint from before the first step, such as Lightning's finders write, has none.
        """
        if trainer.state.fn != "fit":
            return
        self._average, self._updates = {}, 0
        if "averaging_state" in checkpoint:
            names = [name for name, _ in pl_module.named_parameters()]
            self._average = {name: checkpoint["state_dict"][name].clone() for name in names}
            self._updates = int(checkpoint["averaging_state"]["n_averaged"])
            pl_module.load_state_dict(checkpoint["current_model_state"])


class Throughput(pl.Callback):
    """Logs steps and windows per second, without validation, and without waiting for the device."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start timing."""
        self._step, self._time, self._windows = trainer.global_step, time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Log at Lightning's interval."""
        self._windows += batch.draw.total
        steps = trainer.global_step - self._step
        if steps >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            seconds = time.perf_counter() - self._time
            # As tensors on the host: Lightning would copy numbers to the device, and then read them there.
            pl_module.log("train/steps_per_second", torch.tensor(steps / seconds))
            pl_module.log("train/windows_per_second", torch.tensor(self._windows / seconds))
            self._step, self._time, self._windows = trainer.global_step, time.perf_counter(), 0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Pause timing."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Resume timing after validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._time += time.perf_counter() - self._paused
