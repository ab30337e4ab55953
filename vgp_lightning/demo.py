"""The main job in miniature: collect, train, export, plan, report."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from vgp_lightning.agent.account import find_given, show_film, show_origin, show_worst
from vgp_lightning.agent.behaviours import make_behaviour
from vgp_lightning.agent.collection import collect
from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.methods import PAIRS, describe_planning
from vgp_lightning.evaluation.comparison import describe_pairs
from vgp_lightning.evaluation.evaluation import evaluate, evaluate_agent
from vgp_lightning.evaluation.pages import describe_statistics, say_verdict, show_differences, show_returns
from vgp_lightning.export.trained import export
from vgp_lightning.pipeline.settings import ONE_PLAN, Settings
from vgp_lightning.report.figures import figure_to_image, plot_returns
from vgp_lightning.report.files import write_report
from vgp_lightning.report.markup import command, interval, number, options, table, tag
from vgp_lightning.report.page import NAME, Page, Section, write_page
from vgp_lightning.report.references import describe_methods
from vgp_lightning.shipped import CONFIGS

ENVIRONMENT, BEHAVIOUR, DATASET = "Hopper-v5", "hopper-linear", "demo/hopper/mixed-v0"
# Episodes from a perfect gait (level 0 of the noise) down to immediate falls.
WEIGHT_NOISE, ACTION_NOISE = 0.1, 0.5
FIRST_SEED = 1_000_000  # of evaluation: far from the seeds of the data's episodes
# The best of the candidates alone returned less in a training where the value ranks badly (docs/strength.md).
GUIDED: Settings = {
    "batch_size": 16,
    "n_guide_steps": 1,
    "scale": 0.03,
    "choice_temperature": 0.5,
    "warm_start_strength": 0.4,
}
# One plan as it is sampled, each anew from noise, and the folder's defaults.
SETTINGS: dict[str, Settings] = {"unguided": {**ONE_PLAN, "warm_start_strength": 1.0}, "guided": {}}
PLANNERS = ("behaviour", *SETTINGS)
_MARKER = ".vgp_demo"
_STAGES = (
    "A linear gait, with noise of various strengths, collects episodes from perfect to immediate falls (behaviour). A "
    "denoiser and a value function are trained on them and exported as one folder. It plans once as it is sampled "
    "(unguided), and once with guidance, warm starts and the mean of several candidates, weighted by value (guided)."
)
# `vgp fit` that ends at once when this process does, whatever ends it: then the pipe that is its standard input closes.
_TRAINING = """
import os, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
from vgp_lightning.cli import main
main(sys.argv[1:])
"""


def demo(
    output_dir: str = "runs/demo",
    episodes: int = 20,
    steps: int = 80_000,
    denoiser_steps: int = 2000,
    value_steps: int = 3000,
    seed: int = 0,
) -> dict[str, Any]:
    """Collect mixed-quality Hopper episodes, train both networks, export them, and let three planners act.

    The three play the same seeds: the data's own behaviour, the planner without guidance (one plan as it is sampled),
    and the guided planner (the folder's defaults: guidance, warm starts, and the mean of 16 candidates weighted by
    their values).

    Args:
        output_dir: Everything goes here, with report.html to open in a browser. An earlier demo's folder is replaced,
            any other refused.
        episodes: Episodes of each planner.
        steps: Transitions to collect.
        denoiser_steps: Training steps of the denoiser.
        value_steps: Training steps of the value function.
        seed: Of data and training.

    Returns:
        What report.json holds.

    Raises:
        ValueError: If a number is too small, or the folder holds anything but an earlier demo.
    """
    folder = Path(output_dir)
    check_options(folder, seed, episodes=episodes, steps=steps, denoiser_steps=denoiser_steps, value_steps=value_steps)
    _empty(folder)
    os.environ["MINARI_DATASETS_PATH"] = str((folder / "datasets").resolve())
    seconds: dict[str, float] = {}

    with _stage("collect", seconds):
        collect(
            ENVIRONMENT,
            BEHAVIOUR,
            steps,
            DATASET,
            seed=seed,
            weight_noise=WEIGHT_NOISE,
            action_noise=ACTION_NOISE,
        )
    with _stage("train", seconds):
        lengths = {"denoiser": denoiser_steps, "value": value_steps}
        checkpoints = train({kind: training_options(folder, seed, count) for kind, count in lengths.items()}, folder)
    with _stage("export", seconds):
        pipeline_folder = export(
            str(checkpoints["denoiser"]),
            str(folder / "pipeline"),
            str(checkpoints["value"]),
            **GUIDED,
        )
    reports: dict[str, Any] = {}
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    with _stage("behaviour", seconds):
        environments = make_environments(ENVIRONMENT, episodes)
        behaviour = make_behaviour(BEHAVIOUR, environments, weight_noise=WEIGHT_NOISE, action_noise=ACTION_NOISE)
        reports["behaviour"] = evaluate_agent(behaviour, environments, seeds, description="behaviour")
        environments.close()
    for name, settings in SETTINGS.items():
        with _stage(name, seconds):
            reports[name] = evaluate(
                str(pipeline_folder),
                episodes,
                str(folder / "evaluation" / name),
                seed=FIRST_SEED,
                environments=episodes,
                video=name == "guided",
                **settings,
            )
    given = find_given(demo, locals(), ("episodes", "steps", "denoiser_steps", "value_steps", "seed"))
    report = reports | {"seconds": seconds, "pipeline": str(pipeline_folder), "environment": ENVIRONMENT}
    report |= {"options": given}
    _write(report, folder)
    _print(report, folder)
    return report


def check_options(folder: Path, seed: int, **counts: int) -> None:
    """Check the demo's options.

    Args:
        folder: Where everything goes.
        seed: Of data and training.
        counts: All other options.

    Raises:
        ValueError: If a number is too small, or the folder holds anything but an earlier demo.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}: at least 1 is needed")
    if not 0 <= seed < 2**32:  # as Lightning takes them
        raise ValueError(f"seed is {seed}: a whole number from 0 to {2**32 - 1} is needed")
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise ValueError(f"{folder} exists and was not made by vgp demo: choose another --output_dir")


def _empty(folder: Path) -> None:
    """Make the folder, without an earlier demo."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).touch()  # stays to the end: an interrupted demo's folder is still known as one
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _MARKER:
            path.unlink()


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Announce a stage and note how long it took."""
    Console().rule(name, style="bold")
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 1)


def training_options(folder: Path, seed: int, steps: int) -> list[str]:
    """Return the options of a training of the demo beside its configs.

    Args:
        folder: The demo's.
        seed: Of the training.
        steps: Of the training.
    """
    return [
        *("--data.dataset_id", DATASET, "--data.cache_dir", str(folder / "cache")),
        *("--trainer.max_steps", str(steps)),
        *("--trainer.logger.init_args.save_dir", str(folder), "--seed_everything", str(seed)),
    ]


def fit_arguments(kind: str, options: Sequence[str]) -> list[str]:
    """Return verb and options of a small training.

    Args:
        kind: The network's config, denoiser or value, which demo.yaml follows.
        options: All other options.
    """
    return ["fit", "-c", str(CONFIGS / f"{kind}.yaml"), "-c", str(CONFIGS / "demo.yaml"), *options]


def train(options: Mapping[str, Sequence[str]], folder: Path) -> dict[str, Path]:
    """Run ``vgp fit`` for several networks side by side, and return their last checkpoints.

    Networks this small hardly gain from a second core: two processes with half of the cores each get more done.

    Args:
        options: By the name of the network's config (denoiser, value), which demo.yaml follows: all other options.
        folder: Where the options say that the runs go. What the second training prints goes into a file there.

    Raises:
        ValueError: If one of them fails; the other is stopped.
    """
    threads = max(1, (os.cpu_count() or 2) // 2)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    with ExitStack() as stack:
        for kind, own in options.items():
            # Only one of the two processes prints to the terminal.
            log = stack.enter_context((folder / f"{kind}.log").open("w")) if processes else None
            # -P: what lies in the current folder, such as a file random.py, is not imported in place of a library.
            processes[kind] = subprocess.Popen(
                [sys.executable, "-P", "-c", _TRAINING, *fit_arguments(kind, own)],
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
            stack.enter_context(processes[kind])  # which waits for its end
            stack.callback(processes[kind].kill)  # where the other fails, or after Ctrl-C; before that wait
        for kind, process in processes.items():
            if process.wait() != 0:
                raise ValueError(
                    f"training the {kind} failed with code {process.returncode}: see above, or {folder}/*.log"
                )
    return {kind: folder / kind / "version_0" / "checkpoints" / "last.ckpt" for kind in options}


def _write(report: dict[str, Any], folder: Path) -> None:
    """Write the report and its picture."""
    returns = {name: [episode["return"] for episode in report[name]["episodes"]] for name in PLANNERS}
    intervals = {name: report[name]["return_ci95"] for name in PLANNERS}
    figure = plot_returns(returns, intervals, f"{ENVIRONMENT}: return of each episode, mean and 95 % interval")
    figure.savefig(folder / "returns.png", dpi=110)
    with SummaryWriter(str(folder / "evaluation")) as writer:
        writer.add_image("eval/returns", figure_to_image(figure), 0, dataformats="HWC")
    write_report(report, folder / "report.json")
    write_page(folder / NAME, lambda: _describe(report, folder))


def _describe(report: dict[str, Any], folder: Path) -> Page:
    """Return the demo's page."""
    planners = {name: report[name] for name in PLANNERS}
    returns = {name: {one["seed"]: one["return"] for one in planners[name]["episodes"]} for name in PLANNERS}
    differences, pairs = {}, {}
    for other in ("unguided", "behaviour"):
        name = f"guided - {other}"
        common = returns["guided"].keys() & returns[other].keys()
        pairs[name] = [returns["guided"][seed] - returns[other][seed] for seed in sorted(common)]
        differences[name] = describe_pairs(pairs[name], (other, "guided"))
    guided = report["guided"]
    means = "; ".join(
        f"{name} {number(one['return_mean'])} ({interval(one['return_ci95'])})" for name, one in planners.items()
    )
    verdict = f"Guided against unguided: {say_verdict(differences['guided - unguided'])}"
    again = [command(["vgp", "demo", *options(report["options"].items()), "--output_dir", "runs/again"])]
    stages = table("Seconds of each stage", (), list(report["seconds"].items()))
    sections = [
        show_film(folder / "evaluation" / "guided" / "rollout.gif", folder, guided["seed"], guided["video_error"]),
        show_returns(planners),
        show_differences(differences, pairs),
        Section("Stages", [tag("p", _STAGES), stages]),
        show_worst(guided["episodes"], "evaluate", guided),
        *show_origin(guided, guided["settings"], again),
        describe_methods([*describe_planning(guided, guided["settings"]), *describe_statistics(guided), PAIRS]),
    ]
    lead = f"{report['pipeline']}: three planners on the same {len(guided['episodes'])} seeds; mean returns: {means}"
    return Page(f"vgp demo in {report['environment']}", verdict, lead, sections)


def _print(report: dict[str, Any], folder: Path) -> None:
    table = Table(title=f"{ENVIRONMENT}, {len(report['guided']['episodes'])} episodes on the same seeds")
    for heading in ("planner", "return, mean", "95 %", "middle half", "length"):
        table.add_column(heading, justify="left" if heading == "planner" else "right")
    for name in PLANNERS:
        result = report[name]
        interval = "{:.0f} to {:.0f}".format(*result["return_ci95"]) if result["return_ci95"] else "-"
        table.add_row(
            name,
            f"{result['return_mean']:.0f}",
            interval,
            f"{result['return_iqm']:.0f}",
            f"{result['length_mean']:.0f}",
        )
    console = Console(markup=False)
    console.print(table)
    total = sum(report["seconds"].values())
    console.print(f"{total / 60:.1f} minutes. Open {folder / NAME} in a browser; numbers: {folder / 'report.json'}")
    console.print(f"Planner: {report['pipeline']}. Look at it all with: tensorboard --logdir {folder}")
