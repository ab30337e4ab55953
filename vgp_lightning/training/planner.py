"""PlannerModule: denoiser and value function in one run."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch

from vgp_lightning.training.base import LearningModule
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.trajectory import TrajectoryModule
from vgp_lightning.training.value import ValueModule


class PlannerModule(LearningModule):
    """Both networks in one run, from the same windows: each learns what it would in a run of its own, to the bit."""

    def __init__(
        self, value_widths: list[int] | None = None, value_learning_rate: float | None = None, **settings: Any
    ) -> None:
        """Build both networks.

        Args:
            value_widths: Channels of the value function's levels; default: the denoiser's.
            value_learning_rate: The value function's learning rate; default: the denoiser's.
            settings: The arguments of DenoiserModule; the value function takes those that it has too.

        Raises:
            ValueError: If horizon or widths do not fit, or a number is out of range.
        """
        super().__init__()
        if value_learning_rate is not None and not 0 < value_learning_rate < math.inf:
            raise ValueError(
                f"model.init_args.value_learning_rate is {value_learning_rate}: it must be a finite number above 0"
            )
        self.save_hyperparameters()
        of_denoiser = inspect.signature(DenoiserModule).parameters
        shared = {name: value for name, value in settings.items() if name not in of_denoiser}
        if value_widths is not None:
            shared["widths"] = value_widths
        if value_learning_rate is not None:
            shared["learning_rate"] = value_learning_rate
        with torch.random.fork_rng(devices=()):  # so that both start from the weights that they would have alone
            self.denoiser = DenoiserModule(**settings)
        self.value_function = _make_value_module(shared)

    @property
    def parts(self) -> Sequence[TrajectoryModule]:
        """Denoiser and value function."""
        return self.denoiser, self.value_function

    @property
    def learning_rate(self) -> float:
        """The denoiser's learning rate, and the value function's if it has none of its own."""
        return self.denoiser.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self.denoiser.learning_rate = rate
        if self.hparams["value_learning_rate"] is None:
            self.value_function.learning_rate = rate


def _make_value_module(settings: dict[str, Any]) -> ValueModule:
    """Make it outside of PlannerModule's constructor: Lightning would save its arguments as PlannerModule's."""
    return ValueModule(**settings)
