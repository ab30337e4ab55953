"""Training steps per second: a plain loop as in the paper's code, and `vgp fit` with the settings for a CPU.

python -m benchmarks.train_throughput [--json FILE] [--threads 2] [--rounds 5] [--steps 60]

The denoiser at the paper's widths, batch 64, H = 32, on generated data of Hopper's dimensions; the values do not affect
the speed. Each measurement is a process of its own; the rows alternate, for a number of rounds. A process's figure is
the median time from one step to the next. A row's figure is that of its fastest process, because other load on the
machine only adds time: where others use the memory bandwidth, `vgp fit` loses more than the plain loop. The JSON holds
the figures of all processes.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from benchmarks.data_scale import DATASET, make_dataset
from vgp_lightning.pipeline.networks import make_denoiser, make_noise_scheduler

ROOT = Path(__file__).parent.parent
ACTIONS, OBSERVATIONS, HORIZON, LEVELS, BATCH, WIDTHS = 3, 11, 32, 20, 64, [32, 64, 128, 256]
TRANSITIONS, WARM_UP = 100_000, 10
REPORT = "TRAIN_THROUGHPUT_REPORT"  # names the file that a measured process writes to
PLAIN, OURS = "plain loop", "vgp fit"
ROWS = {
    PLAIN: "per-item dataset, default collate, eager network, AdamW, EMA in Python every 10 steps, .item() each step",
    "vgp fit, diffusers' evaluation": "our loader, fused AdamW, EMA every 10 steps, Lightning",
    OURS: "the same, with the networks evaluated by training/fast.py",
}


class Clock(pl.Callback):
    """Records the time of each step, and writes the median seconds per step at the end."""

    def __init__(self, accelerated: bool = True) -> None:
        """Leave the accelerated evaluation on, or turn it off."""
        self.accelerated = accelerated
        self.times: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Turn the accelerated evaluation off in the row that measures diffusers' evaluation."""
        for part in pl_module.parts:
            part.accelerated = part.accelerated and self.accelerated

    def on_train_batch_start(self, *_: Any) -> None:
        """Record the time, after the previous step and the loading of this step's batch."""
        self.times.append(time.perf_counter())

    def on_train_end(self, *_: Any) -> None:
        """Write the median."""
        report(self.times)


def report(times: list[float]) -> None:
    """Write the median seconds per step for the measuring process."""
    steps = np.diff(times[WARM_UP:])
    Path(os.environ[REPORT]).write_text(json.dumps({"seconds": float(np.median(steps)), "steps": len(steps)}))


class ItemDataset(Dataset[tuple[np.ndarray, dict[int, np.ndarray]]]):
    """Single windows from arrays in memory, as in the paper's code."""

    def __init__(self, transitions: int, episode: int = 1000) -> None:
        rng = np.random.default_rng(0)
        shape = (transitions // episode, episode)
        self.observations = rng.normal(size=(*shape, OBSERVATIONS)).astype(np.float32)
        self.actions = rng.uniform(-1, 1, (*shape, ACTIONS)).astype(np.float32)
        self.indices = [(i, first) for i in range(shape[0]) for first in range(episode - HORIZON)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        episode, first = self.indices[index]
        observations = self.observations[episode, first : first + HORIZON]
        actions = self.actions[episode, first : first + HORIZON]
        return np.concatenate([actions, observations], axis=1), {0: observations[0]}


def plain(steps: int) -> None:
    """Train as the paper's code does: the same network, loss, batch and optimizer as ours."""
    torch.manual_seed(0)
    network = make_denoiser(ACTIONS + OBSERVATIONS, HORIZON, WIDTHS)
    average = copy.deepcopy(network)
    schedule = make_noise_scheduler(LEVELS, "squaredcos_cap_v2", "sample")
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-4)
    weights = torch.ones(HORIZON, ACTIONS + OBSERVATIONS)
    weights[0, :ACTIONS], weights[0, ACTIONS:] = 10, 0
    times: list[float] = []
    for number, (clean, conditions) in enumerate(DataLoader(ItemDataset(TRANSITIONS), BATCH, shuffle=True)):
        if number == steps:
            break
        times.append(time.perf_counter())
        timesteps = torch.randint(0, LEVELS, (len(clean),))
        noised = schedule.add_noise(clean, torch.randn_like(clean), timesteps)
        noised[:, 0, ACTIONS:] = conditions[0]
        prediction = network(noised.transpose(1, 2), timesteps).sample.transpose(1, 2)
        loss = (weights * (prediction - clean) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if number % 10 == 0:
            for old, new in zip(average.parameters(), network.parameters(), strict=True):
                old.data = old.data * 0.995 + (1 - 0.995) * new.data
        loss.item()
    report(times)


def command(row: str, steps: int) -> list[str]:
    """Return the arguments of the Python process that measures a row."""
    if row == PLAIN:
        return ["-c", f"from benchmarks.train_throughput import plain; plain({steps})"]
    words = ["-m", "vgp_lightning.cli", "fit"]
    for config in ("denoiser.yaml", "hardware/cpu.yaml"):
        words += ["-c", str(ROOT / "configs" / config)]
    words += ["--data.dataset_id", DATASET, "--data.horizon", str(HORIZON), "--data.batch_size", str(BATCH)]
    words += ["--model.init_args.widths", str(WIDTHS), "--trainer.max_steps", str(steps)]
    words += ["--trainer.callbacks+", "benchmarks.train_throughput.Clock"]
    return [*words, "--trainer.callbacks.init_args.accelerated", str(row == OURS).lower()]


def main() -> None:
    """Measure, print the table, and write it as JSON if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {row: [] for row in ROWS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder, TRANSITIONS)
        environment = os.environ | {
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": str(options.threads),
            REPORT: str(folder / "report.json"),
        }
        for _ in range(options.rounds):
            for row in ROWS:
                words = [sys.executable, *command(row, options.steps)]
                subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)
                seconds[row].append(json.loads((folder / "report.json").read_text())["seconds"])
    rows = [
        {
            "name": row,
            "what": what,
            "ms": 1e3 * min(seconds[row]),
            "all_ms": [1e3 * s for s in seconds[row]],
        }
        for row, what in ROWS.items()
    ]
    for row in rows:
        row["steps_per_second"] = 1e3 / row["ms"]
        row["ratio"] = rows[0]["ms"] / row["ms"]
    table = Table(
        "", "ms a step", "steps a second", "times as fast", title=f"CPU, {options.threads} threads, batch {BATCH}"
    )
    for row in rows:
        table.add_row(row["name"], f"{row['ms']:.1f}", f"{row['steps_per_second']:.1f}", f"{row['ratio']:.2f}")
    Console().print(table)
    if options.json is not None:
        result = {"device": "cpu", "threads": options.threads, "rows": rows, "ratio": rows[-1]["ratio"]}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
