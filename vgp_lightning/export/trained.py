"""Two checkpoints -> one pipeline folder that diffusers loads with or without this package."""

from pathlib import Path
from typing import Any, Unpack

import torch
import yaml
from rich.console import Console

from vgp_lightning.export.evidence import describe_evidence
from vgp_lightning.export.folder import PROGRAMS, without_value, write_folder
from vgp_lightning.export.program_folder import write_programs
from vgp_lightning.export.program_formats import Format, check_format
from vgp_lightning.pipeline.hub import upload_folder
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import DEFAULTS, EXPORT_DEFAULTS, Settings
from vgp_lightning.report.documents import read_yaml
from vgp_lightning.training.checkpoints import load_module, read_checkpoint
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.planner import PlannerModule
from vgp_lightning.training.runs import find_checkpoint
from vgp_lightning.training.value import ValueModule


def export(
    denoiser: str,
    output: str,
    value: str | None = None,
    program: Format | None = None,
    push_to_hub: str | None = None,
    **settings: Unpack[Settings],
) -> Path:
    """Write a pipeline folder: both networks, the schedule, the statistics, the planner's defaults, a model card.

    The folder is written atomically. Its defaults of planning are those of an export (``EXPORT_DEFAULTS``), else the
    paper's; by default no more denoising steps than the training has noise levels, and no guidance without a value
    function.

    Args:
        denoiser: Checkpoint of a DenoiserModule, or of a PlannerModule, which holds both networks; or a run's folder.
        output: The folder to write; it must not exist.
        value: Checkpoint of a ValueModule; without one the planner has no guidance and no ranking.
        program: Format of a program to write too, as ``vgp program`` does for an existing folder: onnx or pt2; None:
            none.
        push_to_hub: Repository on the Hugging Face Hub, such as me/hopper, to which the folder is uploaded too; None:
            none. Log in first: hf auth login. ``vgp publish`` uploads it later, with an evaluation in its card.
        settings: The folder's defaults, in place of an export's.

    Returns:
        The folder.

    Raises:
        ValueError: If a checkpoint is of the wrong kind, the two do not belong together, a default cannot work, or the
            folder exists; if the planner cannot be a program of that format; if the Hub refuses the upload, before
            which the folder was written.
    """
    if program is not None:
        check_format(program)
    folder = Path(output)
    if folder.exists():
        raise ValueError(f"{folder} exists already: choose another --output, or remove it first")
    denoiser = find_checkpoint(denoiser, "--denoiser")
    value = None if value is None else find_checkpoint(value, "--value")
    denoiser_module, value_module = _load(denoiser, value)
    horizon, levels = denoiser_module.hparams["horizon"], denoiser_module.levels
    planner: dict[str, Any] = dict(DEFAULTS) | EXPORT_DEFAULTS | {"planning_horizon": horizon} | settings
    if planner["num_inference_steps"] is None or "num_inference_steps" not in settings:
        planner["num_inference_steps"] = min(planner["num_inference_steps"] or levels, levels)
    if value_module is None:
        planner |= without_value(settings)
    # Where one checkpoint holds both networks it is the planner's, and its config the denoiser's.
    checkpoints = {"denoiser": denoiser} | ({"value": value} if value is not None else {})
    read = {name: _read_provenance(checkpoint) for name, checkpoint in checkpoints.items()}
    together = value is None and value_module is not None
    pipeline = ValueGuidedPlannerPipeline(
        denoiser_module.network,
        denoiser_module.noise_scheduler,
        value_module.network if value_module is not None else None,
        # The value function's, for its return and its discount; the rest is the same in both.
        normalization=(value_module or denoiser_module).normalization,
        planner=planner,
        task=(value_module or denoiser_module).hparams["task"]
        | {"checkpoints": {"planner" if together else name: which for name, (_, which) in read.items()}},
    )

    def add_program(building: Path) -> None:
        if program is not None:
            (building / PROGRAMS).mkdir()
            write_programs(pipeline, building / PROGRAMS, program, building)

    written = write_folder(pipeline, {name: config for name, (config, _) in read.items()}, folder, add_program)
    Console(markup=False, highlight=False, soft_wrap=True).print(describe_evidence(None, pipeline.resolve_settings()))
    if push_to_hub is not None:
        print(f"uploaded: {upload_folder(written, push_to_hub)}")
    return written


def _load(denoiser: str, value: str | None) -> tuple[DenoiserModule, ValueModule | None]:
    """Load the networks from their checkpoints, or both from one."""
    first = load_module(denoiser)
    if isinstance(first, PlannerModule):
        if value is not None:
            raise ValueError(f"--denoiser {denoiser} holds both networks: leave --value away")
        return first.denoiser, first.value_function
    if not isinstance(first, DenoiserModule):
        raise ValueError(f"--denoiser {denoiser} holds a {type(first).__name__}: give it as --value")
    if value is None:
        return first, None
    second = load_module(value)
    if not isinstance(second, ValueModule):
        raise ValueError(f"--value {value} holds a {type(second).__name__}: give it as --denoiser")
    _check_pair(first, second)
    return first, second


def _check_pair(denoiser: DenoiserModule, value: ValueModule) -> None:
    """Refuse two networks that were not trained on the same data in the same way."""
    for name in ("transition_dim", "action_dim", "horizon", "stride", "num_train_timesteps", "beta_schedule"):
        ours, theirs = denoiser.hparams[name], value.hparams[name]
        if ours != theirs:
            raise ValueError(
                f"denoiser and value function do not belong together: {name} is {ours} and {theirs}. Train both with "
                "the same data and schedule"
            )
    for name in ("shift", "scale", "action_low", "action_high"):
        ours, theirs = getattr(denoiser, name), getattr(value, name)
        if not torch.equal(ours, theirs):
            raise ValueError(
                f"denoiser and value function do not belong together: the normaliser's {name} is {ours.tolist()} and "
                f"{theirs.tolist()}. Train both on the same datasets with the same normaliser"
            )
    if value.hparams["task"].get("discount") is None:
        raise ValueError("the value function's checkpoint names no discount: train it with vgp fit")
    if denoiser.hparams["task"].get("env_spec") != value.hparams["task"].get("env_spec"):
        raise ValueError(
            "denoiser and value function do not belong together: their environments are "
            f"{denoiser.hparams['task'].get('env_spec')} and {value.hparams['task'].get('env_spec')}"
        )


def _read_provenance(checkpoint: str) -> tuple[str, dict[str, Any]]:
    """Return the run's merged config as YAML, and which checkpoint of the run it is.

    The command line leaves the config in the checkpoint; where it is not, the hyper-parameters stand for it.
    """
    saved = read_checkpoint(checkpoint)
    text: str = saved.get("vgp_config") or yaml.safe_dump({"model": dict(saved["hyper_parameters"])}, sort_keys=False)
    config = read_yaml(text, f"vgp_config of {checkpoint}")
    first = text.partition("\n")[0]
    version = f"{first}\n" if first.startswith("#") else ""
    return (
        version + yaml.safe_dump(_without_places(config), sort_keys=False),
        {"file": Path(checkpoint).name, "step": saved["global_step"]},
    )


def _without_places(value: Any) -> Any:
    """Return a config with a name in place of each absolute path: the folder is handed on, the machine is not."""
    if isinstance(value, dict):
        return {key: _without_places(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_places(one) for one in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
