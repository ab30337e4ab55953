"""HabitModule: learns a planner's first actions from its own plans.

Shapes: S samples, B of them in a batch, C actions of an answer (the chunk), A action and O observation dimensions.
Batches are in the environment's units; the network sees normalised numbers.
"""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from vgp_lightning.pipeline.habit import Habit
from vgp_lightning.training.regression import load, make_optimizer

Pairs = tuple[Tensor, Tensor]  # observations (B, O) and actions (B, C, A)


class HabitModule(pl.LightningModule):
    """A habit and its loss, the mean squared error of its actions.

    Attributes:
        network: The habit.
    """

    def __init__(
        self,
        normalization: dict[str, Any],
        chunk: int,
        widths: list[int],
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        warmup_steps: int = 100,
    ) -> None:
        """Make an untrained habit.

        Args:
            normalization: The teacher's.
            chunk: C.
            widths: Of the hidden layers.
            learning_rate: The highest, reached after the warm-up; a cosine takes it to zero.
            weight_decay: Of AdamW.
            warmup_steps: Steps in which the learning rate rises from zero.

        Raises:
            ValueError: If the chunk or a width is out of range.
        """
        super().__init__()
        self.save_hyperparameters()
        self.network = Habit(normalization, chunk, widths)

    def training_step(self, pairs: Pairs, batch_idx: int) -> Tensor:
        """Return the mean squared error of a batch."""
        del batch_idx
        loss = self.errors(pairs).mean()
        self.log("train/habit_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, pairs: Pairs, batch_idx: int) -> None:
        """Measure the error of the chunk, and that of its first action alone."""
        del batch_idx
        errors, count = self.errors(pairs), len(pairs[0])
        self.log("val/habit_loss", errors.mean(), prog_bar=True, batch_size=count)
        self.log("val/habit_first_action", errors[:, 0].mean(), batch_size=count)

    def errors(self, pairs: Pairs) -> Tensor:
        """Return the squared errors (B, C, A) of the normalised actions."""
        observations, actions = pairs
        frame = self.network.frame.to(self.device)
        answers = self.network(frame.normalise_observations(observations))
        errors: Tensor = (answers - frame.normalise_actions(actions)) ** 2
        return errors

    def configure_optimizers(self) -> Any:
        """Return AdamW with a linear warm-up and a cosine decay to zero."""
        given = {name: self.hparams[name] for name in ("learning_rate", "weight_decay", "warmup_steps")}
        return make_optimizer(self.network, self.trainer, **given)


def make_loaders(
    samples: Pairs, validation_share: float, batch_size: int, batches: int, generator: torch.Generator
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return a loader of training samples, drawn with replacement, and one of held-out samples.

    Args:
        samples: Observations (S, O) and actions (S, C, A).
        validation_share: Share of the samples that is held out; at least one is.
        batch_size: Samples in a batch of the training.
        batches: Number of these batches, which are one epoch.
        generator: Draws the held-out samples, and the batches of the others.
    """
    order = torch.randperm(len(samples[0]), generator=generator)
    held_out = max(1, round(validation_share * len(order)))
    validation, training = (
        TensorDataset(*(part[rows] for part in samples)) for rows in (order[:held_out], order[held_out:])
    )
    return load(training, validation, batch_size, batches, generator)
