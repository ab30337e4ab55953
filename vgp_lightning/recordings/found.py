"""What ``vgp import-data`` says that it found."""

from collections.abc import Sequence

import numpy as np
from gymnasium.spaces import Box

from vgp_lightning.data.plain import PlainEpisode
from vgp_lightning.data.wording import say_first, say_spread
from vgp_lightning.recordings.roles import Roles
from vgp_lightning.recordings.source import Source
from vgp_lightning.recordings.splitting import LastObservation, Losses


def say_keys(source: Source, roles: Roles, no_rewards: bool) -> None:
    """Print the format, the notes, and the keys with their shapes."""
    print(f"{source.path}: read as {source.format}")
    for note in source.notes:
        print(f"  {note}")
    columns = source.pieces[0].columns
    for role in ("observations", "actions", "rewards", "terminals", "timeouts", "episode", "next_observations", "time"):
        keys = getattr(roles, role)
        if role == "rewards" and no_rewards:
            print(f"  {'rewards':<18}0 in all steps, as --no_rewards says")
        elif keys:
            shown = [f"{key} {_shape(columns[key].shape[1:])}" for key in keys]
            print(f"  {role:<18}{say_first(shown, 12)}")
    unused = [key for key in source.keys if key not in roles.used]
    if unused:
        kinds = [f"{key}{f' ({problem})' if (problem := columns[key].problem) else ''}" for key in unused]
        print(f"  {'not used':<18}{say_first(kinds, 12)}")


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})" if shape else "(1)"


def dimensions(source: Source, keys: Sequence[str]) -> list[str]:
    """Return a name for each dimension of several keys, such as ``obs[3]``."""
    columns = source.pieces[0].columns
    sizes = {key: int(np.prod(columns[key].shape[1:], dtype=np.int64)) for key in keys}
    return [key if sizes[key] == 1 else f"{key}[{number}]" for key in keys for number in range(sizes[key])]


def say_losses(
    source: Source, losses: Losses, last_observation: LastObservation, episodes: Sequence[PlainEpisode]
) -> None:
    """Print what was left out or repeated."""
    if losses.without_final and not source.ends_in_observation:
        what = (
            f"their last step is dropped (rewards of {losses.rewards:g} in all). --last_observation repeat keeps it"
            if last_observation == "drop"
            else "the observation before it is repeated"
        )
        print(f"  {losses.without_final} episodes have no observation after their last step: {what}")
    if losses.empty:
        print(f"  {len(losses.empty)} episodes without a step are left out, first {losses.empty[0]}")
    if losses.going_on:
        print(
            f"  {len(losses.going_on)} episodes go on after a terminal step, first {losses.going_on[0]}: only the flag "
            "of the last step counts"
        )
    if losses.uneven:
        print(
            f"  {losses.uneven} of {len(episodes)} episodes have steps of uneven length in time: a planner takes all "
            "steps as equally long, so resample them if the differences are large"
        )


def say_episodes(source: Source, episodes: Sequence[PlainEpisode], losses: Losses) -> None:
    """Print number, lengths and returns of the episodes, the range of actions, and the step rate if it is known."""
    lengths = np.array([len(episode.actions) for episode in episodes])
    returns = np.array([np.sum(episode.rewards, dtype=np.float64) for episode in episodes])
    terminated = sum(episode.terminated for episode in episodes)
    print(f"  {len(episodes)} episodes, {lengths.sum()} steps; {terminated} terminated, the others truncated")
    print(f"  {'lengths':<18}{say_spread(lengths)}")
    print(f"  {'returns':<18}{say_spread(returns)}")
    actions = [episode.actions for episode in episodes]
    low, high = np.min([a.min(axis=0) for a in actions], axis=0), np.max([a.max(axis=0) for a in actions], axis=0)
    print(f"  {'actions':<18}{say_first([f'{a:.4g} to {b:.4g}' for a, b in zip(low, high, strict=True)])}")
    if (low == high).any():
        print(f"  constant actions: dimensions {', '.join(map(str, np.flatnonzero(low == high)))}")
    if source.step_rate is not None:
        print(f"  {'step rate':<18}{source.step_rate:g} steps a second")
    elif losses.intervals:
        step = float(np.median(losses.intervals))
        print(f"  {'step rate':<18}{1 / step:g} steps a second, if the times are in seconds ({step:g} a step)")


def say_bounds(space: Box, env_id: str | None) -> None:
    """Print where the bounds of actions come from."""
    usual = bool((space.low == -1).all() and (space.high == 1).all())
    of = f"those of {env_id}" if env_id else "-1 to 1, which all actions keep" if usual else "those of the data"
    print(f"  {'action bounds':<18}{of}{'' if env_id else ' (--env_id takes those of an environment)'}")
