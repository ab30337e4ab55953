"""CriticModule: learns to predict a number from others; first the return of a state, then the advantage of an action.

Shapes: B samples in a batch, M networks, A action and O observation dimensions.
"""

from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from vgp_lightning.pipeline.critic import Critic, ask_each, make_perceptron
from vgp_lightning.training.regression import make_optimizer

Samples = tuple[Tensor, ...]  # what a network is given, (B, ...) each, and last the number (B,) that it shall predict


class StateValue(nn.Module):
    """Several perceptrons from a normalised observation to the normalised return of the data's behaviour."""

    def __init__(self, observation_dim: int, widths: list[int], networks: int) -> None:
        """Make untrained ones.

        Args:
            observation_dim: O.
            widths: Of the hidden layers of each.
            networks: M.
        """
        super().__init__()
        self.members = nn.ModuleList(make_perceptron(observation_dim, widths) for _ in range(networks))

    def forward(self, observations: Tensor) -> Tensor:
        """Return the values (M, B) of observations (B, O), or of each network's own (M, B, O)."""
        return ask_each(self.members, observations)


class CriticModule(pl.LightningModule):
    """A network that predicts a number, and its loss: the mean squared error.

    Attributes:
        network: What learns: a ``StateValue`` or a ``Critic``.
    """

    def __init__(
        self,
        network: StateValue | Critic,
        name: str,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
    ) -> None:
        """Take the network.

        Args:
            network: What learns.
            name: Of what it predicts, in the logs.
            learning_rate: The highest, reached after the warm-up; a cosine takes it to zero.
            weight_decay: Of AdamW.
            warmup_steps: Steps in which the learning rate rises from zero.
        """
        super().__init__()
        self.network, self.name = network, name
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps

    def training_step(self, samples: Samples, batch_idx: int) -> Tensor:
        """Return the mean squared error of a batch, of which each of M networks sees another Mth.

        The mean of networks that learn from samples of their own errs less than that of networks that see the same.
        """
        del batch_idx
        number = len(self.network.members)
        loss = self.errors(tuple(part.reshape(number, -1, *part.shape[1:]) for part in samples)).mean()
        self.log(f"train/{self.name}_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, samples: Samples, batch_idx: int) -> None:
        """Measure the error of the networks' mean, and what predicting nothing but 0 would have as one."""
        del batch_idx
        *given, wanted = samples
        count, error = len(wanted), (self.network(*given).mean(0) - wanted).square().mean()
        self.log(f"val/{self.name}_loss", error, prog_bar=True, batch_size=count)
        self.log(f"val/{self.name}_size", samples[-1].square().mean(), batch_size=count)

    def errors(self, samples: Samples) -> Tensor:
        """Return the squared errors (M, B)."""
        *given, wanted = samples
        errors: Tensor = (self.network(*given) - wanted) ** 2
        return errors

    def configure_optimizers(self) -> Any:
        """Return AdamW with a linear warm-up and a cosine decay to zero."""
        return make_optimizer(self.network, self.trainer, self.learning_rate, self.weight_decay, self.warmup_steps)
