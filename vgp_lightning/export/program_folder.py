"""Programs in a pipeline folder: made, tried beside the pipeline, and written with a note of what they take and return.

``FOLDER/program/plan.onnx`` plans from noise, and ``warm.onnx`` from the last plan, where the planner has warm starts.
``habit.onnx`` is the folder's habit. Beside each lies its note, such as ``plan.onnx.json``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Unpack, cast

import numpy as np
import torch
from numpy.typing import NDArray

from vgp_lightning import __version__
from vgp_lightning.export.folder import PROGRAMS, hash_companion
from vgp_lightning.export.program import PlanProgram
from vgp_lightning.export.program_formats import PACKAGES, Format, Run, check_format, load, trace, write
from vgp_lightning.export.program_habit import HabitProgram
from vgp_lightning.pipeline.companions import CRITIC, HABIT
from vgp_lightning.pipeline.plan import Plan
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import Settings, warm_steps
from vgp_lightning.report.files import hash_file, refuse_links, replace_file, write_report

TOLERANCE = 1e-4  # in standard deviations of the training data
_TRIALS = 3
# Settings of the agent: a program does not contain them.
_AGENTS = {"replan_every"}
# What to try where a program does not agree with its original.
_REMEDIES = {
    "pipeline": "fewer denoising steps, less guidance (--scale, --n_guide_steps 0) or the other format",
    "habit": "the other format",
}
_UNITS = {
    "observation": "the environment's",
    "noise": "standard normal: what sampling begins from, then what each step adds",
    "previous": "the environment's, action first: the last plan, moved on by the steps that were executed",
    "actions": "the environment's, within the action bounds",
    "observations": "the environment's; step 0 is the present observation",
    "value": "predicted discounted return; NaN without a value function",
}


def make_program(folder: str, program: Format, habit: bool = False, **settings: Unpack[Settings]) -> Path:
    """Write the planner of a pipeline folder, or its habit, as a program that needs no Python, into the folder.

    A planner's program takes an observation and noise, and returns the best plan: statistics, sampler, guidance,
    best-of-K selection and action bounds are inside. A habit's takes an observation and returns a chunk of actions. The
    program is tried beside the pipeline on the same noise, or beside the habit. docs/deploy.md shows how it is used.

    Args:
        folder: Folder that ``vgp export`` wrote.
        program: Format: onnx, for ONNX Runtime; pt2, PyTorch's AOTInductor package, which holds compiled code for
            machines like this one.
        habit: Write the folder's habit (``vgp distill``) in place of its planner.
        settings: Settings that the program has built in, in place of the folder's.

    Returns:
        The program's file.

    Raises:
        ValueError: If a package or a compiler is missing, the planner cannot be such a program, there is no habit or it
            is given settings, or the program does not agree with its original; nothing is written then.
    """
    if habit and settings:
        name, value = next(iter(settings.items()))
        raise ValueError(
            f"{name} is {value}, but a habit's program does not plan: leave it out, or distill a habit with it, "
            f"vgp distill {folder} --{name} {value}"
        )
    check_format(program)
    path = Path(folder)
    if not (path / "model_index.json").is_file():
        raise ValueError(f"{path} is no pipeline folder, it has no model_index.json; make one: vgp export")
    refuse_links(path)
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(path)
    with TemporaryDirectory(prefix="vgp-program-") as building:
        if habit:
            written = _write_habit_program(pipeline, Path(building), program, path)
        else:
            written = write_programs(pipeline, Path(building), program, path, **settings)
        (path / PROGRAMS).mkdir(exist_ok=True)
        for file in written:
            _copy(file, path / PROGRAMS / file.name)
        names = {file.name for file in written}
        if not habit and f"warm.{program}" not in names:  # one of other settings
            for name in (f"warm.{program}", f"warm.{program}.json"):
                (path / PROGRAMS / name).unlink(missing_ok=True)
    return path / PROGRAMS / written[0].name


def write_programs(
    pipeline: ValueGuidedPlannerPipeline, folder: Path, kind: Format, weights: Path, **given: Unpack[Settings]
) -> list[Path]:
    """Write a pipeline's programs and their notes, after each has been tried beside the pipeline.

    Args:
        pipeline: On the CPU.
        folder: Where to write them.
        kind: Their format.
        weights: The pipeline's folder.
        given: Settings in place of the pipeline's.

    Returns:
        The files.

    Raises:
        ValueError: If the planner cannot be such a program, or a program does not agree with the pipeline.
    """
    settings = pipeline.resolve_settings(**given)
    programs = {"plan": PlanProgram(pipeline, settings)}
    if warm_steps(settings) < cast(int, settings["num_inference_steps"]):
        programs["warm"] = PlanProgram(pipeline, settings, warm=True)
    files = [file for part in ("unet", "value_function") for file in sorted((weights / part).glob("*.safetensors"))]
    hashes = {str(file.relative_to(weights)): hash_file(file) for file in files}
    if settings["rank_by"] == "critic":
        hashes |= hash_companion(weights, CRITIC)
    facts = {"env_id": pipeline.task.get("env_id"), "weights_sha256": hashes}
    return [
        file
        for name, program in programs.items()
        for file in _write(
            program, folder / f"{name}.{kind}", kind, "pipeline", partial(compare, program, pipeline=pipeline), facts
        )
    ]


def _write_habit_program(pipeline: ValueGuidedPlannerPipeline, folder: Path, kind: Format, weights: Path) -> list[Path]:
    """Write the habit in a pipeline's folder as a program with its note; arguments as of ``write_programs``.

    Raises:
        ValueError: If there is no habit of this planner, or the program does not agree with it.
    """
    program = HabitProgram(pipeline.load_habit())
    facts = {"env_id": pipeline.task.get("env_id"), "weights_sha256": hash_companion(weights, HABIT)}
    return _write(program, folder / f"habit.{kind}", kind, "habit", program.compare, facts)


def _write(
    program: PlanProgram | HabitProgram,
    path: Path,
    kind: Format,
    original: Literal["pipeline", "habit"],
    compare: Callable[[Run], float],
    facts: Mapping[str, Any],
) -> list[Path]:
    """Write a program and its note, after it has been tried beside its original; return both files.

    Args:
        program: The program.
        path: Its file.
        kind: Its format.
        original: What it does the work of.
        compare: Returns how much the written program differs from that.
        facts: What the note says of the original.

    Raises:
        ValueError: If it differs.
    """
    traced = trace(program.eval(), list(program.draw_inputs(0).values()))
    write(traced, kind, path, program.inputs, list(program.outputs))
    difference = compare(load(path, kind))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the program does not agree with the {original}: on the same inputs it differs by {difference:.2g} "
            f"standard deviations of the training data, and {TOLERANCE:g} is allowed. Nothing is written. Try "
            f"{_REMEDIES[original]}"
        )
    packages = ["torch", "diffusers", *PACKAGES[kind]]
    note = {
        "program": path.name,
        "program_sha256": hash_file(path),
        **facts,
        "inputs": _list_tensors(program.inputs),
        "outputs": _list_tensors(program.outputs),
        "settings": {name: value for name, value in program.settings.items() if name not in _AGENTS},
        f"difference_from_{original}": difference,
        "versions": {"vgp_lightning": __version__} | {package: version(package) for package in packages},
    }
    write_report(note, path.with_name(f"{path.name}.json"))
    return [path, path.with_name(f"{path.name}.json")]


def compare(program: PlanProgram, run: Run, pipeline: ValueGuidedPlannerPipeline) -> float:
    """Return the largest difference of a program's plans from the pipeline's, on the same observations and noise.

    It is in standard deviations of the training data, for actions and observations, and of the return for values.
    Candidates whose scores agree within the tolerance count as equally good: rounding may choose either.
    """
    settings = program.settings | {"batch_size": program.inputs["noise"][1]}
    return_scale = pipeline.normalization["return_scale"]
    scale = program.frame.scale.numpy()
    largest = 0.0
    for seed in range(_TRIALS):
        inputs = program.draw_inputs(seed)
        plan = pipeline(
            inputs["observation"],
            warm_start=inputs["previous"][None] if program.warm else None,
            generator=torch.Generator().manual_seed(seed),
            return_candidates=True,
            **settings,
        )
        acted, observed, value = run(inputs)
        trajectories, values = _equally_good(program, plan, return_scale)
        planned = np.abs(np.concatenate((acted, observed), axis=1) - trajectories) / scale
        differences = planned.max((1, 2))
        found = np.array([differences.min()])
        if pipeline.value_function is not None:
            found = np.append(found, np.abs(value - values[differences.argmin()]) / return_scale)
        largest = np.fmax(largest, found.max()) if np.isfinite(found).all() else np.inf
    return float(largest)


def _equally_good(
    program: PlanProgram, plan: Plan, return_scale: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return which plans (E, H, T) of a pipeline a program may have chosen, and their values (E,)."""
    if program.settings["choice_temperature"] == 0:
        plan, critic = cast(Plan, plan.candidates), program.critic
        scores, unit = plan.values, return_scale
        if critic is not None:
            scores = critic.rank(plan.observations[:, :, 0], plan.actions[:, :, 0])
            unit = critic.advantage_scale
        if scores.shape[1] > 1:
            good = scores[0] >= scores[0].max() - TOLERANCE * unit
            return plan.trajectories[0][good].numpy(), plan.values[0][good].numpy()
    trajectories = plan.trajectories
    return trajectories.reshape(-1, *trajectories.shape[-2:]).numpy(), plan.values.reshape(-1).numpy()


def _list_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the shapes, types and units of inputs or outputs."""
    return {name: {"shape": list(shape), "dtype": "float32", "units": _UNITS[name]} for name, shape in shapes.items()}


def _copy(source: Path, target: Path) -> None:
    content = source.read_bytes()
    replace_file(target, lambda file: file.write(content))
