"""Which environments a folder, a checkpoint or a dataset may name: registered ones, and no code of its own."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from vgp_lightning.data.registry import register_robotics

_PACKAGES = ("gymnasium", "gymnasium_robotics")
# Arguments of gymnasium.make and make_vec, which they take out of an environment's keyword arguments.
_OF_MAKE = ("num_envs", "vectorization_mode", "vector_kwargs", "wrappers", "max_episode_steps", "disable_env_checker")
_MOST_STEPS = 10**9


def trusted_spec(task: Mapping[str, Any], origin: object) -> EnvSpec | str | None:
    """Return the environment that somebody else's task names, if making it runs no code but a registered environment's.

    Of a specification its keyword arguments, its time limit and gymnasium's two checks are taken; all else must be as
    it is registered. Only environments of gymnasium and gymnasium-robotics may have other keyword arguments than
    registered, and none that names a file.

    Args:
        task: ``env_spec``, a specification as gymnasium writes it, or ``env_id``; of both the first.
        origin: What names it, for messages.

    Returns:
        The specification, an id, or None if the task names neither.

    Raises:
        ValueError: If the environment is not registered, or is specified otherwise than it is registered.
    """
    given, name = task.get("env_spec"), task.get("env_id")
    if given is None and name is None:
        return None
    if given is None:
        _find(name, origin)
        return str(name)
    if not isinstance(given, dict):
        raise _untrusted(origin, f"an environment by {given!r}, which is no specification of gymnasium")
    registered = _find(given.get("id"), origin)
    for key, is_registered in (
        ("entry_point", _places(registered.entry_point)),
        ("vector_entry_point", [None, *_places(registered.vector_entry_point)]),
    ):
        if given.get(key) not in is_registered:
            raise _untrusted(
                origin, f"{registered.id} with the {key} {given.get(key)!r}, which is registered as {is_registered[-1]}"
            )
    if given.get("additional_wrappers") and registered.additional_wrappers != _tuples(given["additional_wrappers"]):
        raise _untrusted(origin, f"{registered.id} with the additional wrappers {given['additional_wrappers']!r}")
    checks = {key: given[key] for key in ("order_enforce", "disable_env_checker") if isinstance(given.get(key), bool)}
    limit = given.get("max_episode_steps")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or not 0 < limit <= _MOST_STEPS):
        raise _untrusted(origin, f"{registered.id} with max_episode_steps {limit!r}")
    return replace(
        registered, kwargs=_checked_kwargs(given.get("kwargs"), registered, origin), max_episode_steps=limit, **checks
    )


def _find(name: Any, origin: object) -> EnvSpec:
    """Return the specification that is registered under an id."""
    if not isinstance(name, str) or ":" in name:  # gymnasium imports the module before a colon
        raise _untrusted(origin, f"the environment {name!r}, which is no plain id")
    register_robotics(name)
    if name not in gymnasium.registry:
        raise _untrusted(
            origin,
            f"the environment {name!r}, which neither gymnasium nor gymnasium-robotics registers here (the mazes need: "
            "pip install 'vgp_lightning[maze]')",
        )
    return gymnasium.registry[name]


def _places(entry: Any) -> list[Any]:
    """Return the ways to write an entry point: as it is registered, and as text."""
    return [f"{entry.__module__}:{entry.__qualname__}"] if callable(entry) else [entry]


def _tuples(wrappers: Any) -> Any:
    """Return wrappers as gymnasium keeps them, or None if they are not of that form."""
    try:
        return tuple(WrapperSpec(**wrapper) for wrapper in wrappers)
    except TypeError:
        return None


def _checked_kwargs(given: Any, registered: EnvSpec, origin: object) -> dict[str, Any]:
    """Return the keyword arguments without the render mode, which is the caller's choice."""
    if given is None:
        return dict(registered.kwargs)
    if not isinstance(given, dict):
        raise _untrusted(origin, f"{registered.id} with the keyword arguments {given!r}")
    kwargs = {name: value for name, value in given.items() if name != "render_mode"}
    standard = {name: value for name, value in registered.kwargs.items() if name != "render_mode"}
    ours = json.loads(json.dumps(standard, default=repr))  # with lists for tuples, as the other side has them
    if str(_places(registered.entry_point)[0]).split(".")[0] not in _PACKAGES and kwargs != ours:
        raise _untrusted(origin, f"{registered.id} with keyword arguments of its own: {kwargs!r}")
    for name, value in kwargs.items():
        if name in ours and ours[name] == value:
            continue
        if name in _OF_MAKE:
            raise _untrusted(origin, f"{registered.id} with {name} {value!r}, an argument of gymnasium itself")
        if _names_file(name, value):
            raise _untrusted(origin, f"{registered.id} with {name} {value!r}, which may name a file")
    return kwargs


def _names_file(name: str, value: Any) -> bool:
    """Return whether an argument may name a file: MuJoCo's environments read the model from ``xml_file``."""
    if isinstance(value, dict):
        return any(_names_file(str(key), part) for key, part in value.items())
    if isinstance(value, list):
        return any(_names_file(name, part) for part in value)
    named = any(word in name.lower() for word in ("file", "path", "xml", "folder", "dir"))
    return isinstance(value, str) and (named or any(sign in value for sign in ("/", "\\", "~", "..", ".xml")))


def _untrusted(origin: object, what: str) -> ValueError:
    return ValueError(
        f"{origin} names {what}: this could run code or read files that somebody else has chosen. Give the environment "
        "yourself with --env_id ID (package:Id imports a package), or, if you trust the folder and who made it, "
        "--trust_environment true"
    )
