"""N environments: the interface of agents, how environments are made, and the loop that steps them.

Shapes: N environments, O observation and A action dimensions, both flat, in the environment's units.
"""

import difflib
import importlib.util
import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import FlattenObservation, TimeLimit
from numpy.typing import NDArray

from vgp_lightning.data.registry import register_robotics

_MAZES = ("PointMaze", "AntMaze")  # environments of gymnasium_robotics
_OF_GYMNASIUM = {"render_mode", "max_episode_steps"}  # arguments that any environment can be made with


class Agent(Protocol):
    """Acts in N environments at once: a planner, a behaviour policy, a user's policy."""

    def reset(self, seeds: Sequence[int | None]) -> None:
        """Begin an episode in environment i for each seed that is not None; the other episodes continue.

        All randomness of the new episode's actions must come from its seed.
        """

    def act(self, observations: NDArray[np.floating], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the actions (N, A) for the observations (N, O); inactive rows may have any finite values."""


@dataclass(frozen=True)
class Step:
    """One step of N environments.

    Attributes:
        episode: (N,), the index of each environment's episode among the seeds; -1: idle, to be ignored.
        observations: (N, O), before the actions.
        actions: (N, A), as given to the environments.
        rewards: (N,).
        terminated: (N,).
        truncated: (N,).
        next_observations: (N, O), the final one where an episode ended.
        infos: Those of gymnasium: {name: (N,), _name: (N,), which environments reported it}.
        seconds: Time that the agent took to act in all environments.
        stop: (N,), for the caller to set: end these episodes after this step, whether they have ended or not.
    """

    episode: NDArray[np.int64]
    observations: NDArray[np.floating]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    next_observations: NDArray[np.floating]
    infos: dict[str, Any]
    seconds: float
    stop: NDArray[np.bool_]


class ActingError(ValueError):
    """The agent cannot act, with the words of its own error.

    Attributes:
        episodes: Indices of the episodes that it had to act in; the fault may lie in one of them alone.
    """

    def __init__(self, error: ValueError, episodes: Sequence[int]) -> None:
        super().__init__(str(error))
        self.episodes = list(episodes)


def make_environments(environment: str | EnvSpec, count: int, **kwargs: Any) -> VectorEnv:
    """Make ``count`` environments that are stepped one after the other, with flat observations and no automatic reset.

    Args:
        environment: An id (``Hopper-v5``, or ``module:Id``), or a full specification as in datasets.
        count: Number of environments.
        kwargs: Passed to the environment, such as ``render_mode``.

    Raises:
        ValueError: If the environment is unknown, or its actions are not a Box.
    """
    if count < 1:
        raise ValueError(f"{count} environments: at least 1 is needed")
    name = environment if isinstance(environment, str) else environment.id
    if name.count(":") > 1:
        raise ValueError(f"environment {name!r} cannot be made: an id is 'Id', or 'package:Id'")
    # The mazes are an extra, and gymnasium does not register them by itself.
    if name.startswith(_MAZES):
        register_robotics(name)
    try:
        environments = gymnasium.make_vec(
            environment,
            num_envs=count,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
            wrappers=[FlattenObservation],
            **kwargs,
        )
    except (gymnasium.error.Error, ModuleNotFoundError, TypeError) as error:
        if isinstance(error, TypeError) and set(kwargs) <= _OF_GYMNASIUM:
            raise  # a fault of the environment's own code
        raise ValueError(f"environment {name!r} cannot be made: {_why(name, error, kwargs)}") from error
    if not isinstance(environments.single_action_space, gymnasium.spaces.Box):
        raise ValueError(f"environment {name!r} has actions {environments.single_action_space}: only Box is supported")
    return environments


def check_seed(seed: int, name: str = "seed") -> None:
    """Refuse a seed that generators do not take.

    Args:
        seed: The seed.
        name: What the user calls it.

    Raises:
        ValueError: If it is negative or too large.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"{name} is {seed}: a whole number from 0 to 2**63 - 1 is needed")


def _why(name: str, error: Exception, kwargs: dict[str, Any]) -> str:
    """Return why an environment cannot be made, and what would be right."""
    if isinstance(error, TypeError):
        own = _parameters(name)
        unknown = [key for key in kwargs if own and key not in {*own, *_OF_GYMNASIUM}]
        if unknown:
            return f"--env_kwargs has {', '.join(unknown)}, which it does not take; it takes {', '.join(own)}"
        return f"{error}. Check --env_kwargs {kwargs}"
    if name.startswith(_MAZES) and importlib.util.find_spec("gymnasium_robotics") is None:
        return "the mazes need: pip install 'vgp_lightning[maze]'"
    near = difflib.get_close_matches(name, gymnasium.registry, n=1)
    guess = f" Did you mean {near[0]}?" if near and near[0] != name else ""
    first = (str(error).strip() or type(error).__name__).splitlines()[0].partition(" Did you mean")[0].rstrip(".")
    if isinstance(error, ModuleNotFoundError):
        what = first.partition(". ")[0]
        return f"{what}: looked among the installed packages, then in the current folder ({Path.cwd()})"
    return f"{first}.{guess} The id of an environment of another package or of a file here is 'module:Id'"


def _parameters(name: str) -> list[str]:
    """Return the arguments that an environment's constructor takes, those of its base classes included."""
    try:
        entry = gymnasium.spec(name).entry_point
        creator = gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    except (gymnasium.error.Error, ImportError, AttributeError):
        return []
    found: list[str] = []
    kinds: Sequence[Any] = creator.__mro__[:-1] if isinstance(creator, type) else [creator]
    for kind in kinds:
        for parameter in inspect.signature(kind).parameters.values():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.append(parameter.name)
        if not any(p.kind == p.VAR_KEYWORD for p in inspect.signature(kind).parameters.values()):
            break
    return list(dict.fromkeys(found))


def environment_of(environments: VectorEnv, row: int) -> gymnasium.Env[Any, Any]:
    """Return one of the environments."""
    environment: gymnasium.Env[Any, Any] = cast(SyncVectorEnv, environments).envs[row]
    return environment


def has_time_limit(environment: gymnasium.Env[Any, Any]) -> bool:
    """Return whether a wrapper ends the environment's episodes after a number of steps."""
    while isinstance(environment, gymnasium.Wrapper):
        if isinstance(environment, TimeLimit):
            return True
        environment = environment.env
    return False


def close(environments: VectorEnv) -> None:
    """Close environments. One that cannot be closed is a warning: its episodes are played and must not be lost."""
    try:
        environments.close()
    except Exception as error:  # environments raise any type
        environments.closed = True  # or its destructor tries again
        warnings.warn(f"the environments cannot be closed: {type(error).__name__}: {error}", stacklevel=2)


def rollout(
    agent: Agent, environments: VectorEnv, seeds: Sequence[int], agent_seeds: Sequence[int] | None = None
) -> Iterator[Step]:
    """Play exactly one episode per seed, several at a time, and yield every step.

    An environment whose episode ended takes the next seed; when none is left, it idles. Each episode has a seed for the
    environment and one for the agent, so it does not depend on which other episodes are played.

    Args:
        agent: What acts.
        environments: From ``make_environments``.
        seeds: Seeds of the environment, one for each episode.
        agent_seeds: Seeds of the agent, as many; by default the same.
    """
    queue = zip(seeds, seeds if agent_seeds is None else agent_seeds, strict=True)
    return step_episodes(agent, environments, lambda: next(queue, None))


def step_episodes(agent: Agent, environments: VectorEnv, take: Callable[[], tuple[int, int] | None]) -> Iterator[Step]:
    """Play the episodes that ``take`` gives, as ``rollout`` does.

    Args:
        agent: What acts.
        environments: From ``make_environments``.
        take: Called when an environment is free; returns the seeds of the environment and of the agent, or None: there
            is no episode now. The steps number the episodes in the order in which they were taken.

    Raises:
        ActingError: If the agent raises a ValueError.
    """
    count = environments.num_envs
    episode = np.full(count, -1)
    taken = 0
    observations: NDArray[np.floating] = np.zeros((count, 0))
    done = np.ones(count, dtype=bool)
    while True:
        if done.any():
            begins: list[int | None] = [None] * count
            agent_begins: list[int | None] = [None] * count
            for i in np.flatnonzero(done):
                episode[i] = -1
                if (seeds := take()) is not None:
                    episode[i], (begins[i], agent_begins[i]) = taken, seeds
                    taken += 1
            if (episode < 0).all():
                return
            # Idle environments are reset too: gymnasium refuses to step an environment whose episode has ended.
            observations, _ = environments.reset(seed=begins, options={"reset_mask": done})  # type: ignore[arg-type]
            agent.reset(agent_begins)
        start = time.perf_counter()
        try:
            actions = agent.act(observations, episode >= 0)
        except ValueError as error:
            raise ActingError(error, episode[episode >= 0].tolist()) from error
        seconds = time.perf_counter() - start
        # A copy: an environment may write into its action.
        shaped = actions.reshape(environments.action_space.shape).copy()
        following, rewards, terminated, truncated, infos = environments.step(shaped)
        stop = np.zeros(count, dtype=bool)
        yield Step(
            episode=episode.copy(),
            observations=observations,
            actions=actions,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            next_observations=following,
            infos=infos,
            seconds=seconds,
            stop=stop,
        )
        observations, done = following, terminated | truncated | stop
