"""Trainers: the options of Lightning's Trainer with which these networks cannot be trained."""

import math

import lightning.pytorch as pl
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

NO_END = "the cosine schedule needs an end: set trainer.max_steps or trainer.max_epochs"


def check_trainer(trainer: pl.Trainer, trains: bool) -> None:
    """Refuse options of the Trainer that these networks cannot be trained or validated with.

    Args:
        trainer: The Trainer.
        trains: Whether it trains, and not only validates.

    Raises:
        ValueError: If one is out of range, the precision would round the data, or the strategy divides the weights.
    """
    _check_precision(trainer.precision)
    _check_strategy(trainer.strategy)
    clip = trainer.gradient_clip_val
    if clip is not None and not 0 <= clip < math.inf:
        raise ValueError(f"trainer.gradient_clip_val is {clip}: it must be a finite number, at least 0 (no clipping)")
    if not trains or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    for name in ("max_steps", "max_epochs", "limit_train_batches"):
        if getattr(trainer, name) == 0:
            raise ValueError(f"trainer.{name} is 0: nothing would be trained. Give at least 1")
    for name in ("log_every_n_steps", "check_val_every_n_epoch", "accumulate_grad_batches"):
        every = getattr(trainer, name)
        if every is not None and every < 1:
            raise ValueError(f"trainer.{name} is {every}: it must be at least 1")
    if trainer.val_check_interval == 0:
        raise ValueError(
            "trainer.val_check_interval is 0: it must be above 0; --data.validation_share 0 validates never"
        )
    reload_every = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
    if reload_every:
        raise ValueError(
            f"trainer.reload_dataloaders_every_n_epochs is {reload_every}: "
            "each epoch would draw the same windows and noise. Leave it at 0: each epoch has a new order anyway"
        )
    if trainer.max_steps == trainer.max_epochs == -1:
        raise ValueError(NO_END)


def _check_precision(precision: str) -> None:
    """Refuse a precision in which Lightning rounds the batches, and the statistics, before they are normalised.

    A number of mean 1.3 and deviation 0.2 has a resolution of 0.008 in bfloat16.
    """
    if precision.endswith("16-true") or precision.startswith("transformer-engine"):
        raise ValueError(
            f"trainer.precision is {precision}: it would round the dataset's numbers to 16 bits before they are "
            "normalised. Use bf16-mixed or 16-mixed, which keep data, weights and losses in 32 bits"
        )


def _check_strategy(strategy: object) -> None:
    """Refuse a strategy that divides each network's weights.

    A process would clip by the norm of its own share of the gradients, and average its own share of the weights.
    """
    if isinstance(strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
        raise ValueError(
            f"trainer.strategy is {type(strategy).__name__}: it divides each network's weights among the processes, "
            "which gradient clipping and EMA do not support. Use ddp: these networks fit on any device"
        )
