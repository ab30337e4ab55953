"""Environments by their ids: those of gymnasium, of gymnasium-robotics, and of the user's own packages."""

import importlib
import importlib.util
from typing import Any

import gymnasium


def register_robotics(name: str) -> None:
    """Register the environments of gymnasium-robotics, an extra, if it is installed and the name is not known yet."""
    if name not in gymnasium.registry and importlib.util.find_spec("gymnasium_robotics") is not None:
        gymnasium.register_envs(importlib.import_module("gymnasium_robotics"))


def make_environment(env_id: str) -> gymnasium.Env[Any, Any]:
    """Make one environment, by an id that the user has given.

    Args:
        env_id: ``Id``, or ``package:Id``, which imports the package.

    Raises:
        ValueError: If it cannot be made.
    """
    if ":" not in env_id:
        register_robotics(env_id)
    try:
        return gymnasium.make(env_id)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"environment {env_id!r} cannot be made: {words}") from error
