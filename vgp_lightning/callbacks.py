"""What Lightning lacks: EMA that is safe from the start, a last checkpoint that is the last, plans as pictures."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from vgp_lightning.data import Batch
from vgp_lightning.pipeline import ValueGuidedPlannerPipeline
from vgp_lightning.rendering import plot_plans
from vgp_lightning.training import DenoiserModule


class EMA(WeightAveraging):
    """Exponential moving average of the weights; validation and checkpoints use it as soon as there is one.

    Lightning's own EMA swaps in the random initial weights until its first update, and to the end if ``max_steps``
    comes first (Lightning #21724). Buffers are copied, not averaged: they are the dataset's statistics.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        """Set the average up.

        Args:
            decay: The share of the average that stays at each step, in the long run; at first it is
                (1 + steps) / (10 + steps), so that the average forgets the random start in a short run too.

        Raises:
            ValueError: If the decay is not in [0, 1).
        """
        if not 0 <= decay < 1:
            raise ValueError(f"ema.decay is {decay}: it must lie in [0, 1)")
        super().__init__(use_buffers=False, multi_avg_fn=partial(_average, decay))

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
        """Restore average and raw weights where training goes on; elsewhere the average is what was loaded."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the module, once there is one."""
        if self._has_average():
            super().on_train_end(trainer, pl_module)


def _average(decay: float, averages: list[Tensor], weights: list[Tensor], steps: Tensor | int) -> None:
    """Move the averages towards the weights, in place."""
    count = int(steps)
    # Under other precisions than 32 bits the two can differ in type.
    weights = [weight.to(average) for average, weight in zip(averages, weights, strict=True)]
    torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + count) / (10 + count)))


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``checkpoints/last.ckpt``: rewritten every so many steps, and always at the very last one."""

    def __init__(self, every_n_train_steps: int = 1000) -> None:
        """Set the interval.

        Args:
            every_n_train_steps: Optimizer steps between two checkpoints.
        """
        super().__init__(filename="last", every_n_train_steps=every_n_train_steps, enable_version_counter=False)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save at the interval, and at the last step while the EMA and the raw weights are still two."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == trainer.max_steps:
            self._save_now(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save at the last epoch's end, for the same reason."""
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.current_epoch + 1 == trainer.max_epochs:
            self._save_now(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where training ended for another reason."""
        super().on_train_end(trainer, pl_module)
        self._save_now(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing over: a resumed run has its own folder, of which Lightning would warn."""
        del state_dict

    def _save_now(self, trainer: pl.Trainer) -> None:
        if self.dirpath is not None and self._last_global_step_saved != trainer.global_step:
            trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")
            self._last_global_step_saved = trainer.global_step


class PlanPicture(pl.Callback):
    """Draws denoised plans next to real windows at each validation, as the figure ``plan/denoised``."""

    def __init__(self, plans: int = 8) -> None:
        """Set the number.

        Args:
            plans: Plans, and real windows, in the picture.
        """
        self.plans = plans

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Plan from the first batch's observations, with the same noise every time and the EMA weights."""
        del outputs
        logger = trainer.logger
        first = batch_idx == 0 and dataloader_idx == 0 and trainer.is_global_zero and not trainer.sanity_checking
        if not (first and isinstance(pl_module, DenoiserModule) and isinstance(logger, TensorBoardLogger)):
            return
        # Spread over the batch: neighbours are steps of one episode.
        windows = batch.trajectories[:: -(-len(batch.trajectories) // self.plans)].float()
        pipeline = ValueGuidedPlannerPipeline(
            pl_module.network,
            pl_module.noise_scheduler,
            normalization=pl_module.normalization,
            planner={"sampler": "ddpm", "planning_horizon": windows.shape[1]},
        )
        plan = pipeline(
            windows[:, 0, pl_module.action_dim :],
            batch_size=1,
            generator=torch.Generator(pl_module.device).manual_seed(0),
        )
        observations = windows.shape[2] - pl_module.action_dim
        names = [f"action {i}" for i in range(pl_module.action_dim)] + [f"observation {i}" for i in range(observations)]
        figure = plot_plans(
            torch.cat([plan.actions, plan.observations], dim=2).cpu(),
            windows.cpu(),
            names,
            f"step {trainer.global_step}: plans and the windows that start where they do",
        )
        logger.experiment.add_figure("plan/denoised", figure, trainer.global_step)
