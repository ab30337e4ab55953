"""Ten million transitions: seconds and memory to build the cache, and to the first training step, cold and warm.

python -m benchmarks.data_scale [--transitions 10000000] [--json FILE] [--folder FOLDER] [--steps 50] [--threads 1]

The dataset is generated noise (Hopper's dimensions, episodes of 1000 steps). All files are in a temporary folder, about
2.5 GB at that size, which is removed at the end. A dataset of a tenth of the size is measured for comparison. Each
figure comes from a process of its own that starts with none of its files in the page cache. Memory is read from Linux's
/proc: anonymous memory is what a process allocates; resident memory also counts the pages of mapped files, which the
kernel can reclaim.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from rich.console import Console
from rich.table import Table

from vgp_lightning.data.module import MinariDataModule

ROOT = Path(__file__).parent.parent
DATASET, STEPS, OBSERVATIONS, ACTIONS = "scale/noise-v0", 1000, 11, 3
WRITTEN = 100  # episodes per opening of the file, which bounds the writer's memory
REPORT = "DATA_SCALE_REPORT"  # names the file that a measured process writes to


class FirstStep(pl.Callback):
    """Records the time at which the first training step ends."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Write the time, once."""
        if trainer.global_step == 1:
            report({"first_step": time.monotonic()})


def report(figures: dict[str, float]) -> None:
    """Write figures for the measuring process."""
    Path(os.environ[REPORT]).write_text(json.dumps(figures))


def build() -> None:
    """Build the cache, in a process of its own."""
    data = MinariDataModule(DATASET)
    before, start = memory("self")["RssAnon"], time.perf_counter()
    data.prepare_data()
    report({"anonymous_before": before, "build_s": time.perf_counter() - start})


def memory(process: int | str) -> dict[str, float]:
    """Return the memory of a running process in MB: current anonymous and peak resident memory."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return {}
    lines = (line.split() for line in status.splitlines())
    return {line[0][:-1]: int(line[1]) / 1000 for line in lines if line[0] in ("RssAnon:", "VmHWM:")}


def measure(command: list[str], folder: Path, threads: int) -> dict[str, float]:
    """Run a command on the folder's dataset and cache; return what it reports, and the peaks of its memory."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    found = folder / "report.json"
    environment = os.environ | {
        "MINARI_DATASETS_PATH": str(folder / "minari"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(threads),
        REPORT: str(found),
    }
    start = time.monotonic()
    with (folder / "log.txt").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        anonymous = resident = 0.0
        while process.poll() is None:
            now = memory(process.pid)
            anonymous = max(anonymous, now.get("RssAnon", 0))
            resident = max(resident, now.get("VmHWM", 0))
            time.sleep(0.01)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{command} failed:\n{log.read()}")
    figures: dict[str, float] = json.loads(found.read_text())
    if "first_step" in figures:
        figures["first_step"] -= start
    return figures | {"anonymous": anonymous, "resident": resident}


def make_dataset(folder: Path, transitions: int) -> None:
    """Write episodes of noise, some at a time; every second one is terminated."""
    rng = np.random.default_rng(0)
    last = np.arange(STEPS) == STEPS - 1

    def episodes(numbers: range) -> Iterator[EpisodeBuffer]:
        for number in numbers:
            yield EpisodeBuffer(
                observations=rng.normal(size=(STEPS + 1, OBSERVATIONS)),
                actions=rng.uniform(-1, 1, (STEPS, ACTIONS)).astype(np.float32),
                rewards=rng.normal(size=STEPS),
                terminations=last & (number % 2 == 0),
                truncations=last & (number % 2 == 1),
            )

    os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari")
    count = transitions // STEPS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari asks for an author and an environment
        dataset = minari.create_dataset_from_buffers(
            DATASET,
            list(episodes(range(1))),
            observation_space=spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float64),
            action_space=spaces.Box(-1, 1, (ACTIONS,), np.float32),
            algorithm_name="noise",
            description="Noise of Hopper's dimensions.",
        )
    for first in range(1, count, WRITTEN):
        dataset.storage.update_episodes(episodes(range(first, min(first + WRITTEN, count))))


def size(folder: Path) -> float:
    """Return the MB that a folder's files take."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def measure_all(folder: Path, transitions: int, steps: int, threads: int) -> dict[str, float]:
    """Return the figures of one dataset."""
    make_dataset(folder, transitions)
    fit = ["-c", "from vgp_lightning.cli import main; main()", "fit"]
    for config in ("denoiser.yaml", "hardware/cpu.yaml"):
        fit += ["-c", str(ROOT / "configs" / config)]
    fit += ["--data.dataset_id", DATASET, "--trainer.max_steps", str(steps)]
    fit += ["--trainer.callbacks+", "benchmarks.data_scale.FirstStep"]
    built = measure(["-c", "from benchmarks.data_scale import build; build()"], folder, threads)
    cache = size(folder / "cache")
    shutil.rmtree(folder / "cache")
    cold = measure(fit, folder, threads)
    warm = measure(fit, folder, threads)
    return {
        "transitions": transitions,
        "dataset_mb": size(folder / "minari"),
        "cache_mb": cache,
        "build_s": built["build_s"],
        "build_anonymous_before_mb": built["anonymous_before"],
        "build_anonymous_peak_mb": built["anonymous"],
        "build_resident_peak_mb": built["resident"],
        "cold_first_step_s": cold["first_step"],
        "warm_first_step_s": warm["first_step"],
        "train_cold_anonymous_peak_mb": cold["anonymous"],
        "train_warm_anonymous_peak_mb": warm["anonymous"],
        "train_warm_resident_peak_mb": warm["resident"],
    }


def main() -> None:
    """Measure, print the table, and write it as JSON if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transitions", type=int, default=10_000_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made (default: the system's)")
    parser.add_argument("--steps", type=int, default=50, help="training steps")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    rows = []
    for transitions in (options.transitions // 10, options.transitions):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows.append(measure_all(Path(folder), transitions, options.steps, options.threads))
    table = Table(title=f"CPU, {options.threads} threads; {options.steps} training steps")
    table.add_column("")
    for row in rows:
        table.add_column(f"{row['transitions']:,} transitions".replace(",", " "), justify="right")
    for key in [key for key in rows[0] if key != "transitions"]:
        name, unit = key.rsplit("_", 1)
        cells = [f"{row[key]:.1f} s" if unit == "s" else f"{row[key]:.0f} MB" for row in rows]
        table.add_row(name.replace("_", " "), *cells)
    Console().print(table)
    if options.json is not None:
        options.json.write_text(json.dumps({"threads": options.threads, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
