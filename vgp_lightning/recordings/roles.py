"""Which columns of a source are observations, actions, rewards and the ends of episodes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from vgp_lightning.data.wording import say_first
from vgp_lightning.recordings.source import Source, in_natural_order

Given = str | Sequence[str] | None

# Names that are taken without being asked for, the first that a source has. `done` and `dones` are not among them: they
# do not say whether an episode ended in a terminal state or was cut.
_NAMES = {
    "observations": ("observations", "observation", "obs", "observation.state", "state", "states"),
    "actions": ("actions", "action", "act", "acts"),
    "rewards": ("rewards", "reward", "next.reward"),
    "terminals": ("terminals", "terminal", "terminations", "terminated"),
    "timeouts": ("timeouts", "timeout", "truncations", "truncated"),
    "episode": ("episode", "episode_id", "episode_ids", "episode_index", "traj_id", "trajectory_id"),
    "next_observations": ("next_observations", "next_observation", "next_obs"),
    "time": ("timestamp", "timestamps", "time", "t"),
}
_VECTORS = ("observations", "actions", "next_observations")
_NEEDED = ("observations", "actions")
_AMBIGUOUS = ("done", "dones", "next.done")


@dataclass(frozen=True)
class Roles:
    """The keys of a source by what they hold. Several keys of a vector are concatenated in this order."""

    observations: list[str]
    actions: list[str]
    rewards: list[str]
    terminals: list[str]
    timeouts: list[str]
    episode: list[str]
    next_observations: list[str]
    time: list[str]

    @property
    def used(self) -> set[str]:
        """Return all keys that have a role."""
        return {key for role in fields(self) for key in getattr(self, role.name)}


def find_roles(source: Source, given: Mapping[str, Given]) -> Roles:
    """Find the keys of each role.

    Args:
        source: What was found.
        given: For each role but the time: a key, a pattern such as ``obs_*``, a list of these, ``none``: there is none,
            or None: look for usual names.

    Raises:
        ValueError: If a key does not exist or holds no numbers, observations or actions are not found, or nothing says
            where episodes end.
    """
    found = {
        role: _usual(source, role) if given.get(role) is None else _chosen(source, role, given[role]) for role in _NAMES
    }
    if given.get("observations") is not None and given.get("next_observations") is None:
        found["next_observations"] = []  # the usual ones belong to the usual observations
    if source.format == "robomimic" and given.get("next_observations") is None:
        following = [f"next_{key}" for key in found["observations"]]
        found["next_observations"] = following if set(following) <= set(source.keys) else []
    for role in _NEEDED:
        if not found[role]:
            raise ValueError(
                f"{source.path}: which key holds the {role}? Give it: --{role} KEY (or '[KEY, KEY]', or a pattern such "
                f"as 'obs_*'). It has {say_first(source.keys, 20)}"
            )
    roles = Roles(**found)
    if not (source.is_episode or roles.episode or roles.terminals or roles.timeouts):
        also = next((key for key in _AMBIGUOUS if key in source.keys), None)
        hint = (
            f"{also} does not say what kind of end it marks: --terminals {also} if nothing follows (a fall, the goal), "
            f"--timeouts {also} if the episode was only cut. "
            if also
            else ""
        )
        raise ValueError(
            f"{source.path}: nothing says where an episode ends. {hint}Name a key: --terminals KEY (true where an "
            f"episode ends in a terminal state), --timeouts KEY (true where it is cut), or --episode KEY (its number). "
            f"It has {say_first(source.keys, 20)}"
        )
    return roles


def _usual(source: Source, role: str) -> list[str]:
    """Return the keys that have a usual name of a role: one key, or those that are numbered after it (obs_0, obs_1)."""
    if source.format == "robomimic":
        if role == "observations":
            return source.numeric([key for key in source.keys if key.startswith("obs/")])
        if role == "terminals" and "dones" in source.keys:
            return ["dones"]  # of a demonstration that reached its goal, as robomimic's own algorithms take it
    if source.format == "ogbench" and role in ("terminals", "timeouts"):
        return [key for key in (("masks",) if role == "terminals" else ("terminals",)) if key in source.keys]
    for name in _NAMES[role]:
        if name in source.keys:
            return [name] if role == "episode" else source.numeric([name])
        if role in _VECTORS:
            pattern = re.compile(rf"{re.escape(name)}[_.\[]?\d+\]?", re.IGNORECASE)
            if numbered := source.numeric([key for key in source.keys if pattern.fullmatch(key)]):
                return in_natural_order(numbered)
    return []


def _chosen(source: Source, role: str, given: Given) -> list[str]:
    """Return the keys that the user has named.

    Raises:
        ValueError: If one does not exist, is named twice, or holds no numbers; or a role of one key has several.
    """
    if given == "none" and role not in _NEEDED:
        return []
    keys: list[str] = []
    for name in [given] if isinstance(given, str) else given or []:
        matching = source.matching(name)
        if not matching:
            raise ValueError(f"--{role} {name}: {source.path} has no such key; it has {say_first(source.keys, 20)}")
        keys += matching
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f"--{role} names {twice} twice: name it once")
    for key in keys if role != "episode" else []:  # whose values may be names
        if (problem := source.pieces[0].columns[key].problem) is not None:
            raise ValueError(f"--{role} {key} holds {problem}: numbers are needed, up to 1000 a step")
    if role not in _VECTORS and len(keys) > 1:
        raise ValueError(f"--{role} names {', '.join(keys)}: it takes one key")
    return keys
