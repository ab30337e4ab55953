"""CriticModule: learns to predict a number from others; first the return of a state, then the advantage of an action.

Shapes: B samples in a batch, M networks, A action and O observation dimensions.
"""

from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from vgp_lightning.pipeline.critic import make_perceptron
from vgp_lightning.training.regression import make_optimizer

Samples = tuple[Tensor, ...]  # what a network is given, (B, ...) each, and last the number (B,) that it shall predict


class StateValue(nn.Module):
    """A perceptron from a normalised observation to the normalised return of the data's behaviour."""

    def __init__(self, observation_dim: int, widths: list[int]) -> None:
        """Make an untrained one.

        Args:
            observation_dim: O.
            widths: Of the hidden layers.
        """
        super().__init__()
        self.network = make_perceptron(observation_dim, widths)

    def forward(self, observations: Tensor) -> Tensor:
        """Return the values (B,) of observations (B, O)."""
        values: Tensor = self.network(observations).squeeze(-1)
        return values


class CriticModule(pl.LightningModule):
    """A network that predicts a number, and its loss: the mean squared error.

    Attributes:
        network: What learns: a ``StateValue`` or a ``Critic``.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        members: int | None = None,
    ) -> None:
        """Take the network.

        Args:
            network: What learns.
            name: Of what it predicts, in the logs.
            learning_rate: The highest, reached after the warm-up; a cosine takes it to zero.
            weight_decay: Of AdamW.
            warmup_steps: Steps in which the learning rate rises from zero.
            members: M, if each of the network's members shall learn from samples of its own, an Mth of a batch: the
                mean of networks that see the same batches errs more.
        """
        super().__init__()
        self.network, self.name, self.members = network, name, members
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps

    def training_step(self, samples: Samples, batch_idx: int) -> Tensor:
        """Return the mean squared error of a batch."""
        del batch_idx
        if self.members is not None:
            samples = tuple(part.reshape(self.members, -1, *part.shape[1:]) for part in samples)
        loss = self.errors(samples).mean()
        self.log(f"train/{self.name}_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, samples: Samples, batch_idx: int) -> None:
        """Measure the error, and what predicting nothing but 0 would have as one."""
        del batch_idx
        count = len(samples[-1])
        self.log(f"val/{self.name}_loss", self.errors(samples).mean(), prog_bar=True, batch_size=count)
        self.log(f"val/{self.name}_size", samples[-1].square().mean(), batch_size=count)

    def errors(self, samples: Samples) -> Tensor:
        """Return the squared errors, (B,) or (M, B)."""
        *given, wanted = samples
        errors: Tensor = (self.network(*given) - wanted) ** 2
        return errors

    def configure_optimizers(self) -> Any:
        """Return AdamW with a linear warm-up and a cosine decay to zero."""
        return make_optimizer(self.network, self.trainer, self.learning_rate, self.weight_decay, self.warmup_steps)
