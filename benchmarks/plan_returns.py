"""What the rows of the planning benchmark return with a trained planner, on the same seeds, and differences of pairs.

python -m benchmarks.plan_returns FOLDER [--episodes 16] [--max-steps N] [--json FILE]

The slow row takes nearly all of the time, hours on two cores: --max-steps shortens the episodes.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from rich.console import Console
from rich.table import Table

from benchmarks.plan_calls import load
from benchmarks.plan_rows import ROWS, SAME
from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.evaluation.evaluation import evaluate_agent
from vgp_lightning.report.files import write_report
from vgp_lightning.report.statistics import compare_pairs, summarize

# One environment, 16 plans or the slow row's 64; the slow row comes last.
PLAYED = sorted(
    (
        row
        for row in ROWS
        if row.size == "paper" and row.kind == "planner" and row.environments == 1
        if row.plans == 16 or row.name == SAME
    ),
    key=lambda row: row.name == SAME,
)


def cut_episodes(env_id: str, max_steps: int | None) -> EnvSpec:
    """Return an environment's specification, with this limit on the steps of an episode if one is given."""
    specification = copy.deepcopy(gymnasium.spec(env_id))
    specification.max_episode_steps = max_steps or specification.max_episode_steps
    return specification


def act(folder: Path, episodes: int, max_steps: int | None) -> list[dict[str, Any]]:
    """Return each row's returns on the same seeds, and their paired differences to the slow row."""
    pipeline = load(str(folder))
    specification = cut_episodes(pipeline.task["env_id"], max_steps)
    environments = make_environments(specification, episodes)
    returns: dict[str, list[float]] = {}
    for row in PLAYED:
        agent = PlanningAgent(pipeline, **row.settings)
        report = evaluate_agent(agent, environments, range(episodes), description=row.name)
        returns[row.name] = [episode["return"] for episode in report["episodes"]]
        Console(stderr=True).print(f"{row.name}: {report['return_mean']:.0f} {report['return_ci95']}", markup=False)
    environments.close()
    results = []
    for name, values in returns.items():
        own, difference = summarize(values), compare_pairs(np.array(values) - np.array(returns[SAME]))
        results.append(
            {
                "name": name,
                "episodes": episodes,
                "max_episode_steps": specification.max_episode_steps,
                "return_mean": own.mean,
                "return_ci95": own.ci95,
                "minus_slow_mean": difference.difference,
                "minus_slow_ci95": difference.ci95,
            }
        )
    return results


def main() -> None:
    """Play, print the table, and write the numbers as JSON if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", type=Path, help="folder whose networks the rows act with")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--max-steps", type=int, help="cut the episodes to this length")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = act(options.pipeline, options.episodes, options.max_steps)
    table = Table(title=f"{options.episodes} episodes")
    for heading in ("row", "return", "95 %", f"minus {SAME}", "95 %"):
        table.add_column(heading, justify="left" if heading == "row" else "right")
    for row in rows:
        cells = []
        for mean, interval in (("return_mean", "return_ci95"), ("minus_slow_mean", "minus_slow_ci95")):
            cells += [f"{row[mean]:.0f}", "{:.0f} to {:.0f}".format(*row[interval]) if row[interval] else ""]
        table.add_row(row["name"], *cells)
    Console().print(table)
    if options.json is not None:
        write_report({"rows": rows}, options.json)


if __name__ == "__main__":
    main()
