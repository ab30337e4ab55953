"""Milliseconds per planning step of the stock diffusers pipeline and ours: same weights, same threads, one process.

python -m benchmarks.plan_latency [--json FILE] [--threads 2] [--rounds 5]
    [--pipeline FOLDER [--episodes 16] [--max-steps N]]

The timed networks are the paper's for Hopper (H = 32, T = 20) with random weights, which do not affect the speed. With
--pipeline, such as the demo's, some rows also act with that folder's networks, on the same seeds, and the table shows
their returns. The slow row takes nearly all of that time, hours on two cores: --max-steps shortens the episodes.
"""

import argparse
import contextlib
import copy
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from diffusers.experimental import ValueGuidedRLPipeline
from diffusers.utils import logging
from gymnasium.envs.registration import EnvSpec
from rich.console import Console
from rich.table import Table

from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.evaluation.evaluation import evaluate_agent
from vgp_lightning.pipeline.networks import make_denoiser, make_noise_scheduler, make_value_function
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.stock import StockEnvironment
from vgp_lightning.report.statistics import compare_pairs, summarize

ACTIONS, OBSERVATIONS, HORIZON, LEVELS, WIDTHS = 3, 11, 32, 20, (32, 64, 128, 256)
STOCK, SLOW = "stock ValueGuidedRLPipeline", "same work"


@dataclass(frozen=True)
class Row:
    """A measurement of our pipeline."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    environments: int = 1
    warm: bool = False
    plays: bool = False


FIVE = {"sampler": "ddim", "num_inference_steps": 5}
PAPER = {
    "sampler": "ddpm",
    "num_inference_steps": LEVELS,
    "batch_size": 64,
    "n_guide_steps": 2,
    "warm_start_strength": 1.0,
}
DEFAULT = FIVE | {"batch_size": 16, "n_guide_steps": 0, "warm_start_strength": 1.0}
GUIDED = DEFAULT | {"n_guide_steps": 1}
WARM = {"warm_start_strength": 0.4}
ROWS = [
    Row(SLOW, PAPER, plays=True),
    Row("DDIM 5 steps", FIVE | {"batch_size": 64, "n_guide_steps": 2}),
    Row("DDIM 5 steps, best of 16 (export's default)", DEFAULT, plays=True),
    Row("DDIM 5 steps, 16 plans, 1 guide step", GUIDED, plays=True),
    Row("warm start (2 of 5 steps), 16 plans, 1 guide step", GUIDED | WARM, warm=True, plays=True),
    Row("warm start (2 of 5 steps), best of 16", DEFAULT | WARM, warm=True, plays=True),
    Row("export's default, N = 8 environments", DEFAULT, 8),
    Row("export's default, N = 32 environments", DEFAULT, 32),
]


def make_folder(folder: str) -> None:
    """Write a planner with random weights."""
    torch.manual_seed(0)
    dimensions = ACTIONS + OBSERVATIONS
    ValueGuidedPlannerPipeline(
        make_denoiser(dimensions, HORIZON, WIDTHS),
        make_noise_scheduler(LEVELS, "squaredcos_cap_v2", "sample"),
        make_value_function(dimensions, HORIZON, WIDTHS),
        normalization={
            "action_dim": ACTIONS,
            "shift": [0.0] * dimensions,
            "scale": [1.0] * dimensions,
            "return_shift": 0.0,
            "return_scale": 1.0,
            "action_low": [None] * ACTIONS,
            "action_high": [None] * ACTIONS,
        },
    ).save_pretrained(folder)


def make_steps(folder: str, device: str) -> dict[str, Callable[[], Any]]:
    """Return a function per row that takes one planning step."""
    ours = ValueGuidedPlannerPipeline.from_pretrained(folder).to(device)
    stock = ValueGuidedRLPipeline.from_pretrained(folder, env=StockEnvironment(folder)).to(device)
    observation = np.zeros(OBSERVATIONS, dtype=np.float32)

    def stock_step() -> Any:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
            return stock(observation, batch_size=64, planning_horizon=HORIZON, n_guide_steps=2, scale=0.1)

    def make_step(row: Row) -> Callable[[], Any]:
        observations = np.repeat(observation[None], row.environments, axis=0)
        plans = torch.zeros(row.environments, HORIZON, ACTIONS + OBSERVATIONS) if row.warm else None
        return lambda: ours(observations, warm_start=plans, **row.settings)

    return {STOCK: stock_step} | {row.name: make_step(row) for row in ROWS}


def measure(steps: dict[str, Callable[[], Any]], rounds: int, device: str) -> dict[str, float]:
    """Return each row's median seconds; the rows alternate, so a drift of the machine's speed affects all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if device != "cpu":
                torch.cuda.synchronize()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def cut_episodes(env_id: str, max_steps: int | None) -> EnvSpec:
    """Return an environment's specification, with this limit on the steps of an episode if one is given."""
    specification = copy.deepcopy(gymnasium.spec(env_id))
    specification.max_episode_steps = max_steps or specification.max_episode_steps
    return specification


def act(folder: Path, episodes: int, max_steps: int | None, device: str) -> dict[str, dict[str, Any]]:
    """Return each row's returns on the same seeds, and their paired differences to the slow row."""
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder).to(device)
    specification = cut_episodes(pipeline.task["env_id"], max_steps)
    environments = make_environments(specification, episodes)
    returns: dict[str, list[float]] = {}
    for row in sorted((row for row in ROWS if row.plays), key=lambda row: row.name == SLOW):
        agent = PlanningAgent(pipeline, **row.settings)
        report = evaluate_agent(agent, environments, range(episodes), description=row.name)
        returns[row.name] = [episode["return"] for episode in report["episodes"]]
        Console(stderr=True).print(f"{row.name}: {report['return_mean']:.0f} {report['return_ci95']}", markup=False)
    environments.close()
    results = {}
    for name, values in returns.items():
        own, difference = summarize(values), compare_pairs(np.array(values) - np.array(returns[SLOW]))
        results[name] = {
            "episodes": episodes,
            "max_episode_steps": specification.max_episode_steps,
            "return_mean": own.mean,
            "return_ci95": own.ci95,
            "minus_slow_mean": difference.difference,
            "minus_slow_ci95": difference.ci95,
        }
    return results


def main() -> None:
    """Measure, print the table, and write it as JSON if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pipeline", type=Path, help="folder whose networks the rows act with")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--max-steps", type=int, help="cut the episodes to this length")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder)
        seconds = measure(make_steps(folder, device), options.rounds, device)
    played = act(options.pipeline, options.episodes, options.max_steps, device) if options.pipeline is not None else {}
    plans = {row.name: row.settings["batch_size"] * row.environments for row in ROWS} | {STOCK: 64}
    results = [
        {
            "name": name,
            "ms_per_step": 1000 * taken,
            "ratio_to_stock": seconds[STOCK] / taken,
            "plans_per_second": plans[name] / taken,
            **played.get(name, {}),
        }
        for name, taken in seconds.items()
    ]
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {options.threads} threads"
    table = Table(title=f"H = {HORIZON}, T = {LEVELS}, widths {WIDTHS}; {name}; median of {options.rounds}")
    headings = ["row", "ms a step", "times stock", "plans a second"]
    for heading in headings + (["return", "95 %", "minus slow row", "95 %"] if played else []):
        table.add_column(heading, justify="left" if heading == "row" else "right")
    for row in results:
        cells = [f"{row[key]:.1f}" for key in ("ms_per_step", "ratio_to_stock", "plans_per_second")]
        for mean, interval in (("return_mean", "return_ci95"), ("minus_slow_mean", "minus_slow_ci95")):
            if mean in row:
                cells += [f"{row[mean]:.0f}", "{:.0f} to {:.0f}".format(*row[interval]) if row[interval] else ""]
        table.add_row(row["name"], *cells)
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps({"device": name, "rows": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
