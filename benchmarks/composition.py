"""Your own objectives at test time: a speed limit for Hopper, a region to avoid in a point maze.

python -m benchmarks.composition [--hopper PIPELINE] [--maze PIPELINE] [--episodes 20] [--json FILE]

No network is trained for them. Each is a function of observations and actions in the environment's units. It guides
sampling and ranks candidates, together with the learned value (Hopper) or instead of one (the maze). Plans run on a GPU
if there is one.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from rich.console import Console
from rich.table import Table

from benchmarks.plan_returns import cut_episodes
from benchmarks.pointmaze import find_way
from vgp_lightning.agent.deployment import load_pipeline
from vgp_lightning.agent.environments import make_environments, rollout
from vgp_lightning.agent.planning import PlanningAgent

MARGIN = 0.1  # around the disc: the point has inertia and does not follow a plan exactly
FORWARD_VELOCITY = 5  # of the torso in Hopper-v5, in metres a second


def speed_limit(limit: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return an objective: minus the squared excess over the limit, summed over the plan's steps."""

    def penalty(observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        del actions
        return -(observations[..., FORWARD_VELOCITY] - limit).relu().square().sum(dim=1)

    return penalty


def keep_out(centre: tuple[float, float], radius: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return an objective: minus how deep the plan's steps are inside a disc of the maze, summed."""

    def penalty(observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        del actions
        distance = (observations[..., 4:6] - observations.new_tensor(centre)).norm(dim=-1)
        return -(radius - distance).relu().sum(dim=1)

    return penalty


def hopper_rows(folder: str, episodes: int, max_steps: int, limit: float, weights: list[float]) -> list[dict[str, Any]]:
    """Play the same seeds with the learned value alone, and with the speed limit added."""
    pipeline = load_pipeline(Path(folder))
    environments = make_environments(cut_episodes("Hopper-v5", max_steps), episodes)
    rows: list[dict[str, Any]] = []
    for weight in (0.0, *weights):
        objectives = [(1.0, pipeline.learned_value), (weight, speed_limit(limit))]
        # The last two of five denoising steps change a plan too little to slow it down; the last four suffice.
        agent = PlanningAgent(
            pipeline, objectives=objectives if weight else None, batch_size=16, warm_start_strength=0.8
        )
        speeds: list[float] = []
        returns = np.zeros(episodes)
        for step in rollout(agent, environments, range(episodes)):
            active = step.episode >= 0
            speeds += step.next_observations[active, FORWARD_VELOCITY].tolist()
            returns[step.episode[active]] += step.rewards[active]
        rows.append(
            {
                "name": f"learned value + {weight:g} x limit of {limit:g} m/s" if weight else "learned value",
                "mean_speed": float(np.mean(speeds)),
                "share_above_limit": float(np.mean(np.array(speeds) > limit)),
                "mean_excess": float(np.mean(np.maximum(np.array(speeds) - limit, 0))),
                "return_mean": float(returns.mean()),
                "length_mean": len(speeds) / episodes,
            }
        )
    environments.close()
    return rows


def maze_rows(folder: str, episodes: int, centre: tuple[float, float], radius: float) -> list[dict[str, Any]]:
    """Reach the same goals with and without a disc to keep out of."""
    pipeline = load_pipeline(Path(folder))
    environments = make_environments(pipeline.task["env_id"], episodes, continuing_task=False)
    reach_goal, follow = find_way(environments)
    rows = []
    avoiding = {
        "objectives": [(1.0, keep_out(centre, radius + MARGIN))],
        "guide_on": "clean",
        "guide_scaling": "none",  # a wall is a wall at every noise level
        "t_stopgrad": 0,
        "n_guide_steps": 5,
        "scale": 0.05,
    }
    for name, settings in (("no objective", {}), ("keep out of a disc", avoiding)):
        agent = PlanningAgent(
            pipeline,
            replan_every=10,
            conditions=reach_goal,
            controller=follow,
            batch_size=8,
            num_inference_steps=20,
            **settings,
        )
        inside = np.zeros(episodes, dtype=np.int64)
        reached = np.zeros(episodes, dtype=bool)
        for step in rollout(agent, environments, range(episodes)):
            active = step.episode >= 0
            episode = step.episode[active]
            distance = np.linalg.norm(step.next_observations[active, 4:6] - np.array(centre), axis=1)
            inside[episode] += distance < radius
            reached[episode] |= step.terminated[active]
        rows.append(
            {
                "name": name,
                "success_rate": float(reached.mean()),
                "episodes_inside": int((inside > 0).sum()),
                "steps_inside": int(inside.sum()),
            }
        )
    environments.close()
    return rows


def main() -> None:
    """Measure, print the tables, and write them as JSON if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hopper", help="exported folder of a planner for Hopper-v5")
    parser.add_argument("--maze", help="exported folder of a planner for PointMaze_UMaze-v3")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--limit", type=float, default=2.0, help="metres a second")
    parser.add_argument("--weights", type=float, nargs="+", default=[300.0, 1000.0])
    parser.add_argument("--max-steps", type=int, default=300, help="of an episode of Hopper")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable_progress_bar()
    results = {}
    if options.hopper is not None:
        results["hopper"] = hopper_rows(
            options.hopper, options.episodes, options.max_steps, options.limit, options.weights
        )
    if options.maze is not None:
        results["maze"] = maze_rows(options.maze, options.episodes, centre=(1.5, 0.0), radius=0.6)
    for name, rows in results.items():
        table = Table(title=f"{name}, {options.episodes} episodes")
        for heading in rows[0]:
            table.add_column(heading)
        for row in rows:
            table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
        Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
