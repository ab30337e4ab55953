"""The two networks of the paper, as diffusers' UNet1DModel, the horizons and widths that they accept, and the schedule.

Both take (B, T, H), channels first, and T = A + O channels, action first. Weights of the original code map key by key.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler, UNet1DModel

PredictionType = Literal["sample", "epsilon", "v_prediction"]

_GROUPS = 8  # of the group normalisation
# Two channels a group at least: a group of one is all zero where the horizon has shrunk to a single step.
_MULTIPLE = 2 * _GROUPS


def check_horizon(
    horizon: int,
    *,
    denoiser_widths: Sequence[int] = (),
    value_widths: Sequence[int] = (),
    name: str = "data.horizon",
    remedy: str = "model.widths",
    stride: int = 1,
) -> None:
    """Refuse a horizon that a network does not accept, naming the nearest that it does.

    A denoiser halves the horizon in each block but the last. A horizon one short of a multiple does not fail by itself:
    the network silently returns one step too many. A value function halves it in each block and twice more, to a
    single step.

    Args:
        horizon: H.
        denoiser_widths: Those of a denoiser that has to accept it.
        value_widths: Those of a value function that has to accept it.
        name: What the user calls the horizon.
        remedy: What the user calls the widths; empty where they cannot change.
        stride: Steps of the horizon that one step of the networks stands for.

    Raises:
        ValueError: If the horizon does not fit.
    """
    with_stride = f" with a stride of {stride}" * (stride > 1)
    if denoiser_widths:
        multiple = stride * 2 ** (len(denoiser_widths) - 1)
        if horizon < 1 or horizon % multiple:
            nearest = max(round(horizon / multiple), 1) * multiple
            raise ValueError(
                f"{name} {horizon} does not fit a denoiser of {len(denoiser_widths)} widths{with_stride}: it must be a "
                f"multiple of {multiple}. Set {name} to {nearest}" + f", or give {remedy} fewer entries" * bool(remedy)
            )
    if value_widths:
        limit = stride * 2 ** (len(value_widths) + 2)
        if not stride <= horizon <= limit or horizon % stride:
            nearest = min(max(round(horizon / stride) * stride, stride), limit)
            kind = f"be a multiple of {stride} from {stride} to" if stride > 1 else "lie between 1 and"
            raise ValueError(
                f"{name} {horizon} does not fit a value function of {len(value_widths)} widths{with_stride}: it must "
                f"{kind} {limit}. Set {name} to {nearest}" + f", or give {remedy} more entries" * bool(remedy)
            )


def make_denoiser(channels: int, horizon: int, widths: Sequence[int], stride: int = 1) -> UNet1DModel:
    """Return the temporal U-Net that predicts a trajectory (or its noise) from its noised form.

    Args:
        channels: Of a trajectory: T, with a stride of s s * A + O.
        horizon: H, a multiple of s * 2 ** (len(widths) - 1).
        widths: Channels of each level, multiples of 16.
        stride: s, the steps of the horizon that one step of the network stands for.

    Raises:
        ValueError: If the horizon or a width does not fit.
    """
    _check_widths(widths)
    check_horizon(horizon, denoiser_widths=widths, stride=stride)
    return _make(
        channels,
        horizon // stride,
        widths,
        up_block_types=("UpResnetBlock1D",) * (len(widths) - 1),
        mid_block_type="MidResTemporalBlock1D",
        out_block_type="OutConv1DBlock",
        downsample_each_block=False,
    )


def make_value_function(channels: int, horizon: int, widths: Sequence[int], stride: int = 1) -> UNet1DModel:
    """Return the half U-Net that predicts one number, the normalised return, from a noised trajectory.

    Args:
        channels: Of a trajectory: T, with a stride of s s * A + O.
        horizon: H, a multiple of s, at most s * 2 ** (len(widths) + 2).
        widths: Channels of each level, multiples of 16, the last of 64 (the middle block halves it twice).
        stride: s, the steps of the horizon that one step of the network stands for.

    Raises:
        ValueError: If the horizon or a width does not fit.
    """
    _check_widths(widths)
    if widths[-1] % (4 * _MULTIPLE):
        raise ValueError(f"the value function's last width is {widths[-1]}: it must be a multiple of {4 * _MULTIPLE}")
    check_horizon(horizon, value_widths=widths, stride=stride)
    return _make(
        channels,
        horizon // stride,
        widths,
        up_block_types=(),
        mid_block_type="ValueFunctionMidBlock1D",
        out_block_type="ValueFunction",
        downsample_each_block=True,
    )


def _make(channels: int, steps: int, widths: Sequence[int], **parts: Any) -> UNet1DModel:
    """Return a network of what both recipes share and the parts in which they differ."""
    return UNet1DModel(
        sample_size=steps,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownResnetBlock1D",) * len(widths),
        block_out_channels=tuple(widths),
        layers_per_block=1,
        use_timestep_embedding=True,
        time_embedding_type="positional",
        flip_sin_to_cos=False,
        freq_shift=1,
        act_fn="mish",
        norm_num_groups=_GROUPS,
        **parts,
    )


def _check_widths(widths: Sequence[int]) -> None:
    if len(widths) < 2 or any(width < _MULTIPLE or width % _MULTIPLE for width in widths):
        raise ValueError(f"widths are {list(widths)}: at least 2 are needed, each a positive multiple of {_MULTIPLE}")


def make_noise_scheduler(levels: int, beta_schedule: str, prediction_type: PredictionType) -> DDPMScheduler:
    """Return the noise schedule. Nothing is clipped: Gaussian-normalised data leave -1..1 by far."""
    return DDPMScheduler(
        num_train_timesteps=levels,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        clip_sample=False,
        variance_type="fixed_small_log",
    )


def weights_dtype(network: torch.nn.Module) -> torch.dtype:
    """Return the type of a network's weights; diffusers' own property looks through all modules first."""
    return next((weight.dtype for weight in network.parameters()), torch.float32)


def weights_device(network: torch.nn.Module) -> torch.device:
    """Return the device of a network's weights; diffusers' own property looks through all modules first."""
    return next((weight.device for weight in network.parameters()), torch.device("cpu"))
