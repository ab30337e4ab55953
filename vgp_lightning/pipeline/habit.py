"""A habit: a small network that answers an observation with a plan's first actions at once, without planning.

It is distilled from a planner (``vgp distill``) and lies in the planner's folder, in ``habit/``.

Shapes: N observations, C actions of an answer (the chunk), A action and O observation dimensions, T = A + O.
"""

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin, UNet1DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn

from .companions import HABIT, check_widths, open_companion
from .conditions import Observations
from .frame import Frame
from .inputs import all_finite, as_floats, as_number, shorten
from .networks import weights_device
from .weights import find_unsound_weight

_LARGEST_CHUNK = 1024  # far above any habit: it is part of a plan


class Habit(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A multilayer perceptron from an observation to a chunk of actions.

    ``pipeline.load_habit()`` loads that of a folder.

    Attributes:
        frame: The normaliser and the action bounds, those of its teacher.
        chunk: C.
        action_dim: A.
        observation_dim: O.
        teacher: What it was distilled from: ``sha256``, which ``hash_teacher`` returned of the planner, and
            ``settings``, in which it planned.
    """

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        normalization: dict[str, Any],
        chunk: int,
        widths: list[int],
        teacher: dict[str, Any] | None = None,
    ) -> None:
        """Make an untrained one.

        Args:
            normalization: The teacher's, as ``model_index.json`` holds it.
            chunk: C.
            widths: Of the hidden layers.
            teacher: What it is distilled from.

        Raises:
            ValueError: If the chunk or a width is out of range, the statistics are wrong, or the teacher is no
                dictionary.
        """
        super().__init__()
        _check_sizes(chunk, widths)
        if not isinstance(teacher, dict | None):
            raise ValueError(f"teacher is {shorten(teacher)}: a dictionary is needed")
        self.frame = Frame.of_steps(normalization)
        self.chunk, self.action_dim = chunk, self.frame.action_dim
        self.observation_dim = len(self.frame.shift) - self.action_dim
        self.teacher: dict[str, Any] = teacher or {}
        sizes = [self.observation_dim, *widths]
        layers: list[nn.Module] = []
        for size, width in pairwise(sizes):
            layers += [nn.Linear(size, width), nn.Mish()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], chunk * self.action_dim))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return normalised actions (N, C, A) for normalised observations (N, O)."""
        actions: torch.Tensor = self.layers(observations).unflatten(-1, (self.chunk, self.action_dim))
        return actions

    @torch.inference_mode()
    def answer(self, observation: Observations) -> torch.Tensor:
        """Answer each observation with a chunk of actions.

        Args:
            observation: (O,) or (N, O), in the environment's units, flat.

        Returns:
            (N, C, A) in float32, in the environment's units and within the action bounds.

        Raises:
            ValueError: If the observations are not (O,) or (N, O) finite numbers.
        """
        device = weights_device(self)
        numbers = as_floats(observation, "observation", device)
        shape = tuple(numbers.shape)
        if numbers.ndim not in (1, 2) or shape[-1] != self.observation_dim or numbers.numel() == 0:
            raise ValueError(
                f"observation has shape {shape}: ({self.observation_dim},) or (N, {self.observation_dim}) is needed, "
                "in the environment's units"
            )
        answers = self.compute(numbers.to(device).reshape(-1, self.observation_dim))
        # One number is read, in place of a look at all of the input: what is not finite makes an answer that is not.
        if not answers.sum().isfinite():
            self._refuse(numbers, answers)
        return answers

    def compute(self, observations: torch.Tensor) -> torch.Tensor:
        """Return answers (N, C, A) to observations (N, O) on the weights' device, without a check of either."""
        frame, actions = self.frame.to(observations.device), self.action_dim
        normalised = self(frame.normalise_observations(observations))
        return frame.clip_actions(normalised * frame.scale[:actions] + frame.shift[:actions])

    def _refuse(self, observations: torch.Tensor, answers: torch.Tensor) -> None:
        """Say why answers are not finite. A sum that alone is too large for float32 is no fault.

        Raises:
            ValueError: If an observation, a weight or an answer is not finite.
        """
        if not all_finite(observations):
            raise ValueError(f"observation is not finite in float32: {shorten(observations.tolist())}")
        if weight := find_unsound_weight(self):
            raise ValueError(f"weight {weight} of the habit is not finite: load it again, or distill it anew")
        if not all_finite(answers):
            raise ValueError(
                f"the habit's answer to {shorten(observations.tolist())} is not finite: the observation is too far "
                "from the training data"
            )


def _check_sizes(chunk: Any, widths: Any) -> None:
    """Refuse sizes that no habit has, before memory is taken for them."""
    number = as_number(chunk, whole=True)
    if number is None or not 1 <= number <= _LARGEST_CHUNK:
        raise ValueError(f"chunk is {shorten(chunk)}: a whole number between 1 and {_LARGEST_CHUNK} is needed")
    check_widths(widths)


# ---------------------------------------------------------------- its teacher


def hash_teacher(denoiser: UNet1DModel, value_function: UNet1DModel | None, normalization: Mapping[str, Any]) -> str:
    """Return one hash of a planner's weights, by name, in float32, and of its statistics."""
    whole = hashlib.sha256(json.dumps(normalization, sort_keys=True).encode())
    for network in (denoiser, value_function):
        for name, weight in sorted((network.state_dict() if network is not None else {}).items()):
            whole.update(f"{name} {tuple(weight.shape)}\n".encode())
            whole.update(weight.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return whole.hexdigest()


# ---------------------------------------------------------------- in a folder


def open_habit(origin: str | Path | None, sha256: str | None, device: torch.device) -> Habit:
    """Load the habit of a pipeline folder.

    Args:
        origin: The folder, or the name of one on the Hugging Face Hub; None: the planner was not loaded from one.
        sha256: Of the planner that asks for it, as ``hash_teacher`` returns it; None: it is not compared.
        device: Where it shall answer.

    Raises:
        ValueError: If there is none, it was distilled from another planner, or a file is damaged, which the message
            names.
        OSError: If a file is missing.
    """
    habit: Habit = open_companion(Habit, HABIT, origin, device)
    if sha256 is not None and habit.teacher.get("sha256") != sha256:
        raise ValueError(
            f"the habit in {origin} was distilled from another planner than the one there, whose networks or "
            f"statistics have changed since: distill it anew, vgp distill {origin}"
        )
    return habit
