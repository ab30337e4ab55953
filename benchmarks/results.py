"""Run the recipes end to end and keep their results, from which RESULTS.md is made.

python -m benchmarks.results [RECIPE ...] [--machine cpu|gpu] [--episodes 20] [--jobs 2] [--folder runs/results]

A recipe is a dataset of configs/data, the sizes of its environment in configs/cpu (on a GPU the paper's, with
configs/hardware/gpu.yaml) and the planner's settings in configs/evaluate. For each: `vgp fit` of both networks,
`vgp export`, four planners on the same seeds, `vgp diagnose`, and the time of a planning call when nothing else runs.
A step whose result exists is not repeated, so the same command resumes after an interruption. The results go to
benchmarks/results/MACHINE/RECIPE.json, and RESULTS.md is made again (benchmarks.results_page).
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import minari
import torch
import yaml
from diffusers.utils import logging
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks import results_page
from vgp_lightning.agent.deployment import load_pipeline, measure_latency
from vgp_lightning.diagnostics.diagnosis import diagnose
from vgp_lightning.evaluation.comparison import compare
from vgp_lightning.evaluation.evaluation import evaluate
from vgp_lightning.export.trained import export
from vgp_lightning.report.files import write_report
from vgp_lightning.report.statistics import summarize

CONFIGS = results_page.ROOT / "configs"
# The settings of each planner that differ from the recipe's.
PLANNERS: dict[str, dict[str, Any]] = {
    "unguided": {"batch_size": 1, "n_guide_steps": 0},
    "best of K": {"n_guide_steps": 0},
    "guided": {"batch_size": 1},
    "guided, best of K": {},
}
FIRST_SEED = 5_000_000  # far from the seeds of the data, of tuning and of manual trials
AT_ONCE = 20  # environments that are stepped together


def overlays(recipe: str, machine: str) -> list[Path]:
    """Return the recipe's training configs, base first."""
    environment = recipe.split("-")[0]
    sizes = CONFIGS / "cpu" / f"{environment}.yaml" if machine == "cpu" else CONFIGS / "hardware" / "gpu.yaml"
    return [CONFIGS / "planner.yaml", CONFIGS / "data" / f"{recipe}.yaml", sizes]


def train(recipe: str, machine: str, folder: Path) -> Path:
    """Train both networks, or resume an interrupted run, and return the last checkpoint."""
    with (folder / "fit.log").open("a") as log:
        subprocess.run(
            [
                *(sys.executable, "-m", "vgp_lightning.cli", "fit"),
                *(word for file in overlays(recipe, machine) for word in ("-c", str(file))),
                *("--trainer.logger.init_args.save_dir", str(folder), "--ckpt_path", "last"),
            ],
            check=True,
            stdout=log,
            stderr=log,
        )
    return last_checkpoint(folder)


def last_checkpoint(folder: Path) -> Path:
    """Return the path of a recipe's last checkpoint."""
    return folder / "planner" / "version_0" / "checkpoints" / "last.ckpt"


def describe_training(folder: Path) -> dict[str, Any]:
    """Return what was trained, an estimate of its time, and the last validation.

    ``minutes`` are the training steps divided by the median rate of training steps. The time of validation,
    checkpoints and the start of the run is left out.
    """
    run = last_checkpoint(folder).parent.parent
    config = yaml.safe_load((run / "config.yaml").read_text())
    events = EventAccumulator(str(run))
    events.Reload()
    scalars = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    steps = config["trainer"]["max_steps"]
    on_gpu = config["trainer"]["accelerator"] == "gpu"
    threads = torch.get_num_threads()
    return {
        "steps": steps,
        "minutes": steps / statistics.median(scalars["train/steps_per_second"]) / 60,
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {threads} thread{'s' * (threads > 1)}",
        **{name: config["data"][name] for name in ("horizon", "discount", "batch_size")},
        **{name: config["model"]["init_args"][name] for name in ("widths", "learning_rate", "num_train_timesteps")},
        "validation": {tag: values[-1] for tag, values in sorted(scalars.items()) if tag.startswith("val")},
    }


def describe_dataset(dataset_id: str) -> dict[str, Any]:
    """Return a summary of the episode returns of a dataset, those of its behaviour policy."""
    dataset = minari.load_dataset(dataset_id)
    returns = [float(episode.rewards.sum()) for episode in dataset.iterate_episodes()]
    return {"id": dataset_id, "steps": int(dataset.total_steps), "episodes": len(returns), **asdict(summarize(returns))}


def run(recipe: str, machine: str, episodes: int, folder: Path) -> None:
    """Run all steps of a recipe except the timing, and leave the results in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = folder / "pipeline"
    if not pipeline.exists():
        settings = yaml.safe_load((CONFIGS / "evaluate" / f"{recipe}.yaml").read_text())
        export(str(train(recipe, machine, folder)), str(pipeline), **settings)
    write_report(describe_training(folder), folder / "training.json")
    for name, difference in PLANNERS.items():
        output = folder_of(name, folder)
        if not (output / "evaluation.json").exists():
            count = min(episodes, AT_ONCE)
            evaluate(str(pipeline), episodes, str(output), seed=FIRST_SEED, environments=count, **difference)
    if not (folder / "diagnosis" / "diagnostics.json").exists():
        diagnose(str(pipeline), 5, str(folder / "diagnosis"), seed=FIRST_SEED)


def folder_of(planner: str, folder: Path) -> Path:
    """Return the folder of a planner's evaluation."""
    return folder / planner.replace(",", "").replace(" ", "-")


def gather(recipe: str, machine: str, folder: Path) -> dict[str, Any]:
    """Time the planners, and return all results of a recipe."""
    pipeline = load_pipeline(folder / "pipeline")
    reports = {name: json.loads((folder_of(name, folder) / "evaluation.json").read_text()) for name in PLANNERS}
    names = list(PLANNERS)
    pairs = [*pairwise(names), (names[0], names[-1])]
    drop = ("env_spec", "pipeline", "video", "video_error", "seconds")
    return {
        "recipe": recipe,
        "machine": machine,
        "configs": [str(file.relative_to(CONFIGS.parent)) for file in overlays(recipe, machine)],
        "dataset": describe_dataset(pipeline.task["dataset_id"][0]),
        "training": json.loads((folder / "training.json").read_text()),
        "planners": {
            name: {key: value for key, value in report.items() if key not in drop} for name, report in reports.items()
        },
        "pairs": [{"of": pair, **compared(*(folder_of(name, folder) for name in pair))} for pair in pairs],
        "latency_ms": {name: measure_latency(pipeline, **difference) for name, difference in PLANNERS.items()},
        "diagnosis": {
            name: value
            for name, value in json.loads((folder / "diagnosis" / "diagnostics.json").read_text()).items()
            if name in ("calibration", "ranking", "dynamics", "horizon", "guidance", "missing")
        },
    }


def compared(a: Path, b: Path) -> dict[str, Any]:
    """Return the comparison's result that RESULTS.md shows."""
    result = compare(str(a), str(b))
    return {name: result[name] for name in ("difference", "ci95", "permutation_p", "share_higher", "told", "verdict")}


def main() -> None:
    """Run the recipes in parallel, time them one after the other, and make the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = sorted(path.stem for path in (CONFIGS / "evaluate").glob("*.yaml"))
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--machine", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2, help="recipes in parallel, each with its share of the cores")
    parser.add_argument("--folder", type=Path, default=Path("runs/results"))
    options = parser.parse_args()
    if unknown := sorted(set(options.recipes) - set(known)):
        parser.error(f"unknown recipes {unknown}: choose from {known}")
    folders = {recipe: options.folder / options.machine / recipe for recipe in options.recipes or known}
    logging.disable_progress_bar()
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    # Spawned processes, each of which sets its own number of threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, context, take_cores, (threads,), max_tasks_per_child=1) as pool:
        jobs = [pool.submit(run, recipe, options.machine, options.episodes, folders[recipe]) for recipe in folders]
        for job in jobs:
            job.result()
    for recipe, folder in folders.items():
        target = results_page.RESULTS / options.machine / f"{recipe}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_report(gather(recipe, options.machine, folder), target)
    results_page.main()


def take_cores(threads: int) -> None:
    """Limit this process, and those that it starts, to a number of threads."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
