"""The modules that `vgp fit` trains: the denoiser, the value function, or both in one run.

Shapes: B windows, H steps, A action and O observation dimensions, T = A + O. Batches are raw; trajectories inside are
normalised, (B, H, T), action first.
"""

import inspect
import pickle
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import ExplainedVariance, MeanMetric, MetricCollection, SpearmanCorrCoef

from vgp_lightning.data.windows import Batch
from vgp_lightning.pipeline.networks import PredictionType, make_denoiser, make_value_function
from vgp_lightning.training.base import LearningModule, TrajectoryModule


class DenoiserModule(TrajectoryModule):
    """The denoiser: learns to predict a window from its noised form (or its noise, or v)."""

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
            action_weight: Weight of the first action in the loss: it is the only one that is executed.
            loss_discount: Weight of each further step relative to the one before it.
            settings: Those of every TrajectoryModule.

        Raises:
            ValueError: If horizon or widths do not fit.
        """
        super().__init__(predicts=prediction_type, **settings)
        horizon, transition_dim, action_dim = self.hparams["horizon"], len(self.shift), self.action_dim
        weights = loss_discount ** torch.arange(horizon, dtype=torch.float32)
        weights = (weights / weights.mean())[:, None].repeat(1, transition_dim)  # (H, T)
        weights[0, :action_dim] = action_weight
        weights[0, action_dim:] = 0  # pinned: nothing to predict
        self.register_buffer("loss_weights", weights, persistent=False)
        self.level_losses = MetricCollection(
            {f"val_levels/diffusion_loss/{name}": MeanMetric() for name in self.validation_levels()}
        )
        self.metrics = [self.level_losses]
        self.validation_loss = MeanMetric()

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
        """Return the mean loss of the batch at noise levels drawn uniformly."""
        return self.loss(batch, *self.draw(batch)).mean()

    def measure(self, batch: Batch) -> None:
        """Update the mean loss at each validation level."""
        for name, level in self.validation_levels().items():
            losses = self.loss(batch, *self.draw(batch, level))
            self.level_losses[f"val_levels/diffusion_loss/{name}"].update(losses)
            self.validation_loss.update(losses)


class ValueModule(TrajectoryModule):
    """The value function: learns the normalised return of a window from its noised form."""

    loss_name, short_name = "value_loss", "value_function"
    make_network = staticmethod(make_value_function)

    def __init__(self, **settings: Any) -> None:
        """Build the network.

        Args:
            settings: Those of every TrajectoryModule.

        Raises:
            ValueError: If horizon or widths do not fit.
        """
        super().__init__(predicts="sample", **settings)
        self.explained_variance = MetricCollection(
            {self._name("explained_variance", level): ExplainedVariance() for level in self.validation_levels()}
        )
        # Guidance and selection need the ranking of plans right, more than their values.
        with warnings.catch_warnings():
            # It warns that it keeps all predictions; data.validation_windows says how many.
            warnings.simplefilter("ignore", UserWarning)
            self.rank_correlation = MetricCollection(
                {self._name("rank_correlation", level): SpearmanCorrCoef() for level in self.validation_levels()}
            )
        self.metrics = [self.explained_variance, self.rank_correlation]
        self.validation_loss = MeanMetric()

    def predict(self, batch: Batch, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Return the predicted normalised return (B,) of the batch, noised to the levels (B,)."""
        noised = self.noised(self.normalise(batch), timesteps, noise)
        # bf16 on a CPU: oneDNN's gradient of a strided convolution over a single step is garbage (torch 2.13).
        with torch.autocast(self.device.type, enabled=False) if self.device.type == "cpu" else nullcontext():
            return self.evaluate(noised, timesteps).squeeze(-1)

    def training_loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error of the return at noise levels drawn uniformly."""
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

        They are of the windows that this process has measured since the validation began; n is 0 where it has none.
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
        """Return a metric's name in the logs; the cleanest level's is what ranks plans, hence the first to look at."""
        return f"val/{metric}" if level == "t00" else f"val_levels/{metric}/{level}"

    def normalised_returns(self, batch: Batch) -> Tensor:
        """Return the batch's returns (B,) with mean 0 and deviation 1 over the dataset."""
        return (batch.returns - self.return_shift) / self.return_scale


class PlannerModule(LearningModule):
    """Both networks in one run, from the same windows: each learns what it would in a run of its own, to the bit."""

    def __init__(
        self, value_widths: list[int] | None = None, value_learning_rate: float | None = None, **settings: Any
    ) -> None:
        """Build both networks.

        Args:
            value_widths: Channels of the value function's levels, where they are others than the denoiser's.
            value_learning_rate: The value function's learning rate, where it is another.
            settings: Those of a DenoiserModule; the value function shares what it has of them.

        Raises:
            ValueError: If horizon or widths do not fit.
        """
        super().__init__()
        self.save_hyperparameters()
        of_denoiser = inspect.signature(DenoiserModule).parameters
        shared = {name: value for name, value in settings.items() if name not in of_denoiser}
        if value_widths is not None:
            shared["widths"] = value_widths
        if value_learning_rate is not None:
            shared["learning_rate"] = value_learning_rate
        with torch.random.fork_rng(devices=()):  # so that both start as they would alone
            self.denoiser = DenoiserModule(**settings)
        self.value_function = _make_value_module(shared)

    @property
    def parts(self) -> Sequence[TrajectoryModule]:
        """Denoiser and value function."""
        return self.denoiser, self.value_function

    @property
    def learning_rate(self) -> float:
        """The denoiser's learning rate, and the value function's where it has none of its own."""
        return self.denoiser.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self.denoiser.learning_rate = rate
        if self.hparams["value_learning_rate"] is None:
            self.value_function.learning_rate = rate


def _make_value_module(settings: dict[str, Any]) -> ValueModule:
    """Make it outside of the other's constructor, whose arguments Lightning would take for its hyper-parameters."""
    return ValueModule(**settings)


def read_checkpoint(path: str | Path, advice: str = "") -> Any:
    """Read a file of torch's, which may hold tensors and plain values but no code.

    Raises:
        ValueError: If the file is missing (``advice`` ends the message), or is none.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"checkpoint {path} does not exist{advice}") from error
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, pickle.UnpicklingError) as error:
        # torch's own text is a page long, and advises to load it as code.
        raise ValueError(f"{path} cannot be read as a checkpoint ({type(error).__name__})") from error


def load_module(path: str) -> DenoiserModule | ValueModule | PlannerModule:
    """Load a checkpoint of any of the modules, with the EMA weights if it was trained with EMA.

    Raises:
        ValueError: If the file is missing, no checkpoint, or another program's.
    """
    checkpoint = read_checkpoint(path, advice=": train one with vgp fit")
    kinds = {kind.__name__: kind for kind in (DenoiserModule, ValueModule, PlannerModule)}
    kind = kinds.get(checkpoint.get("vgp_module", "")) if isinstance(checkpoint, dict) else None
    if kind is None:
        raise ValueError(f"{path} is not a checkpoint of {' or '.join(kinds)}: train one with vgp fit")
    return kind.load_from_checkpoint(path, map_location="cpu", weights_only=True)
