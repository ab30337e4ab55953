"""What the trainings of small networks have in common: optimizer, schedule, and loaders of samples in memory."""

from typing import Any

import lightning.pytorch as pl
import torch
from diffusers.optimization import get_scheduler
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, TensorDataset


def make_optimizer(
    network: nn.Module, trainer: pl.Trainer, learning_rate: float, weight_decay: float, warmup_steps: int
) -> Any:
    """Return AdamW with a linear warm-up and a cosine decay to zero, as Lightning takes them.

    Args:
        network: What learns.
        trainer: Knows the number of training steps.
        learning_rate: The highest, reached after the warm-up.
        weight_decay: Of AdamW.
        warmup_steps: Steps in which the learning rate rises from zero.
    """
    steps = int(trainer.estimated_stepping_batches)
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=weight_decay, fused=True)
    warmup = min(warmup_steps, steps)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def load(
    training: TensorDataset, validation: TensorDataset, batch_size: int, batches: int, generator: torch.Generator
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return a loader of training samples, drawn with replacement, and one of held-out samples in their order.

    Args:
        training: To learn from.
        validation: To measure on.
        batch_size: Samples in a batch of the training.
        batches: Number of these batches, which are one epoch.
        generator: Draws them.
    """
    drawn = RandomSampler(training, replacement=True, num_samples=batches * batch_size, generator=generator)
    return (
        _load(training, BatchSampler(drawn, batch_size, drop_last=True)),
        _load(validation, BatchSampler(SequentialSampler(validation), 4096, drop_last=False)),
    )


def _load(samples: Dataset[Any], batches: BatchSampler) -> DataLoader[Any]:
    """Return a loader that takes a batch by one gather, not sample by sample."""
    return DataLoader(samples, sampler=batches, batch_size=None)
