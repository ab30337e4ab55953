"""Controllers: what an agent executes in place of a plan's own actions to follow the plan's observations.

Shapes: N environments, O observation and A action dimensions, both flat, in physical units.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vgp_lightning.pipeline.frame import Frame
from vgp_lightning.pipeline.inputs import as_floats, as_number, shorten

# Follows a plan: (observations (N, O), the plan's next observations (N, O)) -> actions (N, A).
Controller = Callable[[NDArray[np.floating], NDArray[np.floating]], NDArray[np.floating]]


@dataclass(frozen=True)
class PositionController:
    """A proportional-derivative controller that follows the positions and velocities of a plan, not its actions.

    ``action = position_gain * (planned - position) + velocity_gain * (planned - velocity)``, one action for each
    position; the agent clips it to the action bounds. Results with a controller are not results of the plan's own
    actions: always report which of the two acted.

    Attributes:
        positions: Indices of the positions among the O observation dimensions.
        velocities: Indices of the velocities, as many.
        position_gain: Gain of the position error.
        velocity_gain: Gain of the velocity error.

    Raises:
        ValueError: If a gain is not finite, an index is not whole, or there are not as many velocities as positions.
    """

    positions: Sequence[int]
    velocities: Sequence[int]
    position_gain: float
    velocity_gain: float

    def __post_init__(self) -> None:
        """Refuse gains and indices that lead to no action."""
        for name in ("position_gain", "velocity_gain"):
            if as_number(getattr(self, name)) is None:
                raise ValueError(f"{name} is {shorten(getattr(self, name))}: a finite number is needed")
        for name in ("positions", "velocities"):
            indices = getattr(self, name)
            if np.ndim(indices) != 1 or any(as_number(index, whole=True) is None for index in indices):
                raise ValueError(f"{name} is {shorten(indices)}: indices of observation dimensions are needed")
        if len(self.positions) != len(self.velocities):
            raise ValueError(
                f"there are {len(self.positions)} positions and {len(self.velocities)} velocities: as many are needed"
            )

    def __call__(self, observations: NDArray[np.floating], planned: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the actions (N, A) that lead from the observations (N, O) to the planned next observations (N, O).

        Raises:
            ValueError: If an index is not one of the O dimensions.
        """
        error = planned - observations
        dimensions = error.shape[1]
        if outside := [i for i in (*self.positions, *self.velocities) if not -dimensions <= i < dimensions]:
            raise ValueError(f"the controller's indices {outside} are not among the {dimensions} of an observation")
        actions: NDArray[np.floating] = (
            self.position_gain * error[:, list(self.positions)] + self.velocity_gain * error[:, list(self.velocities)]
        )
        return actions


def follow(
    controller: Controller,
    observations: NDArray[np.floating],
    planned: NDArray[np.floating],
    active: NDArray[np.bool_],
    frame: Frame,
    device: torch.device,
) -> NDArray[np.floating]:
    """Return a controller's actions (N, A), clipped to their bounds; an idle environment's may be anything.

    Args:
        controller: The controller.
        observations: (N, O).
        planned: (N, O), the plans' next observations.
        active: (N,), which environments are in use.
        frame: With the action bounds.
        device: Where tensors that the controller returns may lie.

    Raises:
        ValueError: If it returns no finite action for an active environment.
    """
    followed = as_floats(controller(observations, planned), "what the controller returned", device)
    needed = (len(observations), frame.action_dim)
    if followed.shape != needed:
        raise ValueError(f"the controller returned actions of shape {tuple(followed.shape)}: {needed} is needed")
    followed = followed.cpu()
    finite = followed.isfinite().all(dim=1)
    if lost := np.flatnonzero(active & ~finite.numpy()).tolist():
        raise ValueError(
            f"the controller returned actions that are not finite for environments {lost}: check its gains and the "
            "observations"
        )
    followed = followed.where(finite[:, None], 0)
    actions: NDArray[np.floating] = frame.clip_actions(followed).numpy()
    return actions
