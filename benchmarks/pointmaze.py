"""Reach random goals in a point maze by inpainting: the goal is where the plan must end.

python -m benchmarks.pointmaze PIPELINE [--episodes 60] [--picture FILE] [--json FILE] [--set NAME=VALUE ...]

Rows: what acts (a position controller that follows the planned states, or the plan's own actions), and whether it plans
once per episode or every few steps. An episode succeeds if the point comes within 0.45 of the goal (the environment's
rule) within its 300, 600 or 800 steps. The environment draws start and goal from its seed. Plans run on a GPU if there
is one.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from diffusers.utils import logging
from gymnasium.vector import VectorEnv
from rich.console import Console
from rich.table import Table

from vgp_lightning.agent.controllers import Controller
from vgp_lightning.agent.deployment import first_of, load_pipeline
from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.mazes import end_at_goal, find_maze, follow_plans, need_maze
from vgp_lightning.agent.planning import Conditions, PlanningAgent
from vgp_lightning.diagnostics.denoising import plot_paths
from vgp_lightning.evaluation.evaluation import evaluate_agent
from vgp_lightning.pipeline.plan import Plan
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline


def find_way(environments: VectorEnv) -> tuple[Conditions, Controller]:
    """Return what makes plans end at the goal, and what leads the point along their states."""
    first = first_of(environments)
    maze = need_maze(find_maze(first), "the benchmark", str(first.spec and first.spec.id))
    return end_at_goal(maze), follow_plans(maze)


def measure(
    pipeline: ValueGuidedPlannerPipeline, environments: VectorEnv, episodes: int, replan_every: int, **settings: Any
) -> list[dict[str, Any]]:
    """Play the same seeds for each row."""
    rows: list[dict[str, Any]] = []
    reach_goal, follow = find_way(environments)
    for actor, controller in (("position controller", follow), ("plan's own actions", None)):
        for replan in (0, replan_every):
            agent = PlanningAgent(
                pipeline, replan_every=replan, conditions=reach_goal, controller=controller, **settings
            )
            report = evaluate_agent(agent, environments, range(episodes), replan_every=replan)
            rows.append(
                {
                    "actor": actor,
                    "plans": "once" if replan == 0 else f"every {replan} steps",
                    "success_rate": report["success_rate"],
                    "ci95": report["success_rate_ci95"],
                    "steps_mean": report["length_mean"],
                    "plan_ms": report["plan_ms"],
                    "failed_seeds": [e["seed"] for e in report["episodes"] if not e["success"]],
                }
            )
    return rows


def draw(environments: VectorEnv, plans: Plan, path: Path) -> None:
    """Draw some environments' candidates in the maze, from the start (a dot) to the goal (a star)."""
    maze = find_maze(first_of(environments))
    if maze is None or plans.candidates is None:
        raise ValueError("a picture needs an environment with a maze and plans with return_candidates=True")
    observations = plans.candidates.observations[:6].cpu().numpy()  # (N, K, H, O), the best first
    goals = observations[:, 0, 0, maze.goal]
    title = "Plans in the maze, from the dot to the star"
    plot_paths(observations[..., maze.position], goals, [0] * len(goals), maze, title).savefig(path, dpi=80)


def main() -> None:
    """Measure, print the table, draw, and write it as JSON if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", help="exported folder of a planner for PointMaze_*")
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--replan-every", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the planner")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable_progress_bar()
    pipeline = load_pipeline(Path(options.pipeline))
    settings = {name: yaml.safe_load(value) for name, value in (entry.split("=", 1) for entry in options.set)}
    environment = pipeline.task["env_id"]
    # Each episode ends where the goal is reached.
    environments = make_environments(environment, min(options.episodes, 20), continuing_task=False)
    if options.picture is not None:
        observations, _ = environments.reset(seed=list(range(environments.num_envs)))
        reach_goal, _ = find_way(environments)
        draw(
            environments,
            pipeline(observations, conditions=reach_goal(observations), **settings | {"return_candidates": True}),
            options.picture,
        )
    rows = measure(pipeline, environments, options.episodes, options.replan_every, **settings)
    environments.close()
    table = Table(title=f"{environment}: {options.episodes} random starts and goals, {settings}")
    for heading in ("who acts", "planned", "success", "95 %", "steps", "ms a planning call"):
        table.add_column(heading)
    for row in rows:
        low, high = row["ci95"]
        table.add_row(
            row["actor"],
            row["plans"],
            f"{row['success_rate']:.0%}",
            f"{low:.0%} to {high:.0%}",
            f"{row['steps_mean']:.0f}",
            f"{row['plan_ms']:.0f}",
        )
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps({"environment": environment, "settings": settings, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
