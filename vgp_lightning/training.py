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
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torchmetrics import ExplainedVariance, MeanMetric, MetricCollection, SpearmanCorrCoef

from vgp_lightning.learning import LearningModule, TrajectoryModule
from vgp_lightning.networks import make_denoiser, make_value_function
from vgp_lightning.windows import Batch

PredictionType = Literal["sample", "epsilon", "v_prediction"]


class DenoiserModule(TrajectoryModule):
    """The denoiser: learns to predict a window from its noised form (or its noise, or v)."""

    loss_name, short_name = "diffusion_loss", "denoiser"

    def __init__(
        self,
        transition_dim: int,
        action_dim: int,
        horizon: int,
        task: dict[str, Any],
        widths: list[int] = [32, 64, 128, 256],  # noqa: B006 (jsonargparse reads it; never changed)
        num_train_timesteps: int = 20,
        beta_schedule: str = "squaredcos_cap_v2",
        prediction_type: PredictionType = "sample",
        action_weight: float = 10.0,
        loss_discount: float = 1.0,
        learning_rate: float = 2e-4,
        weight_decay: float = 1e-4,
        warmup_steps: int = 500,
        compile: bool = False,  # noqa: A002
    ) -> None:
        """Build the network.

        Args:
            transition_dim: T; comes from the data.
            action_dim: A; comes from the data.
            horizon: H; comes from the data.
            task: What the data are; comes from the data.
            widths: Channels of the U-Net's levels; the horizon must be a multiple of 2 ** (number - 1).
            num_train_timesteps: Noise levels.
            beta_schedule: Noise schedule, by diffusers' name; the paper's is the cosine, ``squaredcos_cap_v2``.
            prediction_type: What the network predicts: the clean ``sample`` as in the paper, ``epsilon`` (the noise),
                or ``v_prediction``.
            action_weight: Weight of the first action in the loss: it is the only one that is executed.
            loss_discount: Weight of each further step relative to the one before it.
            learning_rate: Highest, after the warm-up.
            weight_decay: Of AdamW.
            warmup_steps: Steps in which the learning rate rises from zero.
            compile: Compile the network with ``torch.compile``.

        Raises:
            ValueError: If horizon or widths do not fit.
        """
        super().__init__(
            make_denoiser(transition_dim, horizon, widths),
            make_noise_scheduler(num_train_timesteps, beta_schedule, prediction_type),
            transition_dim,
            action_dim,
            learning_rate,
            weight_decay,
            warmup_steps,
            compile,
        )
        self.save_hyperparameters()
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

    def __init__(
        self,
        transition_dim: int,
        action_dim: int,
        horizon: int,
        task: dict[str, Any],
        widths: list[int] = [32, 64, 128, 256],  # noqa: B006
        num_train_timesteps: int = 20,
        beta_schedule: str = "squaredcos_cap_v2",
        learning_rate: float = 2e-4,
        weight_decay: float = 1e-4,
        warmup_steps: int = 500,
        compile: bool = False,  # noqa: A002
    ) -> None:
        """Build the network.

        Args:
            transition_dim: T; comes from the data.
            action_dim: A; comes from the data.
            horizon: H; comes from the data.
            task: What the data are; comes from the data.
            widths: Channels of the levels; the horizon may be at most 2 ** (number + 2).
            num_train_timesteps: Noise levels; as many as the denoiser's.
            beta_schedule: Noise schedule, by diffusers' name; the same as the denoiser's.
            learning_rate: Highest, after the warm-up.
            weight_decay: Of AdamW.
            warmup_steps: Steps in which the learning rate rises from zero.
            compile: Compile the network with ``torch.compile``.

        Raises:
            ValueError: If horizon or widths do not fit.
        """
        super().__init__(
            make_value_function(transition_dim, horizon, widths),
            make_noise_scheduler(num_train_timesteps, beta_schedule, "sample"),
            transition_dim,
            action_dim,
            learning_rate,
            weight_decay,
            warmup_steps,
            compile,
        )
        self.save_hyperparameters()
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
        with torch.random.fork_rng(devices=()):  # so that both start as they would alone
            self.denoiser = DenoiserModule(**settings)
        shared = {name: settings[name] for name in inspect.signature(ValueModule).parameters if name in settings}
        if value_widths is not None:
            shared["widths"] = value_widths
        if value_learning_rate is not None:
            shared["learning_rate"] = value_learning_rate
        self.value_function = ValueModule(**shared)

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


def make_noise_scheduler(levels: int, beta_schedule: str, prediction_type: PredictionType) -> DDPMScheduler:
    """Return the noise schedule. Nothing is clipped: Gaussian-normalised data leave -1..1 by far."""
    return DDPMScheduler(
        num_train_timesteps=levels,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        clip_sample=False,
        variance_type="fixed_small_log",
    )


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
