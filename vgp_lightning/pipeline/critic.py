"""A critic: small networks that say by how much an action is better than what the data do in the same state.

The value function predicts the return of a whole noised plan. Among windows of the data it ranks well, because states
differ; among the candidates from one state it ranks by chance. A critic is trained on just that difference, the
advantage of the first action, and ranks the candidates. ``vgp critic`` trains it; it lies in the planner's folder, in
``critic/``.

Shapes: N observations, K candidates of each, B pairs, M networks, A action and O observation dimensions, T = A + O.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn

from .companions import CRITIC, check_widths, open_companion
from .frame import Frame
from .inputs import as_number, shorten

_MOST_NETWORKS = 64  # far above any critic, which has to rank in less time than a denoising step takes


class Critic(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Several multilayer perceptrons from an observation and an action to the action's advantage.

    Attributes:
        frame: The normaliser, that of its planner.
        advantage_scale: Of the advantages, in the environment's units of return.
    """

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, normalization: dict[str, Any], widths: list[int], networks: int, advantage_scale: float = 1.0
    ) -> None:
        """Make an untrained one.

        Args:
            normalization: The planner's, as ``model_index.json`` holds it.
            widths: Of the hidden layers of each network.
            networks: M; their mean ranks.
            advantage_scale: The standard deviation of the advantages that it is trained on.

        Raises:
            ValueError: If a number is out of range, or the statistics are wrong.
        """
        super().__init__()
        _check_critic(widths, networks, advantage_scale)
        self.frame = Frame.of_steps(normalization)
        self.advantage_scale = advantage_scale
        self.members = nn.ModuleList(make_perceptron(len(self.frame.shift), widths) for _ in range(networks))

    def forward(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Return the advantages (M, B), in standard deviations, of normalised actions (B, A) in observations (B, O).

        Actions (M, B, A) in observations (M, B, O) are each network's own.
        """
        return ask_each(self.members, torch.cat([observations, actions], dim=-1))

    def rank(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Return the advantages (N, K) of the candidates' first actions, the mean of all networks.

        Args:
            observations: The candidates' first ones (N, K, O), in the environment's units.
            actions: The candidates' first ones (N, K, A).
        """
        frame = self.frame.to(actions.device)
        pairs = frame.normalise_observations(observations), frame.normalise_actions(actions)
        dtype = next(self.parameters()).dtype
        advantages = self(*(part.flatten(0, 1).to(dtype) for part in pairs))
        ranked: torch.Tensor = advantages.float().mean(0).view(actions.shape[:2]) * self.advantage_scale
        return ranked


def make_perceptron(inputs: int, widths: list[int]) -> nn.Sequential:
    """Return an untrained network from so many numbers to one, with a normalised layer of each width between."""
    layers: list[nn.Module] = []
    for size, width in pairwise([inputs, *widths]):
        layers += [nn.Linear(size, width), nn.LayerNorm(width), nn.Mish()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


def ask_each(members: nn.ModuleList, inputs: torch.Tensor) -> torch.Tensor:
    """Return what each of M networks says (M, B) of inputs (B, ...), or of its own (M, B, ...)."""
    each = inputs.expand(len(members), *inputs.shape[-2:])
    return torch.stack([network(own).squeeze(-1) for network, own in zip(members, each, strict=True)])


def _check_critic(widths: Any, networks: Any, advantage_scale: Any) -> None:
    """Refuse sizes that no critic has, before memory is taken for them."""
    check_widths(widths)
    number = as_number(networks, whole=True)
    if number is None or not 1 <= number <= _MOST_NETWORKS:
        raise ValueError(f"networks is {shorten(networks)}: a whole number between 1 and {_MOST_NETWORKS} is needed")
    scale = as_number(advantage_scale)
    if scale is None or not 0 < scale <= 1e30:
        raise ValueError(f"advantage_scale is {shorten(advantage_scale)}: a number above 0 is needed")


# ---------------------------------------------------------------- in a folder


def open_critic(origin: str | Path | None, frame: Frame, device: torch.device) -> Critic:
    """Load the critic of a pipeline folder.

    Args:
        origin: The folder, or the name of one on the Hugging Face Hub; None: the planner was not loaded from one.
        frame: The planner's.
        device: Where it shall rank.

    Raises:
        ValueError: If there is none, its dimensions are not the planner's, or a file is damaged, which the message
            names.
        OSError: If a file is missing.
    """
    critic: Critic = open_companion(Critic, CRITIC, origin, device)
    if (critic.frame.action_dim, len(critic.frame.shift)) != (frame.action_dim, len(frame.shift)):
        raise ValueError(
            f"the critic in {origin} is for other actions or observations than its planner's: train it anew, "
            f"vgp critic {origin}"
        )
    return critic
