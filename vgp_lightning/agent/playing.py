"""Playing: an agent plays episodes of a store until all that are wanted are finished.

Shapes: N environments.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from vgp_lightning.agent.environments import ActingError, Agent, Step, environment_of, step_episodes
from vgp_lightning.agent.episodes import Log
from vgp_lightning.agent.mazes import Maze, find_maze, look_down
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.agent.played import Played, Times, gather
from vgp_lightning.agent.store import EpisodeStore, Item, Wanted
from vgp_lightning.pipeline.plan import Plan
from vgp_lightning.report.film import Recorder

_EVERY = 60.0  # seconds between two lines of progress, where there is no progress bar
_LOOK = 0.5  # seconds between two looks at what other processes have finished


@dataclass(frozen=True)
class Keeping:
    """What is kept of an episode.

    Attributes:
        steps: Keep observations, actions and rewards.
        plans: Keep the plans of a PlanningAgent too; this uses its ``on_plan``.
        replan_every: The agent's replanning interval, which decides which of its calls count as planning; 0: it plans
            once an episode.
    """

    steps: bool = True
    plans: bool = False
    replan_every: int = 1


@dataclass(frozen=True)
class Film:
    """Films the episode of one seed; in a maze from above, with the positions of the plan that is executed.

    Attributes:
        item: The episode.
        write: Called when it has ended, before it is stored; what it returns is stored as ``film`` with it.
    """

    item: Item
    write: Callable[[Recorder], dict[str, Any]]


# Says which of the episodes that are being played have to end, of their numbers of steps so far. True: what has been
# played is kept; False: it is not needed.
Ends = Callable[[Mapping[Item, int]], Mapping[Item, bool]]


def play(
    agent: Agent,
    environments: VectorEnv,
    seeds: Sequence[int],
    *,
    agent_seeds: Sequence[int] | None = None,
    player: int = 0,
    store: EpisodeStore | None = None,
    keeping: Keeping | None = None,
    description: str = "Playing",
    film: Film | None = None,
) -> Played:
    """Play one episode per seed, or take it from the store; a progress bar shows on a terminal, else a line a minute.

    Args:
        agent: What acts.
        environments: From ``make_environments``.
        seeds: Seeds of the environment, one for each episode.
        agent_seeds: Seeds of the agent, as many; by default the same.
        player: Number of the agent in the store.
        store: Where episodes are kept, and where other processes may play some of them; None: in memory.
        keeping: What is kept of an episode.
        description: Text of the progress bar.
        film: Films one of the episodes.
    """
    store = EpisodeStore(None) if store is None else store
    keeping = Keeping() if keeping is None else keeping
    items = list_items(seeds, agent_seeds, player)

    def play_free() -> None:
        play_claimed(agent, environments, store, lambda: items, keeping, description, film=film, total=len(items))

    store.share(lambda: items, play_free)
    return gather(store, items)


def list_items(seeds: Sequence[int], agent_seeds: Sequence[int] | None = None, player: int = 0) -> list[Item]:
    """Return the episodes of these seeds; the agent's are by default the environment's."""
    pairs = zip(seeds, seeds if agent_seeds is None else agent_seeds, strict=True)
    return [(player, seed, agent_seed) for seed, agent_seed in pairs]


def play_claimed(
    agent: Agent,
    environments: VectorEnv,
    store: EpisodeStore,
    wanted: Wanted,
    keeping: Keeping,
    description: str,
    *,
    film: Film | None = None,
    ends: Ends | None = None,
    total: int | None = None,
) -> None:
    """Claim wanted episodes of a store and play them, until there are none to claim.

    Where the agent raises an error, the episodes that it had to act in are played again one by one, so that the fault
    of one does not take the others with it. An episode that fails is stored as failed, with the steps before that.

    Raises:
        ValueError: If the environment reports a success that is neither true nor false.
    """
    table = _Table(agent, environments, store, keeping, film, ends)
    console = Console(stderr=True)
    planner = agent if (keeping.plans or film is not None) and isinstance(agent, PlanningAgent) else None
    if planner is not None:
        planner.on_plan = lambda rows, plan: table.made.append((rows, plan))
    try:
        with Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task(description, total=total)

            latest = time.monotonic()

            def show() -> None:
                nonlocal latest
                text = f"{description}: {table.steps} steps, {table.ended} episodes"
                progress.update(task, completed=table.ended, description=text)
                if not console.is_terminal and time.monotonic() - latest >= _EVERY:
                    latest = time.monotonic()
                    console.print(
                        f"{text}{'' if total is None else f' of {total}'}",
                        highlight=False,
                        markup=False,
                        soft_wrap=True,
                    )

            while (suspects := table.play(lambda: store.claim(wanted), show)) is not None:
                for item in suspects:
                    single = [item]
                    table.play(lambda single=single: single.pop() if single else None, show)  # type: ignore[misc]
    finally:
        if planner is not None:
            planner.on_plan = None


@dataclass
class _Table:
    """Environments, the episodes that are played in them, and what becomes of these."""

    agent: Agent
    environments: VectorEnv
    store: EpisodeStore
    keeping: Keeping
    film: Film | None
    ends: Ends | None
    steps: int = 0
    ended: int = 0
    made: list[tuple[NDArray[np.int64], Plan]] = field(default_factory=list)  # plans since the last step
    times: Times = field(default_factory=Times)  # since the last episode that was stored
    filmed_plan: NDArray[np.float32] | None = None  # (H, T), which is executed in the episode that is filmed

    def play(self, take: Callable[[], Item | None], show: Callable[[], None]) -> list[Item] | None:
        """Play until nothing is left to take.

        Returns:
            None; or, if the agent raised an error, the episodes of which one may be at fault.
        """
        taken: list[Item] = []
        logs: dict[Item, Log] = {}
        recorder: list[Recorder] = []  # of this time: an episode that is played again is filmed again
        maze: Maze | None = None  # that is filmed

        looked = time.monotonic()

        def take_seeds() -> tuple[int, int] | None:
            if (item := take()) is None:
                return None
            taken.append(item)
            logs[item] = Log()
            return item[1:]

        try:
            for step in step_episodes(self.agent, self.environments, take_seeds):
                rows = {int(row): taken[step.episode[row]] for row in np.flatnonzero(step.episode >= 0)}
                self._note(step, rows, logs)
                for row, item in rows.items():
                    if self.film is not None and item == self.film.item:
                        if not recorder:
                            environment = environment_of(self.environments, row)
                            recorder, maze = [Recorder(environment, seed=item[1])], find_maze(environment)
                        self._record(step, row, recorder[0], maze)
                if self.ends is not None and time.monotonic() - looked > _LOOK:
                    self.store.update()  # what others have finished decides what is still needed
                    looked = time.monotonic()
                ended = self._end(step, rows, logs, recorder)
                for item in ended:
                    del logs[item]
                show()
        except ActingError as error:
            self.made.clear()
            if len(error.episodes) > 1:
                return [taken[i] for i in error.episodes]
            (item,) = (taken[i] for i in error.episodes)
            self._fail(item, logs[item], str(error))
            return []
        return None

    def _record(self, step: Step, row: int, recorder: Recorder, maze: Maze | None) -> None:
        """Film a step, in a maze from above with the plan that is executed."""
        seen = None if self.filmed_plan is None else self.filmed_plan[:, step.actions.shape[1] :]
        aerial = None if maze is None else look_down(maze, seen)
        recorder.record(step.observations[row], step.actions[row], float(step.rewards[row]), aerial)

    def _note(self, step: Step, rows: Mapping[int, Item], logs: Mapping[Item, Log]) -> None:
        """Note a step, and the plans that were made for it."""
        ages = np.array([len(logs[item].rewards) for item in rows.values()])
        self.times.add(step.seconds, bool((ages % (self.keeping.replan_every or np.inf) == 0).any()))
        for planned, plan in self.made:
            plans, values = plan.trajectories.cpu().numpy(), plan.values.tolist()
            for row, trajectory, value in zip(planned, plans, values, strict=True):
                item = rows[int(row)]
                if self.keeping.plans:
                    logs[item].add_plan(trajectory, value)
                if self.film is not None and item == self.film.item:
                    self.filmed_plan = trajectory
        self.made.clear()
        for row, item in rows.items():
            try:
                logs[item].add(step, row)
            except ValueError as error:
                raise ValueError(f"seed {item[1]}, step {len(logs[item].rewards) - 1}: {error}") from error
        self.steps += len(rows)

    def _end(
        self, step: Step, rows: Mapping[int, Item], logs: Mapping[Item, Log], recorder: Sequence[Recorder]
    ) -> list[Item]:
        """Store the episodes that have ended or have to end, and return them."""
        ended = []
        numbers = (step.rewards, step.observations, step.next_observations)
        fine = all(np.isfinite(array).all() for array in numbers)  # usually; to look at each episode takes time
        for row, item in rows.items():
            if fine and math.isfinite(logs[item].total_reward):
                continue
            if (fault := logs[item].find_fault(self.keeping.steps)) is not None:
                logs[item].drop_last()
                self._fail(item, logs[item], fault)
                step.stop[row] = True
                ended.append(item)
        going = {item: len(logs[item].rewards) for item in rows.values() if item not in ended}
        stops = {} if self.ends is None else self.ends(going)
        for row, item in rows.items():
            if item in ended or not (logs[item].ended or item in stops):
                continue
            step.stop[row] = True
            ended.append(item)
            if stops.get(item, True):
                filmed = self.film is not None and item == self.film.item
                self._store(item, logs[item].to_record(self.keeping.steps), recorder[0] if filmed else None)
        return ended

    def _store(self, item: Item, record: dict[str, Any], recorder: Recorder | None) -> None:
        if self.film is not None and recorder is not None:
            record["film"] = self.film.write(recorder)
        times = self.times
        kept = [times.calls, times.seconds, times.planning_calls, times.planning_seconds]
        self.store.finish(item, record | {"times": kept})
        self.times = Times()
        self.ended += 1

    def _fail(self, item: Item, log: Log, reason: str) -> None:
        """Store an episode as failed at the step after those of its log."""
        record = log.to_record(self.keeping.steps) if log.rewards else {}
        self._store(item, record | {"failed": {"step": len(log.rewards), "reason": reason}}, None)
