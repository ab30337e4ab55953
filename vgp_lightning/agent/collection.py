"""``vgp collect``: let a behaviour policy act in environments, and write its episodes as a Minari dataset."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from vgp_lightning.agent.behaviours import ASSETS, make_behaviour
from vgp_lightning.agent.deployment import first_of
from vgp_lightning.agent.environments import check_seed, close, make_environments
from vgp_lightning.agent.episodes import Failure
from vgp_lightning.agent.origin import describe_environment, hash_configs, hash_weights, versions
from vgp_lightning.agent.played import say_played
from vgp_lightning.agent.playing import Keeping, play_claimed
from vgp_lightning.agent.store import EpisodeStore, Item
from vgp_lightning.data.writing import free_path, write_dataset
from vgp_lightning.pipeline.companions import CRITIC


def collect(
    env_id: str,
    behaviour: str,
    steps: int,
    dataset_id: str,
    *,
    seed: int = 0,
    environments: int = 8,
    weight_noise: float = 0.0,
    action_noise: float = 0.0,
    max_episode_steps: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    ref_min_score: float | None = None,
    ref_max_score: float | None = None,
    output_dir: str | None = None,
    again: bool = False,
) -> minari.MinariDataset:
    """Collect a Minari dataset of exactly ``steps`` transitions by a behaviour policy.

    Episode e has the seed ``seed + e``, for the environment and the behaviour policy. The dataset has the episodes of
    the first seeds, in this order, whole, until their steps sum to ``steps``; the last one is cut there and marked as
    truncated. So it does not depend on the number of environments or processes.

    Finished episodes are kept in a hidden folder beside the dataset. After an interruption the same command goes on;
    several processes with the same command share the work. The dataset is written at the end, whole or not at all.

    Args:
        env_id: The environment, such as ``Hopper-v5``.
        behaviour: The behaviour policy: random, waypoint, a bundled gait, a file or a pipeline folder, listed below.
        steps: Transitions to collect.
        dataset_id: Id of the new dataset, such as ``demo/hopper-v0``; it must not exist.
        seed: The first episode's seed.
        environments: Number of environments that are stepped together.
        weight_noise: Relative noise of a linear behaviour's weights, of each episode: 0.1 is ten percent.
        action_noise: Noise of the actions of a linear or waypoint behaviour, in their units.
        max_episode_steps: Time limit of an episode, in steps; default: the environment's own.
        env_kwargs: Passed to the environment, such as ``{"continuing_task": False}``.
        ref_min_score: The return that is a normalised score of 0; to be given with ``ref_max_score``.
        ref_max_score: The return that is a normalised score of 100.
        output_dir: The folder of Minari datasets, for this process; default: ``MINARI_DATASETS_PATH``, else
            ``~/.minari/datasets``.
        again: Play episodes anew that an interrupted collection has kept.

    Returns:
        The new dataset.

    Raises:
        ValueError: If the dataset exists, its id is malformed, or an argument is wrong: nothing is collected then. If
            an observation or a reward is not finite: seed and step are named.
        OSError: If the disk is full, or cannot be written.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: at least 1 transition is needed")
    check_seed(seed)
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ValueError(f"max_episode_steps is {max_episode_steps}: at least 1 is needed")
    if (ref_min_score is None) != (ref_max_score is None):
        raise ValueError(f"ref_min_score {ref_min_score} and ref_max_score {ref_max_score}: give both or neither")
    if output_dir is not None:
        os.environ["MINARI_DATASETS_PATH"] = str(Path(output_dir).resolve())
    path = free_path(dataset_id)  # fail before a long collection, not after it
    kwargs = dict(env_kwargs or {})
    if max_episode_steps is not None:
        kwargs["max_episode_steps"] = max_episode_steps

    vector = make_environments(env_id, environments, **kwargs)
    try:
        agent = make_behaviour(behaviour, vector, weight_noise=weight_noise, action_noise=action_noise)
        asked = {"behaviour": behaviour, "weight_noise": weight_noise, "action_noise": action_noise, "seed": seed}
        identity = {
            "verb": "collect",
            "env_spec": describe_environment(first_of(vector)),
            "behaviour_sha256": _hash_behaviour(behaviour),
            "versions": versions(),
            "steps": steps,
            **asked,
        }
        folder = path.parent / f".{path.name}.collecting"  # hidden: Minari does not list it
        with EpisodeStore(folder, identity, again=again) as store:
            say_played(store, len(store.finished))
            quota = Quota(store.finished, seed, steps)
            keeping = Keeping(steps=True)

            def play() -> None:
                play_claimed(agent, vector, store, quota.wanted, keeping, "Collecting", ends=quota.end)

            store.share(quota.wanted, play)
            episodes = quota.episodes()
            with store.exclusively():
                if not path.exists():  # else another process of this collection has written it
                    plain = gymnasium.make(env_id, **kwargs)  # not flattened: its specification and spaces go in
                    about = ", ".join(f"{name} {value}" for name, value in asked.items())
                    write_dataset(
                        dataset_id,
                        episodes,
                        plain,
                        algorithm_name=Path(behaviour).name,
                        description=f"{steps} steps of {env_id} by vgp collect: {about}",
                        ref_min_score=ref_min_score,
                        ref_max_score=ref_max_score,
                        building=folder / f"{store.key}.building",
                    )
            store.discard()
    finally:
        close(vector)

    returns = np.array([sum(episode.rewards) for episode in episodes])
    print(
        f"{dataset_id}: {len(returns)} episodes, {steps} steps, return {returns.mean():.1f} mean, "
        f"{returns.std():.1f} standard deviation, {returns.min():.1f} to {returns.max():.1f}"
    )
    return minari.load_dataset(dataset_id)


class Quota:
    """Which episodes make up a dataset: those of the first seeds, until their steps suffice."""

    def __init__(self, finished: Mapping[Item, Mapping[str, Any]], seed: int, steps: int) -> None:
        """Begin to count.

        Args:
            finished: The finished episodes of a store, which become more.
            seed: The first seed.
            steps: Steps that are needed.
        """
        self._finished = finished
        self._steps = steps
        self._playing: Mapping[Item, int] = {}
        self._first = seed
        self._seed, self._before = seed, 0  # the episodes before this seed are finished, and have so many steps
        self._counted, self._total = 0, 0  # finished episodes, and their steps

    def wanted(self) -> Iterator[Item]:
        """Return the episodes that may be needed, by what is known of their lengths: each has at least one step."""
        return (item for item, _ in self._count(self._seed, self._before))

    def end(self, playing: Mapping[Item, int]) -> dict[Item, bool]:
        """Say which episodes that are being played have to end: they have enough steps (True), or are not needed.

        Args:
            playing: Their numbers of steps so far.
        """
        self._playing = playing
        new = list(islice(self._finished.values(), self._counted, None))
        self._counted += len(new)
        self._total += sum(record.get("length", 0) for record in new)
        failed = any("failed" in record for record in new)
        if self._total + sum(playing.values()) < self._steps and not failed:
            return {}  # usually: counting them takes time
        before = dict(self._count(self._seed, self._before))
        return {
            item: item in before
            for item, steps in playing.items()
            if item not in before or before[item] + steps >= self._steps
        }

    def episodes(self) -> list[EpisodeBuffer]:
        """Return the episodes of the dataset, once all that are wanted are finished.

        Raises:
            ValueError: If one of them has failed before its steps suffice.
        """
        found = []
        for item, before in self._count(self._first, 0):
            record = self._finished[item]
            length, rest = record.get("length", 0), self._steps - before
            if "failed" in record and length < rest:
                failure = Failure(item[1], item[2], **record["failed"])
                raise ValueError(
                    f"the collection cannot go on at {failure}; no dataset is written. Once it is mended: --again true"
                )
            found.append(_to_buffer(item[1], record, min(length, rest)))
        return found

    def _count(self, seed: int, before: int) -> Iterator[tuple[Item, int]]:
        """Return the episodes that may be needed, each with the least number of steps that those before it have.

        Args:
            seed: The seed to begin with.
            before: Steps of the episodes before it.
        """
        while before < self._steps:
            item = (0, seed, seed)
            yield item, before
            record = self._finished.get(item)
            if record is None:
                before += max(1, self._playing.get(item, 0))
            elif "failed" in record:
                return  # the dataset ends there, or there will be none
            else:
                before += record["length"]
                if seed == self._seed:
                    self._seed, self._before = seed + 1, before
            seed += 1


def _to_buffer(seed: int, record: Mapping[str, Any], steps: int) -> EpisodeBuffer:
    """Return the first steps of an episode as Minari writes it: where it is cut, it is truncated."""
    cut = steps < record["length"] or "failed" in record
    last = np.arange(steps) == steps - 1
    kept = record["steps"]
    return EpisodeBuffer(
        seed=seed,
        observations=kept["observations"][: steps + 1],
        actions=kept["actions"][:steps],
        rewards=kept["rewards"][:steps].tolist(),
        terminations=last & (record["terminated"] and not cut),
        truncations=last & (record["truncated"] or cut),
    )


def _hash_behaviour(name: str) -> str | None:
    """Return a hash of the file or folder that a behaviour is read from; None: it has none."""
    path = {path.stem: path for path in ASSETS.glob("*.json")}.get(name, Path(name))
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if not path.is_dir():
        return None
    index = path / "model_index.json"
    settings = hashlib.sha256(index.read_bytes()).hexdigest()
    return f"{hash_weights(path)} {hash_weights(path, CRITIC)} {hash_configs(path)} {settings}"
