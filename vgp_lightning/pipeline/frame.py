"""Units: the environment's, and the normalised ones of the networks; and the bounds of actions.

Shapes: A action and O observation dimensions, T = A + O, action first. ``normalised = (raw - shift) / scale``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch

_KEYS = {*("action_dim", "shift", "scale", "return_shift", "return_scale", "action_low", "action_high")}


@dataclass(frozen=True)
class Frame:
    """The affine map between the environment's units and normalised ones, and the action bounds.

    Attributes:
        action_dim: A.
        shift: (T,).
        scale: (T,).
        action_low: (A,), minus infinity where there is no bound.
        action_high: (A,), infinity where there is no bound.
    """

    action_dim: int
    shift: torch.Tensor
    scale: torch.Tensor
    action_low: torch.Tensor
    action_high: torch.Tensor
    _copies: "dict[torch.device, Frame]" = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, normalization: Mapping[str, Any], channels: int) -> Self:
        """Return the frame of a folder's statistics, on the CPU.

        Args:
            normalization: As ``model_index.json`` holds it; None stands for no action bound.
            channels: T, those of the networks.

        Raises:
            ValueError: If a key is missing, or there are more or fewer numbers than dimensions.
        """
        if missing := _KEYS - set(normalization):
            raise ValueError(f"normalization lacks {sorted(missing)}")
        actions = normalization["action_dim"]
        for name in ("action_low", "action_high"):
            if len(normalization[name]) != actions:
                raise ValueError(
                    f"normalization has {len(normalization[name])} numbers in {name} for {actions} actions"
                )
        if not len(normalization["shift"]) == len(normalization["scale"]) == channels:
            raise ValueError(
                f"normalization has {len(normalization['shift'])} shifts and {len(normalization['scale'])} scales, "
                f"but the denoiser has {channels} channels"
            )
        low = [-math.inf if bound is None else bound for bound in normalization["action_low"]]
        high = [math.inf if bound is None else bound for bound in normalization["action_high"]]
        vectors = (normalization["shift"], normalization["scale"], low, high)
        with torch.inference_mode(False):  # else gradients could not be taken with these tensors
            return cls(actions, *(torch.tensor(vector, dtype=torch.float32) for vector in vectors))

    def to(self, device: torch.device) -> "Frame":
        """Return the frame on a device: this one, or the copy there, which is made once."""
        if device == self.shift.device:
            return self
        if device not in self._copies:
            vectors = (self.shift, self.scale, self.action_low, self.action_high)
            with torch.inference_mode(False):
                shift, scale, low, high = (vector.to(device) for vector in vectors)
            self._copies[device] = Frame(self.action_dim, shift, scale, low, high)
        return self._copies[device]

    def normalise(self, raw: torch.Tensor) -> torch.Tensor:
        """Return trajectories (..., T) of the environment's units in normalised ones."""
        return (raw - self.shift) / self.scale

    def denormalise(self, trajectories: torch.Tensor) -> torch.Tensor:
        """Return normalised trajectories (..., T) in the environment's units."""
        return trajectories * self.scale + self.shift

    def to_raw(self, trajectories: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the observations (..., O) and actions (..., A) of normalised trajectories (..., T)."""
        raw = self.denormalise(trajectories)
        return raw[..., self.action_dim :], raw[..., : self.action_dim]

    def clip_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """Return actions (..., A) of the environment's units within their bounds."""
        return actions.clamp(self.action_low, self.action_high)

    def agrees(self, other: "Frame") -> bool:
        """Tell whether both normalise alike. Identical vectors are not compared: a GPU would have to be waited for."""
        pairs = ((self.shift, other.shift), (self.scale, other.scale))
        return all(ours is theirs or torch.equal(ours, theirs) for ours, theirs in pairs)
