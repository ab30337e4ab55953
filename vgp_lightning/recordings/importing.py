"""``vgp import-data``: recordings in other formats -> a Minari dataset, with what was found said and checked.

Shapes: E episodes of n steps, O observation and A action dimensions, as the source has them.
"""

from collections.abc import Sequence
from pathlib import Path

import minari
import numpy as np

from vgp_lightning.data.plain import PlainEpisode, find_spaces, write_plain
from vgp_lightning.data.registry import make_environment
from vgp_lightning.data.writing import free_path
from vgp_lightning.recordings.formats import open_source
from vgp_lightning.recordings.found import dimensions, say_bounds, say_episodes, say_keys, say_losses
from vgp_lightning.recordings.roles import Roles, find_roles
from vgp_lightning.recordings.source import AskedFormat, Source
from vgp_lightning.recordings.splitting import LastObservation, Losses, split

# float32 has 7 digits, so that a number of this size has a resolution of 0.1. Seen where time stamps or counters of an
# encoder are among the observations.
_LARGEST = 1e6


def import_data(
    source: str,
    *,
    dataset_id: str,
    format: AskedFormat = "auto",  # noqa: A002 (the option's name)
    observations: str | list[str] | None = None,
    actions: str | list[str] | None = None,
    rewards: str | None = None,
    terminals: str | None = None,
    timeouts: str | None = None,
    episode: str | None = None,
    next_observations: str | list[str] | None = None,
    no_rewards: bool = False,
    last_observation: LastObservation = "drop",
    env_id: str | None = None,
) -> minari.MinariDataset:
    """Write a Minari dataset from recordings in another format, and say what was found.

    An episode of n steps has n + 1 observations. Where a source has n, the last one is taken from its next
    observations; if it has none, ``last_observation`` decides, and the number of episodes is said.

    Args:
        source: A .hdf5 file (D4RL, robomimic), a .npz file (flat arrays, OGBench), a .csv or .parquet file, a folder of
            .npz, .csv or .parquet files with one episode each, or the folder of a LeRobot dataset.
        dataset_id: Id of the new dataset, such as ``me/robot/runs-v0``; it must not exist.
        format: ``auto``: by the name and the keys of the source.
        observations: Keys of the observations: one, a pattern such as ``obs_*``, or a list, whose order counts.
            Default, here and below: a usual name.
        actions: Keys of the actions, likewise.
        rewards: Key of the rewards.
        terminals: Key that is true where an episode ends in a terminal state (a fall, the goal); ``none``: none.
        timeouts: Key that is true where an episode is cut; ``none``: none.
        episode: Key that numbers the episodes; ``none``: none.
        next_observations: Keys of the observations after each step; ``none``: do not use them.
        no_rewards: Set all rewards to 0. A denoiser can be trained on that, a value function cannot.
        last_observation: Where the observation after the last step is not known: ``drop`` that step, or ``repeat`` the
            observation before it, which keeps its reward.
        env_id: The environment, whose spaces are used and checked; default: none, and actions are bounded by -1 and 1
            if they lie within, else by the data.

    Returns:
        The new dataset.

    Raises:
        ValueError: If the source cannot be understood, or its numbers cannot be right. Nothing is written then.
        OSError: If the disk has too little space.
    """
    free_path(dataset_id)
    found = open_source(Path(source).expanduser(), format)
    given = {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminals": terminals,
        "timeouts": timeouts,
        "episode": episode,
        "next_observations": next_observations,
    }
    roles = find_roles(found, given)
    say_keys(found, roles, no_rewards)
    losses = Losses()
    environment = None if env_id is None else make_environment(env_id)
    try:
        episodes = list(split(found, roles, no_rewards, last_observation, losses))
        say_losses(found, losses, last_observation, episodes)
        if not episodes:
            raise ValueError(f"{found.path}: no episode has a step whose outcome is known")
        _check_units(found, roles, episodes)
        if not no_rewards:
            _check_rewards(found, roles, episodes, losses)
        say_episodes(found, episodes, losses)
        say_bounds(find_spaces(episodes, environment)[1], env_id)
        rate = f", {found.step_rate:g} steps a second" if found.step_rate is not None else ""
        dataset = write_plain(
            dataset_id,
            episodes,
            environment,
            algorithm_name="unknown",
            description=f"imported from {found.path.name} ({found.format}{rate}) by vgp import-data",
        )
    finally:
        if environment is not None:
            environment.close()
    print(f"written as {dataset_id}. Next: vgp describe {dataset_id} --output own.yaml")
    return dataset


def _check_units(source: Source, roles: Roles, episodes: Sequence[PlainEpisode]) -> None:
    """Refuse numbers whose units cannot be right.

    Raises:
        ValueError: If an observation or action is very large, or no action ever changes.
    """
    for role, keys in (("observations", roles.observations), ("actions", roles.actions)):
        names = dimensions(source, keys)
        for episode in episodes:
            size = np.abs(getattr(episode, role)).max(axis=0)
            if (size > _LARGEST).any():
                column = int(size.argmax())
                raise ValueError(
                    f"{episode.name}: {names[column]}, one of the {role}, reaches {size[column]:g}. Numbers above "
                    f"{_LARGEST:g} are no state or action in usual units (a time stamp? a counter?), and float32 "
                    f"rounds them to {np.spacing(np.float32(size[column])):.2g}: leave the key out (--{role}) or write "
                    "it in other units"
                )
    actions = [episode.actions for episode in episodes]
    low, high = np.min([a.min(axis=0) for a in actions], axis=0), np.max([a.max(axis=0) for a in actions], axis=0)
    if (low == high).all() and sum(map(len, actions)) > 1:
        raise ValueError(
            f"{source.path}: all actions are the same ({', '.join(f'{value:g}' for value in low[:8])}): there is "
            "nothing to plan. Is it the right key? Name it: --actions KEY"
        )
    if all(a.dtype.kind in "biu" for a in actions) and low.size == 1:
        raise ValueError(
            f"{source.path}: {roles.actions[0]} has whole numbers only ({low[0]} to {high[0]}), as discrete actions "
            "have, and a planner needs continuous ones. If they are continuous, store them as floats"
        )


def _check_rewards(source: Source, roles: Roles, episodes: Sequence[PlainEpisode], losses: Losses) -> None:
    """Refuse to drop all rewards with the last steps, as happens where only the goal is rewarded.

    Raises:
        ValueError: If all rewards that are left are 0, and those that were dropped are not.
    """
    if losses.rewards > 0 and not any(episode.rewards.any() for episode in episodes):
        raise ValueError(
            f"{source.path}: {roles.rewards[0]} is 0 in all steps but the last of each episode, which would be "
            "dropped, since the observation after it is not known. --last_observation repeat keeps these steps"
        )
