"""PlanPicture and CalibrationPicture: plans and the calibration of values, drawn at each validation.

TensorBoard sorts the groups of its first page by name and opens two: ``train`` and ``val``. Pictures come after them.
"""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from vgp_lightning.data.windows import Batch
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.report.figures import plot_bars, plot_calibration, plot_plans
from vgp_lightning.report.names import name_dimensions
from vgp_lightning.report.statistics import calibrate, rank_correlation
from vgp_lightning.training.base import LearningModule
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.value import ValueModule


class PlanPicture(pl.Callback):
    """Draws denoised plans beside real windows at each validation, as the figure ``val_pictures/plans``."""

    def __init__(self, plans: int = 8) -> None:
        """Set the number.

        Args:
            plans: Number of plans, and of real windows, in the picture.

        Raises:
            ValueError: If it is below 1.
        """
        if plans < 1:
            raise ValueError(f"PlanPicture's plans is {plans}: at least 1 is needed")
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
        """Plan from the first batch's observations, with the same noise at every validation and the EMA weights."""
        del outputs
        logger = trainer.logger
        first = batch_idx == 0 and dataloader_idx == 0 and trainer.is_global_zero and not trainer.sanity_checking
        if not (first and isinstance(pl_module, LearningModule) and isinstance(logger, TensorBoardLogger)):
            return
        denoiser = next((part for part in pl_module.parts if isinstance(part, DenoiserModule)), None)
        if denoiser is None:
            return
        # Evenly spaced in the batch: neighbours are steps of the same episode.
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
        names = name_dimensions(
            denoiser.hparams["task"].get("env_id"), denoiser.action_dim, windows.shape[2] - denoiser.action_dim
        )
        figure = plot_plans(
            torch.cat([plan.actions, plan.observations], dim=2).cpu(),
            windows.cpu(),
            [*names.actions, *names.observations],
            f"step {trainer.global_step}: plans and the windows that start where they do",
        )
        logger.experiment.add_figure("val_pictures/plans", figure, trainer.global_step)


class CalibrationPicture(pl.Callback):
    """Draws predicted against true returns at each validation of a value function.

    The figure ``val_pictures/calibration`` shows held-out windows at the lowest noise level,
    ``val_pictures/rank_by_level`` the rank correlation at each validation level. It reuses the predictions that the
    validation metrics already hold. Of several processes the first draws its own share of the windows, which is evenly
    spaced in all of them.
    """

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw what the metrics hold, before Lightning resets them."""
        logger = trainer.logger
        if not (trainer.is_global_zero and not trainer.sanity_checking and isinstance(logger, TensorBoardLogger)):
            return
        parts = pl_module.parts if isinstance(pl_module, LearningModule) else []
        value_module = next((part for part in parts if isinstance(part, ValueModule)), None)
        if value_module is None:
            return
        pairs = {
            # In this order: an Apple GPU has no float64.
            name: (predicted.cpu().double().numpy(), true.cpu().double().numpy())
            for name, (predicted, true) in value_module.measured().items()
        }
        predicted, true = next(iter(pairs.values()))
        if len(predicted) == 0:
            return
        step = trainer.global_step
        figures = {
            "val_pictures/calibration": plot_calibration(
                predicted,
                true,
                calibrate(predicted, true).curve,
                f"step {step}: held-out windows; on the line: promised = got",
            ),
            "val_pictures/rank_by_level": plot_bars(
                {"held-out windows": [rank_correlation(*pair) for pair in pairs.values()]},
                list(pairs),
                "rank correlation",
                f"step {step}: noised windows; 1 ranks them rightly, 0 is chance",
            ),
        }
        for tag, figure in figures.items():
            logger.experiment.add_figure(tag, figure, step)
