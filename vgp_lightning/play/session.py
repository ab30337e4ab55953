"""Session: one episode that a planner plays step by step, while somebody watches and changes how it plans.

Shapes: K candidates, H steps of a plan, A action and O observation dimensions, T = A + O, action first; all in the
environment's units.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Unpack

import gymnasium
import numpy as np
from numpy.typing import NDArray

from vgp_lightning.agent.deployment import FIRST_SEED, Deployment, first_of
from vgp_lightning.agent.environments import Step, check_seed
from vgp_lightning.agent.episodes import Log
from vgp_lightning.agent.mazes import choose_way, find_maze, look_down, need_maze
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.pipeline.plan import Plan
from vgp_lightning.pipeline.settings import Settings
from vgp_lightning.report.film import draw_frame

FRAME_WIDTH = 480  # pixels


@dataclass(frozen=True)
class Planned:
    """A plan, and what it was chosen from.

    Attributes:
        step: The step of the episode that it was made for.
        plan: (H, T).
        value: Its predicted return; NaN without a value function.
        candidates: (K, H, T), best first; of the last plan alone, of the others none are kept.
        values: (K,), theirs.
        milliseconds: Duration of the planning call.
    """

    step: int
    plan: NDArray[np.float32]
    value: float
    candidates: NDArray[np.float32]
    values: NDArray[np.float32]
    milliseconds: float


class Session:
    """One episode, and the agent that plays it.

    A session always knows the next action: it plans for an observation as soon as it sees it. Without a change on the
    way the episode is that of ``vgp evaluate`` with this seed, to the last bit. After a change of how it plans, a new
    agent plans for the present observation, with the noise of the episode's seed from its beginning: so two plans for
    one observation differ by the settings alone.

    Attributes:
        deployed: The planner in its environment.
        maze: The environment's maze; None: it has none.
        seed: Seed of the episode: of the environment and of the agent.
        log: What has happened so far.
        observation: (O,), the present one.
        plans: All plans of the episode so far.
        reach_goal: Whether plans end at the goal of the maze.
        follow_states: Whether a position controller follows the plans' states.
        goal_moved: Whether the environment's goal was moved in this episode.
        fault: Why the episode cannot go on although the environment has not ended it; None: it can.
    """

    def __init__(
        self,
        deployed: Deployment,
        seed: int = FIRST_SEED,
        max_episode_steps: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        """Make the environment, and begin an episode.

        Args:
            deployed: The planner in its environment.
            seed: Seed of the first episode.
            max_episode_steps: Time limit of an episode; None: the environment's own.
            settings: Those in place of the folder's.

        Raises:
            ValueError: If the environment does not fit the planner, or a setting or the seed is wrong.
        """
        self.deployed = deployed
        self._settings: Settings = settings
        self._action: NDArray[np.float32] | None = None  # the next one, as soon as it is chosen
        self._stack = ExitStack()
        try:
            self._environments = self._stack.enter_context(deployed.environments(1, True, max_episode_steps))
            self.maze = find_maze(first_of(self._environments))
            self.reach_goal, self.follow_states = self.maze is not None, False
            self.reset(seed)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the environment."""
        self._stack.close()

    # ------------------------------------------------------------ the episode

    def reset(self, seed: int) -> None:
        """Begin the episode of a seed, and plan for its first observation.

        Raises:
            ValueError: If the seed is wrong, or no plan can be made.
        """
        check_seed(seed)
        options: dict[str, Any] = {"reset_mask": np.ones(1, dtype=bool)}
        observations, _ = self._environments.reset(seed=seed, options=options)
        self.seed = seed
        self.log = Log()
        self.observation: NDArray[np.floating] = observations[0].copy()
        self.plans: list[Planned] = []
        self.goal_moved = False
        self.fault: str | None = None
        self._begin(self._make_agent())

    def step(self) -> None:
        """Execute the next action, and plan for the observation after it.

        Raises:
            ValueError: If the episode has ended, the environment returns what is no number, or no plan can be made;
                in the last case the step has been executed, and the next call tries to plan once more.
        """
        if self.ended is not None:
            raise ValueError(f"the episode has ended ({self.ended}): reset begins a new one")
        action = self._decide()
        shaped = action.reshape(self._environments.action_space.shape).copy()  # environments may write into it
        following, rewards, terminated, truncated, infos = self._environments.step(shaped)
        step = Step(
            episode=np.zeros(1, np.int64),
            observations=self.observation[None],
            actions=action,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            next_observations=following,
            infos=infos,
            seconds=0.0,
            stop=np.zeros(1, dtype=bool),
        )
        self._action = None
        self.log.add(step, 0)
        self.observation = following[0].copy()
        self.fault = self.log.find_fault(whole=False)
        if self.fault is not None:
            raise ValueError(f"seed {self.seed}, step {len(self.log.rewards) - 1}: {self.fault}")
        if self.ended is None:
            self._decide()

    @property
    def ended(self) -> str | None:
        """Why the episode has ended; None: it goes on."""
        if self.fault is not None:
            return self.fault
        if self.log.terminated:
            return "the environment has terminated it"
        return "the time limit has truncated it" if self.log.truncated else None

    @property
    def environment(self) -> gymnasium.Env[Any, Any]:
        """The environment."""
        return first_of(self._environments)

    def observations(self) -> NDArray[np.floating]:
        """Return what was observed up to now, (L + 1, O)."""
        return np.stack(self.log.observations or [self.observation])

    def draw_frame(self) -> tuple[NDArray[np.uint8] | None, str | None]:
        """Return the environment as a picture (height, width, 3), or None and why there is none.

        A maze is seen from above, with the positions of the present plan.
        """
        if self.maze is None:
            return draw_frame(self.environment, FRAME_WIDTH)
        seen = self.plans[-1].plan[:, self.deployed.pipeline.action_dim :] if self.plans else None
        return draw_frame(self.environment, FRAME_WIDTH, look_down(self.maze, seen))

    # ------------------------------------------------------------ how it plans

    @property
    def resolved(self) -> Settings:
        """All settings of planning that hold."""
        return self._agent.resolved

    def change(self, **settings: Unpack[Settings]) -> None:
        """Plan with these settings in place of the present ones, from the present observation on.

        Raises:
            ValueError: If one is wrong, in which case nothing has changed; or if no plan can be made.
        """
        if all(self.resolved.get(name) == value for name, value in settings.items()):
            return
        before, self._settings = self._settings, {**self._settings, **settings}
        try:
            agent = self._make_agent()
        except ValueError:
            self._settings = before
            raise
        self._begin(agent)

    def steer(self, reach_goal: bool, follow_states: bool) -> None:
        """Say how a maze is played: whether plans end at the goal, and whether a controller follows their states.

        Raises:
            ValueError: If there is no maze, or no point in it to be led; nothing has changed then.
        """
        if (reach_goal, follow_states) == (self.reach_goal, self.follow_states):
            return
        before = self.reach_goal, self.follow_states
        self.reach_goal, self.follow_states = reach_goal, follow_states
        try:
            agent = self._make_agent()
        except ValueError:
            self.reach_goal, self.follow_states = before
            raise
        self._begin(agent)

    def aim(self, x: float, y: float) -> None:
        """Move the goal of the maze: in the environment, which pays for reaching it, and so in the observation.

        Raises:
            ValueError: If there is no maze, the place is no free cell of it, or its goal cannot be moved.
        """
        maze = need_maze(self.maze, "a goal", self.deployed.env_id)
        place = np.array([x, y], dtype=np.float64)
        inner = maze.walls.min(axis=0), maze.walls.max(axis=0)
        inside = (place > inner[0]).all() and (place < inner[1]).all()
        if not inside or (np.abs(maze.walls - place) <= maze.width / 2).all(axis=1).any():
            raise ValueError(f"({x:.2f}, {y:.2f}) is in a wall: a goal is needed in a free cell of the maze")
        inmost: Any = self.environment.unwrapped
        if not hasattr(inmost, "update_target_site_pos") or not hasattr(inmost, "goal"):
            raise ValueError(f"the goal of {self.deployed.env_id} cannot be moved: it is no maze of gymnasium_robotics")
        inmost.goal = place
        inmost.update_target_site_pos()
        # Where it is drawn until the next step, which derives it from the model.
        inmost.data.site_xpos[inmost.target_site_id] = inmost.model.site_pos[inmost.target_site_id]
        self.observation = self.observation.copy()
        self.observation[maze.goal] = place
        self.goal_moved = True
        self._begin(self._make_agent())

    def _make_agent(self) -> PlanningAgent:
        """Return an agent with the present settings.

        Raises:
            ValueError: If they are wrong.
        """
        way = choose_way(self.maze, self.deployed.env_id, self.reach_goal, self.follow_states)
        return self.deployed.agent(*way, **self._settings)

    def _begin(self, agent: PlanningAgent) -> None:
        """Let an agent go on from the present observation."""
        agent.keep_candidates = True
        agent.reset([self.seed])
        self._agent = agent
        self._action = None
        if self.ended is None:
            self._decide()

    def _decide(self) -> NDArray[np.float32]:
        """Return the next action, which is chosen once, and note the plan that was made for it."""
        if self._action is not None:
            return self._action
        made: list[Plan] = []
        self._agent.on_plan = lambda rows, plan: made.append(plan)
        begin = time.perf_counter()
        action = self._agent.act(self.observation[None])
        milliseconds = 1000 * (time.perf_counter() - begin)
        for plan in made:
            candidates = plan if plan.candidates is None else plan.candidates
            if self.plans:  # only those of the last plan are shown
                self.plans[-1] = replace(self.plans[-1], candidates=self.plans[-1].candidates[:0])
            self.plans.append(
                Planned(
                    step=len(self.log.rewards),
                    plan=plan.trajectories[0].cpu().numpy(),
                    value=float(plan.values[0]),
                    candidates=candidates.trajectories[0].cpu().numpy(),
                    values=candidates.values[0].cpu().numpy(),
                    milliseconds=milliseconds,
                )
            )
        self._action = action
        return action
