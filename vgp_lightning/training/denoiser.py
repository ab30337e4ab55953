"""DenoiserModule: learns to predict a window from its noised form.

Shapes: B windows, H steps, A action and O observation dimensions, T = A + O. Batches are in physical units;
trajectories inside the module are normalised, (B, H, T), action first.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from vgp_lightning.data.windows import Batch
from vgp_lightning.pipeline.networks import PredictionType, make_denoiser
from vgp_lightning.training.trajectory import TrajectoryModule


class DenoiserModule(TrajectoryModule):
    """The denoiser: predicts a window, its noise or its velocity (v) from its noised form."""

    loss_name, short_name = "diffusion_loss", "denoiser"
    make_network = staticmethod(make_denoiser)

    def __init__(
        self,
        prediction_type: PredictionType = "sample",
        action_weight: float = 10.0,
        loss_discount: float = 1.0,
        **settings: Any,
    ) -> None:
        """Build the network.

        Args:
            prediction_type: What the network predicts: the clean ``sample`` as in the paper, ``epsilon`` (the noise),
                or ``v_prediction``.
            action_weight: Weight of the first action in the loss: it is the only one that is executed. With a stride,
                of the actions of the first step of the network.
            loss_discount: Weight of each further step relative to the one before it.
            settings: The arguments of TrajectoryModule.

        Raises:
            ValueError: If horizon or widths do not fit, or a number is out of range.
        """
        if not 0 <= action_weight < math.inf:
            raise ValueError(
                f"model.init_args.action_weight is {action_weight}: it must be a finite number, at least 0"
            )
        if not 0 < loss_discount < math.inf:
            raise ValueError(f"model.init_args.loss_discount is {loss_discount}: it must be a finite number above 0")
        super().__init__(predicts=prediction_type, **settings)
        (steps, channels), actions = self.folded, self.stride * self.action_dim
        weights = loss_discount ** (self.stride * torch.arange(steps, dtype=torch.float32))
        weights = (weights / weights.mean())[:, None].repeat(1, channels)  # (H, T), folded
        weights[0, :actions] = action_weight
        weights[0, actions:] = 0  # pinned: nothing to predict
        self.register_buffer("loss_weights", weights, persistent=False)
        # "disable": looking for NaN would wait for the device at each update; a NaN shows in the mean.
        self.level_losses = MetricCollection(
            {
                f"val_levels/diffusion_loss/{name}": MeanMetric(nan_strategy="disable")
                for name in self.validation_levels()
            }
        )
        self.metrics = [self.level_losses]
        self.validation_loss = MeanMetric(nan_strategy="disable")

    def loss(self, batch: Batch, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Return the weighted mean squared error (B,) of the prediction at the noise levels (B,): the paper's eq. 5."""
        clean = self.normalise(batch)
        output = self.evaluate(self.noised(clean, timesteps, noise), timesteps).transpose(1, 2)
        prediction_type = self.noise_scheduler.config["prediction_type"]
        if prediction_type == "sample":
            target = clean
        elif prediction_type == "epsilon":
            target = noise
        else:
            target = self.noise_scheduler.get_velocity(clean, noise, timesteps)
        weights: Tensor = self.loss_weights  # type: ignore[assignment]
        return (weights * (output - target) ** 2).mean(dim=(1, 2))

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of the batch at uniformly drawn noise levels."""
        return self.loss(batch, *self.draw(batch)).mean()

    def measure(self, batch: Batch) -> None:
        """Update the mean loss at each validation level."""
        for name, level in self.validation_levels().items():
            losses = self.loss(batch, *self.draw(batch, level))
            self.level_losses[f"val_levels/diffusion_loss/{name}"].update(losses)
            self.validation_loss.update(losses)
