"""Units: the environment's, and the normalised ones of the networks; and the bounds of actions.

Shapes: H steps, A action and O observation dimensions, T = A + O, action first. ``normalised = (raw - shift) / scale``.
Normalised trajectories are folded by the stride s, (..., H / s, s * A + O); with a stride of 1 that is (..., H, T).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

import torch

from .inputs import as_number, shorten
from .stride import fold, folded_channels, unfold

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
        stride: s, the steps of the environment that one step of the networks stands for.
    """

    action_dim: int
    shift: torch.Tensor
    scale: torch.Tensor
    action_low: torch.Tensor
    action_high: torch.Tensor
    stride: int = 1
    _copies: "dict[torch.device, Frame]" = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, normalization: Mapping[str, Any], channels: int) -> Self:
        """Return the frame of a folder's statistics, on the CPU.

        Args:
            normalization: As ``model_index.json`` holds it; None stands for no action bound.
            channels: s * A + O, those of the networks.

        Raises:
            ValueError: If a key is missing, there are more or fewer numbers than dimensions, a number is not finite, a
                scale is not positive, bounds are swapped, or the stride is not a whole number of at least 1.
        """
        if not isinstance(normalization, Mapping):
            raise ValueError(f"normalization is {shorten(normalization)}: the dataset's statistics by name are needed")
        if missing := _KEYS - set(normalization):
            raise ValueError(f"normalization lacks {sorted(missing)}")
        stride = cast(int | None, as_number(normalization.get("stride", 1), whole=True))  # 0.1 had none
        if stride is None or stride < 1:
            raise ValueError(
                f"stride of normalization is {shorten(normalization['stride'])}: a whole number from 1 on is needed"
            )
        actions = cast(int | None, as_number(normalization["action_dim"], whole=True))
        if actions is None or not stride <= stride * actions < channels:
            raise ValueError(
                f"action_dim of normalization is {shorten(normalization['action_dim'])}: a whole number between 1 and "
                f"{(channels - 1) // stride} is needed, as the networks have {channels} channels for the actions of "
                f"{stride} steps and an observation"
            )
        shift, scale = (_take_vector(normalization, name) for name in ("shift", "scale"))
        if not len(shift) == len(scale) == channels - (stride - 1) * actions:
            raise ValueError(
                f"normalization has {len(shift)} shifts and {len(scale)} scales, but the denoiser has {channels} "
                f"channels for the actions of {stride} steps and an observation"
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
            tensors = [torch.tensor(vector, dtype=torch.float32) for vector in vectors]
        return cls(actions, tensors[0], tensors[1], tensors[2], tensors[3], stride)

    @classmethod
    def of_steps(cls, normalization: Mapping[str, Any]) -> Self:
        """Return the frame of single steps, for a network that sees no whole plan, whatever the planner's stride is.

        Args:
            normalization: As for ``of``.

        Raises:
            ValueError: As ``of`` does.
        """
        if not isinstance(normalization, Mapping) or not isinstance(normalization.get("shift"), Sequence):
            return cls.of(normalization, 0)
        return cls.of({**normalization, "stride": 1}, len(normalization["shift"]))

    def to(self, device: torch.device) -> "Frame":
        """Return the frame on a device: this one, or the copy there, which is made once."""
        if device == self.shift.device:
            return self
        if device not in self._copies:
            vectors = (self.shift, self.scale, self.action_low, self.action_high)
            with torch.inference_mode(False):
                shift, scale, low, high = (vector.to(device) for vector in vectors)
            self._copies[device] = Frame(self.action_dim, shift, scale, low, high, self.stride)
        return self._copies[device]

    @property
    def action_entries(self) -> int:
        """Number of entries of a folded step that are actions, s * A."""
        return self.stride * self.action_dim

    @property
    def channels(self) -> int:
        """Number of entries of a folded step, s * A + O."""
        return folded_channels(len(self.shift), self.action_dim, self.stride)

    def fold(self, steps: torch.Tensor) -> torch.Tensor:
        """Return trajectories (..., H, T) folded, in the same units."""
        return fold(steps, self.stride, self.action_dim)

    def normalise(self, raw: torch.Tensor) -> torch.Tensor:
        """Return trajectories (..., H, T) of the environment's units in normalised ones, folded."""
        return self.fold((raw - self.shift) / self.scale)

    def normalise_actions(self, raw: torch.Tensor) -> torch.Tensor:
        """Return actions (..., A) of the environment's units in normalised ones."""
        return (raw - self.shift[: self.action_dim]) / self.scale[: self.action_dim]

    def normalise_observations(self, raw: torch.Tensor) -> torch.Tensor:
        """Return observations (..., O) of the environment's units in normalised ones."""
        return (raw - self.shift[self.action_dim :]) / self.scale[self.action_dim :]

    def denormalise(self, trajectories: torch.Tensor) -> torch.Tensor:
        """Return normalised trajectories in the environment's units, (..., H, T)."""
        return unfold(trajectories, self.stride, self.action_dim) * self.scale + self.shift

    def to_raw(self, trajectories: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the observations (..., H, O) and actions (..., H, A) of normalised trajectories."""
        raw = self.denormalise(trajectories)
        return raw[..., self.action_dim :], raw[..., : self.action_dim]

    def clip_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """Return actions (..., A) of the environment's units within their bounds. NaN stays NaN."""
        return actions.clamp(self.action_low, self.action_high)

    def agrees(self, other: "Frame") -> bool:
        """Tell whether both normalise alike. Identical vectors are not compared: a GPU would have to be waited for."""
        pairs = ((self.shift, other.shift), (self.scale, other.scale))
        alike = all(ours is theirs or torch.equal(ours, theirs) for ours, theirs in pairs)
        return alike and self.stride == other.stride


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
