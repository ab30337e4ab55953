"""Which settings hold: what is given, else the folder's default, else the paper's; checked against the networks."""

from collections.abc import Mapping
from typing import Any, cast

from diffusers import UNet1DModel

from .networks import check_horizon
from .sampling import SAMPLERS
from .settings import DEFAULTS, Settings, check_settings


def check_components(unet: UNet1DModel, value_function: UNet1DModel | None, channels: int) -> None:
    """Check that networks fit the statistics; the user may have put in others since the last call.

    Args:
        unet: The denoiser.
        value_function: The value function; None: there is none.
        channels: Those of a folded trajectory, by the statistics and the stride.

    Raises:
        ValueError: If a network has another number of channels.
    """
    for name, network in (("denoiser", unet), ("value function", value_function)):
        if network is not None and network.config["in_channels"] != channels:
            raise ValueError(
                f"the {name} has {network.config['in_channels']} channels, but the statistics have {channels} "
                "dimensions"
            )


def resolve(
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
    unet: UNet1DModel,
    value_function: UNet1DModel | None,
    scheduler: Any,
    *,
    has_objectives: bool,
    samples_as_trained: bool,
    stride: int,
) -> Settings:
    """Return all settings of planning.

    Args:
        defaults: The folder's.
        given: Those of a call, which precede them.
        unet: The denoiser.
        value_function: The value function; None: there is none.
        scheduler: The noise schedule.
        has_objectives: Whether the call has objectives of its own.
        samples_as_trained: Whether the scheduler is that of the training, for which the folder's sampler stands.
        stride: s, the steps of a plan that one step of the networks stands for.

    Raises:
        ValueError: If a setting is unknown or cannot work with these networks.
    """
    settings: dict[str, Any] = dict(DEFAULTS) | dict(defaults)
    guides = value_function is not None or has_objectives
    if not guides:
        settings["n_guide_steps"] = 0
    if not samples_as_trained:
        settings["sampler"] = None
    settings |= given
    if unknown := set(settings) - set(DEFAULTS):
        raise ValueError(f"unknown settings {sorted(map(str, unknown))}: choose from {sorted(DEFAULTS)}")
    trained = scheduler.config["num_train_timesteps"]
    if settings["num_inference_steps"] is None:
        settings["num_inference_steps"] = trained
    settings = check_settings(settings, trained)
    if settings["sampler"] is None and settings["temperature"] != 1:
        raise ValueError(
            f"temperature is {settings['temperature']}, but {type(scheduler).__name__} draws its own noise: choose a "
            f"sampler from {list(SAMPLERS)}"
        )
    if settings["n_guide_steps"] and not guides:
        raise ValueError(
            f"n_guide_steps is {settings['n_guide_steps']}, but this pipeline has no value function: use 0, give "
            "objectives, or export with --value"
        )
    check_horizon(
        settings["planning_horizon"],
        denoiser_widths=unet.config["block_out_channels"],
        value_widths=() if value_function is None else value_function.config["block_out_channels"],
        name="planning_horizon",
        remedy="",
        stride=stride,
    )
    return cast(Settings, settings)
