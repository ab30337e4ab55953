"""What Lightning lacks: EMA that is safe from the start, a clock that does not wait, plans and values as pictures."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from vgp_lightning.data.windows import Batch
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.report.figures import plot_bars, plot_calibration, plot_plans
from vgp_lightning.report.statistics import calibrate, rank_correlation
from vgp_lightning.training.base import LearningModule
from vgp_lightning.training.planner import DenoiserModule, ValueModule


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
        if not (first and isinstance(pl_module, LearningModule) and isinstance(logger, TensorBoardLogger)):
            return
        denoiser = next((part for part in pl_module.parts if isinstance(part, DenoiserModule)), None)
        if denoiser is None:
            return
        # Spread over the batch: neighbours are steps of one episode.
        windows = batch.trajectories[:: -(-len(batch.trajectories) // self.plans)].float()
        pipeline = ValueGuidedPlannerPipeline(
            denoiser.network,
            denoiser.noise_scheduler,
            normalization=denoiser.normalization,
            planner={"sampler": "ddpm", "planning_horizon": windows.shape[1]},
        )
        plan = pipeline(
            windows[:, 0, denoiser.action_dim :],
            batch_size=1,
            generator=torch.Generator(denoiser.device).manual_seed(0),
        )
        observations = windows.shape[2] - denoiser.action_dim
        names = [f"action {i}" for i in range(denoiser.action_dim)] + [f"observation {i}" for i in range(observations)]
        figure = plot_plans(
            torch.cat([plan.actions, plan.observations], dim=2).cpu(),
            windows.cpu(),
            names,
            f"step {trainer.global_step}: plans and the windows that start where they do",
        )
        logger.experiment.add_figure("plan/denoised", figure, trainer.global_step)


class CalibrationPicture(pl.Callback):
    """Draws how far predicted returns come true, at each validation of a value function.

    The figure ``value/calibration`` shows held-out windows at the lowest noise level, ``value/rank_by_level`` how well
    they are ranked at each validation level. Nothing is predicted for it: the metrics hold it all. Of several processes
    the first draws its own share of the windows, evenly spread over them all.
    """

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw what the metrics hold, before Lightning empties them."""
        logger = trainer.logger
        if not (trainer.is_global_zero and not trainer.sanity_checking and isinstance(logger, TensorBoardLogger)):
            return
        parts = pl_module.parts if isinstance(pl_module, LearningModule) else []
        value_module = next((part for part in parts if isinstance(part, ValueModule)), None)
        if value_module is None:
            return
        pairs = {
            name: (predicted.double().cpu().numpy(), true.double().cpu().numpy())
            for name, (predicted, true) in value_module.measured().items()
        }
        predicted, true = next(iter(pairs.values()))
        if len(predicted) == 0:
            return
        step = trainer.global_step
        figures = {
            "value/calibration": plot_calibration(
                predicted,
                true,
                calibrate(predicted, true).curve,
                f"step {step}: held-out windows; on the line: promised = got",
            ),
            "value/rank_by_level": plot_bars(
                {"held-out windows": [rank_correlation(*pair) for pair in pairs.values()]},
                list(pairs),
                "rank correlation",
                f"step {step}: noised windows; 1 ranks them rightly, 0 is chance",
            ),
        }
        for tag, figure in figures.items():
            logger.experiment.add_figure(tag, figure, step)
