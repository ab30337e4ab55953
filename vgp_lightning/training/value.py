"""ValueModule: learns to predict the return of a window from its noised form.

Shapes: B windows, H steps, A action and O observation dimensions, T = A + O. Batches are in physical units;
trajectories inside the module are normalised, (B, H, T), action first.
"""

import warnings
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torchmetrics import ExplainedVariance, MeanMetric, MetricCollection, SpearmanCorrCoef

from vgp_lightning.data.windows import Batch
from vgp_lightning.pipeline.networks import make_value_function
from vgp_lightning.training.trajectory import TrajectoryModule


class ValueModule(TrajectoryModule):
    """The value function: predicts the normalised return of a window from its noised form."""

    loss_name, short_name = "value_loss", "value_function"
    make_network = staticmethod(make_value_function)

    def __init__(self, **settings: Any) -> None:
        """Build the network.

        Args:
            settings: The arguments of TrajectoryModule.

        Raises:
            ValueError: If horizon or widths do not fit.
        """
        super().__init__(predicts="sample", **settings)
        self.explained_variance = MetricCollection(
            {self._name("explained_variance", level): ExplainedVariance() for level in self.validation_levels()}
        )
        # Guidance and selection need the right ranking of plans, more than the right values.
        with warnings.catch_warnings():
            # It warns that it keeps all predictions; data.validation_windows limits their number.
            warnings.simplefilter("ignore", UserWarning)
            self.rank_correlation = MetricCollection(
                {self._name("rank_correlation", level): SpearmanCorrCoef() for level in self.validation_levels()}
            )
        self.metrics = [self.explained_variance, self.rank_correlation]
        # "disable": looking for NaN would wait for the device at each update; a NaN shows in the mean.
        self.validation_loss = MeanMetric(nan_strategy="disable")

    def predict(self, batch: Batch, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Return the predicted normalised return (B,) of the batch, noised to the levels (B,).

        Outside of training the network computes in the precision of its weights, as an exported one does: in bfloat16
        a value has 8 bits, so that many predictions tie, and their ranks say little. On a CPU training does too:
        oneDNN's bfloat16 gradient of a strided convolution over a single step is wrong (torch 2.13).
        """
        noised = self.noised(self.normalise(batch), timesteps, noise)
        exact = self.device.type == "cpu" or not self.training
        with torch.autocast(self.device.type, enabled=False) if exact else nullcontext():
            return self.evaluate(noised, timesteps).squeeze(-1)

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error of the return at uniformly drawn noise levels."""
        prediction = self.predict(batch, *self.draw(batch))
        return torch.nn.functional.mse_loss(prediction, self.normalised_returns(batch))

    def measure(self, batch: Batch) -> None:
        """Update error, explained variance and rank correlation at each validation level."""
        returns = self.normalised_returns(batch)
        for name, level in self.validation_levels().items():
            prediction = self.predict(batch, *self.draw(batch, level))
            self.explained_variance[self._name("explained_variance", name)].update(prediction, returns)
            self.rank_correlation[self._name("rank_correlation", name)].update(prediction, returns)
            self.validation_loss.update((prediction - returns) ** 2)

    def measured(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return predicted and true returns (n,) by validation level, in the environment's units.

        They are those of the windows that this process has measured since the validation began; n is 0 where it has
        measured none.
        """
        found = {}
        for name in self.validation_levels():
            metric: Any = self.rank_correlation[self._name("rank_correlation", name)]
            pair = (torch.cat([self.return_shift.new_zeros(0), *state]) for state in (metric.preds, metric.target))
            predicted, true = (values * self.return_scale + self.return_shift for values in pair)
            found[name] = predicted, true
        return found

    @staticmethod
    def _name(metric: str, level: str) -> str:
        """Return a metric's name in the logs. Plans are ranked at the cleanest level, so that it comes first there."""
        return f"val/{metric}" if level == "t00" else f"val_levels/{metric}/{level}"

    def normalised_returns(self, batch: Batch) -> Tensor:
        """Return the batch's returns (B,), which have mean 0 and deviation 1 over the dataset."""
        return (batch.returns - self.return_shift) / self.return_scale
