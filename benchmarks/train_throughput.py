"""Training steps per second of both networks: a plain loop as in the paper's code, and `vgp fit` on a CPU.

python -m benchmarks.train_throughput [--json FILE] [--threads 1 2] [--sizes recipes paper] [--rounds 3] [--steps 40]

`planner.yaml` at the size of the recipes (cpu/hopper.yaml: H = 8, widths 64, 128, 128) and at the paper's (H = 32,
widths 32, 64, 128, 256), batch 64, on generated data of Hopper's dimensions; the values do not affect the speed. Each
measurement is a process of its own; the rows alternate, for a number of rounds. A process's figure is the median time
from one step to the next. A row's figure is that of its fastest process, because other load on the machine only adds
time. With one thread the processor's time is the steadier figure on a busy machine. The JSON holds every process's.
"""

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks.data_scale import DATASET, make_dataset
from vgp_lightning.pipeline.networks import make_denoiser, make_noise_scheduler, make_value_function

ROOT = Path(__file__).parent.parent
ACTIONS, OBSERVATIONS, LEVELS, BATCH = 3, 11, 20, 64
TRANSITIONS, WARM_UP = 100_000, 10
REPORT = "TRAIN_THROUGHPUT_REPORT"  # names the file that a measured process writes to


class Size(NamedTuple):
    """Horizon and widths of both networks, and the config files that give them to `vgp fit`."""

    horizon: int
    widths: list[int]
    configs: tuple[str, ...]


SIZES = {
    "recipes": Size(8, [64, 128, 128], ("planner.yaml", "cpu/hopper.yaml")),
    "paper": Size(32, [32, 64, 128, 256], ("planner.yaml",)),
}
PLAIN, STOCK, OURS = "plain loop", "vgp fit, diffusers' evaluation", "vgp fit"
ROWS = {
    PLAIN: "per-item dataset, default collate, eager networks, AdamW, EMA in Python every 10 steps, .item() each step",
    STOCK: "our loader, fused AdamW, clipping, EMA every 10 steps, Health, Lightning; diffusers' networks",
    OURS: "the same, with the networks evaluated by training/fast.py",
}


class Clock(pl.Callback):
    """Records the time of each step, and writes the median seconds per step at the end."""

    def __init__(self, accelerated: bool = True) -> None:
        """Leave the accelerated evaluation on, or turn it off."""
        self.accelerated = accelerated
        self.times: list[tuple[float, float]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Turn the accelerated evaluation off in the row that measures diffusers': a network with a hook has none."""
        if not self.accelerated:
            for part in pl_module.parts:
                part.network.register_forward_hook(lambda *_: None)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Record the time, after the previous step and the loading of this step's batch."""
        if any(part.accelerated != self.accelerated for part in pl_module.parts):
            raise RuntimeError("the networks are not evaluated as the row says")
        self.times.append(now())

    def on_train_end(self, *_: Any) -> None:
        """Write the median."""
        report(self.times)


def now() -> tuple[float, float]:
    """Return the time, and the processor's time that this process has used."""
    return time.perf_counter(), time.process_time()


def report(times: list[tuple[float, float]]) -> None:
    """Write the median of the time per step, and of the processor's time, for the measuring process."""
    wall, cpu = np.median(np.diff(times[WARM_UP:], axis=0), axis=0)
    Path(os.environ[REPORT]).write_text(json.dumps({"wall": float(wall), "cpu": float(cpu)}))


class ItemDataset(Dataset[tuple[np.ndarray, dict[int, np.ndarray], np.ndarray]]):
    """Single windows with their returns, from arrays in memory, as in the paper's code."""

    def __init__(self, horizon: int, transitions: int, episode: int = 1000) -> None:
        rng = np.random.default_rng(0)
        shape = (transitions // episode, episode)
        self.horizon = horizon
        self.observations = rng.normal(size=(*shape, OBSERVATIONS)).astype(np.float32)
        self.actions = rng.uniform(-1, 1, (*shape, ACTIONS)).astype(np.float32)
        self.rewards = rng.normal(size=shape).astype(np.float32)
        self.discounts = (0.997 ** np.arange(episode)).astype(np.float32)
        self.indices = [(i, first) for i in range(shape[0]) for first in range(episode - horizon)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[int, np.ndarray], np.ndarray]:
        episode, first = self.indices[index]
        observations = self.observations[episode, first : first + self.horizon]
        actions = self.actions[episode, first : first + self.horizon]
        rewards = self.rewards[episode, first:]
        value = (self.discounts[: len(rewards)] * rewards).sum(keepdims=True)
        return np.concatenate([actions, observations], axis=1), {0: observations[0]}, value


def plain(size: str, steps: int) -> None:
    """Train as the paper's code does: the same networks, losses, batch and optimizer as ours.

    The paper's code trains the two networks in two programs; here both get the same batch, which favours this row.
    """
    horizon, widths, _ = SIZES[size]
    torch.manual_seed(0)
    networks = [make(ACTIONS + OBSERVATIONS, horizon, widths) for make in (make_denoiser, make_value_function)]
    averages = [copy.deepcopy(network) for network in networks]
    optimizers = [torch.optim.AdamW(network.parameters(), lr=2e-4) for network in networks]
    schedule = make_noise_scheduler(LEVELS, "squaredcos_cap_v2", "sample")
    weights = torch.ones(horizon, ACTIONS + OBSERVATIONS)
    weights[0, :ACTIONS], weights[0, ACTIONS:] = 10, 0
    times: list[tuple[float, float]] = []
    loader = DataLoader(ItemDataset(horizon, TRANSITIONS), BATCH, shuffle=True)
    for number, (clean, conditions, values) in enumerate(loader):
        if number == steps:
            break
        times.append(now())
        for network, optimizer in zip(networks, optimizers, strict=True):
            timesteps = torch.randint(0, LEVELS, (len(clean),))
            noised = schedule.add_noise(clean, torch.randn_like(clean), timesteps)
            noised[:, 0, ACTIONS:] = conditions[0]
            prediction = network(noised.transpose(1, 2), timesteps).sample
            if network is networks[0]:
                loss = (weights * (prediction.transpose(1, 2) - clean) ** 2).mean()
            else:
                loss = functional.mse_loss(prediction, values)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
        if number % 10 == 0:
            for average, network in zip(averages, networks, strict=True):
                for old, new in zip(average.parameters(), network.parameters(), strict=True):
                    old.data = old.data * 0.995 + (1 - 0.995) * new.data
    report(times)


def command(row: str, size: str, steps: int) -> list[str]:
    """Return the arguments of the Python process that measures a row."""
    if row == PLAIN:
        return ["-c", f"from benchmarks.train_throughput import plain; plain({size!r}, {steps})"]
    words = ["-m", "vgp_lightning.cli", "fit"]
    for config in SIZES[size].configs:
        words += ["-c", str(ROOT / "configs" / config)]
    words += ["--data.dataset_id", DATASET, "--data.batch_size", str(BATCH)]
    words += ["--trainer.accelerator", "cpu", "--trainer.max_steps", str(steps)]
    words += ["--trainer.callbacks+", "benchmarks.train_throughput.Clock"]
    return [*words, "--trainer.callbacks.init_args.accelerated", str(row == OURS).lower()]


def measure(sizes: list[str], threads: list[int], rounds: int, steps: int) -> list[dict[str, Any]]:
    """Return the rows: each one's milliseconds a step, and how many times as fast as the plain loop it is."""
    cases = [(size, count, row) for size in sizes for count in threads for row in ROWS]
    found: dict[tuple[str, int, str], list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder, TRANSITIONS)
        environment = os.environ | {
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONPATH": str(ROOT),
            REPORT: str(folder / "report.json"),
        }
        for _ in range(rounds):
            for size, count, row in cases:
                environment["OMP_NUM_THREADS"] = str(count)
                words = [sys.executable, *command(row, size, steps)]
                subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)
                found[size, count, row].append(json.loads((folder / "report.json").read_text()))
    rows = []
    for size, count, row in cases:
        own, of_plain = (
            {kind: min(one[kind] for one in found[size, count, name]) for kind in ("wall", "cpu")}
            for name in (row, PLAIN)
        )
        figures = {
            "ms": 1e3 * own["wall"],
            "steps_per_second": 1 / own["wall"],
            "ratio": of_plain["wall"] / own["wall"],
            "cpu_ms": 1e3 * own["cpu"],
            "cpu_ratio": of_plain["cpu"] / own["cpu"],
            "all_ms": [1e3 * one["wall"] for one in found[size, count, row]],
            "all_cpu_ms": [1e3 * one["cpu"] for one in found[size, count, row]],
        }
        rows.append({"size": size, "threads": count, "name": row, "what": ROWS[row]} | figures)
    return rows


def main() -> None:
    """Measure, print the table, and write it as JSON if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    rows = measure(options.sizes, options.threads, options.rounds, options.steps)
    table = Table(
        *("size", "threads", "", "ms a step", "times as fast", "ms of processors", "ratio"),
        title=f"Training both networks on a CPU, batch {BATCH}",
    )
    for row in rows:
        table.add_row(
            *(row["size"], str(row["threads"]), row["name"]),
            *(f"{row['ms']:.1f}", f"{row['ratio']:.2f}", f"{row['cpu_ms']:.1f}", f"{row['cpu_ratio']:.2f}"),
        )
    Console().print(table)
    if options.json is not None:
        result = {"device": "cpu", "machine": platform.processor() or platform.machine(), "rows": rows}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
