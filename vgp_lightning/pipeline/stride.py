"""The stride: how many steps of the environment one step of the networks stands for.

With a stride of s a network sees every s-th observation, and the s actions from one to the next as one vector. For it a
plan of H steps is a trajectory of H / s steps, so that a look as far ahead takes a fraction of the time. Outside of the
networks a plan has all of its H steps: all actions, and between two observations of the network their linear
interpolation; after the last one, that one.

Shapes: H steps of the environment, s of them in a stride, A action and O observation dimensions, T = A + O. Folded
trajectories are (..., H / s, s * A + O), the s actions first, one after the other.
"""

import torch


def folded_channels(transition_dim: int, action_dim: int, stride: int) -> int:
    """Return the number of entries of a folded step, s * A + O."""
    return transition_dim + (stride - 1) * action_dim


def fold(steps: torch.Tensor, stride: int, action_dim: int) -> torch.Tensor:
    """Return trajectories (..., H, T) folded, as the networks see them: (..., H / s, s * A + O).

    Args:
        steps: (..., H, T), action first; H is a multiple of the stride.
        stride: s.
        action_dim: A.
    """
    if stride == 1:
        return steps
    *count, length, _ = steps.shape
    actions = steps[..., :action_dim].reshape(*count, length // stride, stride * action_dim)
    return torch.cat((actions, steps[..., ::stride, action_dim:]), dim=-1)


def unfold(folded: torch.Tensor, stride: int, action_dim: int) -> torch.Tensor:
    """Return folded trajectories (..., H / s, s * A + O) as they are executed: (..., H, T).

    Args:
        folded: (..., H / s, s * A + O).
        stride: s.
        action_dim: A.
    """
    if stride == 1:
        return folded
    *count, length, _ = folded.shape
    actions = folded[..., : stride * action_dim].reshape(*count, length * stride, action_dim)
    seen = folded[..., stride * action_dim :]
    ahead = torch.cat((seen[..., 1:, :], seen[..., -1:, :]), dim=-2) - seen
    share = torch.arange(stride, dtype=folded.dtype, device=folded.device)[:, None] / stride  # (s, 1)
    between = seen.unsqueeze(-2) + share * ahead.unsqueeze(-2)  # (..., H / s, s, O)
    return torch.cat((actions, between.flatten(-3, -2)), dim=-1)
