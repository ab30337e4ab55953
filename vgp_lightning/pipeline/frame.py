"""Units: the environment's, and the normalised ones of the networks; and the bounds of actions.

Shapes: A action and O observation dimensions, T = A + O, action first. ``normalised = (raw - shift) / scale``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

import torch

from .inputs import as_number, shorten

_KEYS = {*("action_dim", "shift", "scale", "return_shift", "return_scale", "action_low", "action_high")}
# Beyond these float32 has no room left for a product of two; no dataset comes near.
_SMALLEST, _LARGEST = 1e-30, 1e30
_FLOAT32 = 3.40282356e38  # what is larger is infinite in float32; spaces of gymnasium have bounds of that size


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
            ValueError: If a key is missing, there are more or fewer numbers than dimensions, a number is not finite, a
                scale is not positive, or bounds are swapped.
        """
        if not isinstance(normalization, Mapping):
            raise ValueError(f"normalization is {shorten(normalization)}: the dataset's statistics by name are needed")
        if missing := _KEYS - set(normalization):
            raise ValueError(f"normalization lacks {sorted(missing)}")
        actions = cast(int | None, as_number(normalization["action_dim"], whole=True))
        if actions is None or not 1 <= actions < channels:
            raise ValueError(
                f"action_dim of normalization is {shorten(normalization['action_dim'])}: a whole number between 1 and "
                f"{channels - 1} is needed, as the networks have {channels} channels for actions and observations"
            )
        shift, scale = (_take_vector(normalization, name) for name in ("shift", "scale"))
        if not len(shift) == len(scale) == channels:
            raise ValueError(
                f"normalization has {len(shift)} shifts and {len(scale)} scales, but the denoiser has {channels} "
                "channels"
            )
        for name, entries in (("shift", shift), ("scale", scale)):
            for i, entry in enumerate(entries):
                _check_statistic(f"{name}[{i}]", entry, positive=name == "scale")
        for name in ("return_shift", "return_scale"):
            _check_statistic(name, normalization[name], positive=name == "return_scale")
        low, high = (
            _take_bounds(normalization, name, actions, free)
            for name, free in (("action_low", -math.inf), ("action_high", math.inf))
        )
        for i, (lower, upper) in enumerate(zip(low, high, strict=True)):
            if lower > upper:
                raise ValueError(
                    f"action_low[{i}] of normalization is {lower}, above action_high[{i}], which is {upper}"
                )
        vectors = (shift, scale, low, high)
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

    def normalise_actions(self, raw: torch.Tensor) -> torch.Tensor:
        """Return actions (..., A) of the environment's units in normalised ones."""
        return (raw - self.shift[: self.action_dim]) / self.scale[: self.action_dim]

    def normalise_observations(self, raw: torch.Tensor) -> torch.Tensor:
        """Return observations (..., O) of the environment's units in normalised ones."""
        return (raw - self.shift[self.action_dim :]) / self.scale[self.action_dim :]

    def denormalise(self, trajectories: torch.Tensor) -> torch.Tensor:
        """Return normalised trajectories (..., T) in the environment's units."""
        return trajectories * self.scale + self.shift

    def to_raw(self, trajectories: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the observations (..., O) and actions (..., A) of normalised trajectories (..., T)."""
        raw = self.denormalise(trajectories)
        return raw[..., self.action_dim :], raw[..., : self.action_dim]

    def clip_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """Return actions (..., A) of the environment's units within their bounds. NaN stays NaN."""
        return actions.clamp(self.action_low, self.action_high)

    def agrees(self, other: "Frame") -> bool:
        """Tell whether both normalise alike. Identical vectors are not compared: a GPU would have to be waited for."""
        pairs = ((self.shift, other.shift), (self.scale, other.scale))
        return all(ours is theirs or torch.equal(ours, theirs) for ours, theirs in pairs)


def _take_vector(normalization: Mapping[str, Any], name: str) -> Sequence[Any]:
    vector = normalization[name]
    if not isinstance(vector, Sequence) or isinstance(vector, str | bytes):
        raise ValueError(f"{name} of normalization is {shorten(vector)}: a list of numbers is needed")
    return vector


def _check_statistic(name: str, entry: Any, *, positive: bool) -> None:
    number = as_number(entry)
    if number is None or abs(number) > _LARGEST or (positive and number < _SMALLEST):
        limits = f"between {_SMALLEST:g} and {_LARGEST:g}" if positive else f"of at most {_LARGEST:g} in size"
        raise ValueError(f"{name} of normalization is {shorten(entry)}: a finite number {limits} is needed")


def _take_bounds(normalization: Mapping[str, Any], name: str, actions: int, free: float) -> list[float]:
    """Return the bounds of the actions, infinite where there is none."""
    vector = _take_vector(normalization, name)
    if len(vector) != actions:
        raise ValueError(f"normalization has {len(vector)} numbers in {name} for {actions} actions")
    bounds = [free if bound is None else as_number(bound) for bound in vector]
    for i, bound in enumerate(bounds):
        if bound is None or _FLOAT32 < abs(bound) < math.inf:
            raise ValueError(
                f"{name}[{i}] of normalization is {shorten(vector[i])}: a finite number, or null for no bound, is "
                "needed"
            )
    return cast(list[float], bounds)
