"""A pipeline folder on disk: how it is written atomically, the code that it carries, and how its defaults change."""

import ast
import errno
import inspect
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, TypeGuard
from uuid import uuid4

from huggingface_hub import ModelCard, ModelCardData
from rich.console import Console
from safetensors import SafetensorError

from vgp_lightning import __version__
from vgp_lightning.export.evidence import describe_evidence
from vgp_lightning.pipeline import planner
from vgp_lightning.pipeline.companions import CRITIC, HABIT, Place, find_companion
from vgp_lightning.pipeline.critic import Critic
from vgp_lightning.pipeline.habit import Habit
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.settings import Settings
from vgp_lightning.report.documents import read_json
from vgp_lightning.report.files import hash_file, refuse_links, replace_file

PROGRAMS = "program"  # the subfolder of programs
_NEIGHBOUR = re.compile(r"^from \.(\w+) import", re.MULTILINE)


def write_folder(
    pipeline: ValueGuidedPlannerPipeline,
    configs: Mapping[str, str],
    folder: Path,
    finish: Callable[[Path], object] | None = None,
) -> Path:
    """Write a pipeline and the YAML texts of its training as a folder, atomically.

    Args:
        pipeline: The pipeline.
        configs: The YAML texts, by name.
        folder: The folder to write.
        finish: Writes what else belongs into the folder that it is given; None: nothing.

    Raises:
        ValueError: If another process has written the folder meanwhile.
        OSError: If it cannot be written; the message names it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _building(folder, folder, f"{folder} exists already: another process has written it meanwhile") as building:
        pipeline.save_pretrained(building, safe_serialization=True)
        (building / "pipeline.py").write_text(join_pipeline())
        (building / "training").mkdir()
        for name, config in configs.items():
            (building / "training" / f"{name}.yaml").write_text(config)
        _model_card(pipeline).save(building / "README.md")
        _grant_access(building, building / "pipeline.py")
        if finish is not None:
            finish(building)
        building.rename(folder)
    return folder


@contextmanager
def _building(folder: Path, target: Path, taken: str) -> Iterator[Path]:
    """Make a folder beside a pipeline folder, to be filled and then renamed to the target; remove it if it was not.

    Args:
        folder: The pipeline folder.
        target: What errors name.
        taken: What is said if something is in the target's place.

    Raises:
        ValueError: If something is in the target's place.
        OSError: If the target cannot be written.
    """
    building = folder.parent / f".{folder.name}.building-{uuid4().hex}"
    try:
        building.mkdir()  # by a random name, with the user's umask
        yield building
    except SafetensorError as error:
        raise OSError(f"{target} cannot be written: {error}") from error
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise ValueError(taken) from error
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def write_habit(habit: Habit, folder: Path) -> None:
    """Put a habit into a pipeline folder, in place of the one before it, and update the code that travels in it.

    At every moment the folder holds either the old habit or the new one, complete: between two renamings the old one
    is in ``habit.old``, where it is found too. Programs stay as they are; a warning names those of another habit.

    Args:
        habit: The habit.
        folder: A folder that ``write_folder`` wrote.

    Raises:
        ValueError: If the folder has links that lead out of it, or another process has written a habit meanwhile.
        OSError: If it cannot be written; the message names it.
    """
    _put(habit, folder, HABIT, _HABIT, _describe_habit(habit))
    hashes = hash_companion(folder, HABIT)
    for note in sorted((folder / PROGRAMS).glob("habit.*.json")):
        if read_json(note).get("weights_sha256") != hashes:
            _warn_of_stale_program(
                folder, note, "was made from another habit than the folder's new one", " --habit true"
            )


def write_critic(critic: Critic, folder: Path) -> None:
    """Put a critic into a pipeline folder, in place of the one before it, as ``write_habit`` does with a habit.

    Programs stay as they are; a warning names those of another critic.

    Args:
        critic: The critic.
        folder: A folder that ``write_folder`` wrote.

    Raises:
        ValueError: If the folder has links that lead out of it, or another process has written a critic meanwhile.
        OSError: If it cannot be written; the message names it.
    """
    _put(critic, folder, CRITIC, _CRITIC, _DESCRIBED_CRITIC)
    hashes = hash_companion(folder, CRITIC)
    for note in sorted((folder / PROGRAMS).glob("plan.*.json")):
        made_from = read_json(note).get("weights_sha256", {})
        if any(made_from[name] != hashes.get(name) for name in made_from if name.startswith(f"{CRITIC.name}/")):
            _warn_of_stale_program(folder, note, "was made from another critic than the folder's new one")


def _put(model: Habit | Critic, folder: Path, place: Place, section: re.Pattern[str], words: str) -> None:
    """Put a model into its subfolder, in place of the one before it, and its section into the card.

    Args:
        model: The model.
        folder: The pipeline folder.
        place: Where it lies.
        section: Finds the card's section about such a model.
        words: The new section.
    """
    refuse_links(folder)
    target, old = (folder / name for name in place.folders)
    with _building(folder, target, f"another process has written {target} meanwhile") as building:
        model.save_pretrained(building, safe_serialization=True)
        _grant_access(building, folder / "model_index.json")
        _renew_code(folder / "pipeline.py")  # of an older version, which may not know such a model
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        building.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    card = folder / "README.md"
    if card.is_file():
        text = section.sub("", card.read_text()) + words
        replace_file(card, lambda file: file.write(text.encode()))


def hash_companion(folder: Path, place: Place) -> dict[str, str]:
    """Return the hashes of the weights of a pipeline folder's companion, by file.

    Raises:
        ValueError: If it has none.
    """
    files = sorted(find_companion(folder, place).glob("*.safetensors"))
    return {f"{place.name}/{file.name}": hash_file(file) for file in files}


def _grant_access(folder: Path, like: Path) -> None:
    """Give the weights of a folder the permissions of a file: safetensors writes them for the owner alone."""
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(like.stat().st_mode & 0o777)


def update_defaults(folder: Path, settings: Mapping[str, Any], evidence: Mapping[str, Any] | None = None) -> None:
    """Change the planner's defaults in an existing folder, and update the code that travels in it.

    ``model_index.json`` and the model card get the new settings and their evidence; the rest of both files stays, and a
    card without the table stays as it is. The code becomes this package's, because an older folder's may not know all
    settings. Each file is replaced atomically. The code is replaced first, because it also accepts the old defaults.
    Programs stay as they are; a warning names those that were made for other settings.

    Args:
        folder: A folder that ``write_folder`` wrote.
        settings: New defaults, by name; the others stay.
        evidence: Why, for ``describe_evidence``; None: nothing speaks for them yet, whatever spoke for the old ones.

    Raises:
        ValueError: If a setting is unknown or cannot work with the folder's networks, or the folder has links that
            lead out of it; nothing is written then.
    """
    refuse_links(folder)
    old = ValueGuidedPlannerPipeline.from_pretrained(folder)
    task = {name: value for name, value in old.task.items() if name != "evidence"}
    changed = {"planner": old.planner | dict(settings), "task": task | ({"evidence": evidence} if evidence else {})}
    new = ValueGuidedPlannerPipeline(
        old.unet, old.scheduler, old.value_function, old.normalization, **changed
    )  # raises if the settings cannot work
    _renew_code(folder / "pipeline.py")
    index = folder / "model_index.json"
    content = json.dumps(read_json(index) | changed, indent=2, sort_keys=True) + "\n"
    replace_file(index, lambda file: file.write(content.encode()))  # as diffusers writes it
    card = folder / "README.md"
    if card.is_file():
        table = _table(new)
        text = _TABLE.sub(lambda _: table, card.read_text())
        replace_file(card, lambda file: file.write(text.encode()))
    _warn_of_stale_programs(folder, new.resolve_settings())


def _warn_of_stale_programs(folder: Path, settings: Mapping[str, Any]) -> None:
    """Say which programs of a folder were made for other settings than its defaults; they stay as they are.

    A robot may be using them, and each note tells what its program was made for.

    Args:
        folder: The pipeline folder.
        settings: Its defaults.
    """
    for note in sorted((folder / PROGRAMS).glob("plan.*.json")):
        made_for = read_json(note).get("settings", {})
        changed = [
            f"{name} {made_for[name]}, now {settings[name]}"
            for name in made_for
            if name in settings and json.dumps(made_for[name]) != json.dumps(settings[name])
        ]
        if changed:
            reason = f"was made for other settings than the folder's new defaults ({'; '.join(changed)})"
            _warn_of_stale_program(folder, note, reason)


def _warn_of_stale_program(folder: Path, note: Path, reason: str, option: str = "") -> None:
    kind = note.stem.rpartition(".")[2]
    Console(stderr=True).print(
        f"{note.with_suffix('')} {reason} and stays as it is. To renew it: vgp program {folder} {kind}{option}",
        markup=False,
        soft_wrap=True,
    )


def _renew_code(path: Path) -> None:
    """Write this package's code as a folder's ``pipeline.py``, and remove the files that 0.1 wrote beside it."""
    neighbours = _NEIGHBOUR.findall(path.read_text()) if path.is_file() else []
    replace_file(path, lambda file: file.write(join_pipeline().encode()))
    for name in neighbours:
        path.with_name(f"{name}.py").unlink(missing_ok=True)


def join_pipeline() -> str:
    """Return the code that travels with a folder as the text of one file.

    diffusers executes a folder's ``pipeline.py`` at each load, but takes the files beside it from ``sys.modules``. If
    two folders with different code are loaded in one process, the second would therefore run with the first one's
    files. So the files are joined, each after those that it imports, without their imports of each other.
    """
    room = Path(planner.__file__).parent
    texts = {path.stem: path.read_text() for path in sorted(room.glob("*.py")) if path.stem != "__init__"}
    neighbours = {name: [node for node in ast.parse(text).body if _is_relative(node)] for name, text in texts.items()}
    needed = {name: [str(node.module) for node in nodes] for name, nodes in neighbours.items()}
    parts = [
        f'"""The planner: the files of vgp_lightning/pipeline/ of version {__version__}, joined by vgp export."""\n'
    ]
    for name in TopologicalSorter(needed).static_order():
        lines = texts[name].splitlines(keepends=True)
        for node in reversed(neighbours[name]):
            del lines[node.lineno - 1 : node.end_lineno]
        parts.append(f"# {'-' * 16} {name}.py\n\n{''.join(lines).strip()}\n")
    return "\n\n".join(parts)


def _is_relative(node: ast.stmt) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and node.level > 0


# ---------------------------------------------------------------- model card

_TABLE_HEAD = "| setting | default | meaning |\n|---|---|---|\n"
# Cards of version 0.1 have a table of two columns, and no evidence after it.
_TABLE = re.compile(
    rf"(?:{re.escape(_TABLE_HEAD)}|\| default \| value \|\n\|---\|---\|\n)(?:\|.*(?:\n|\Z))*"
    r"(?:\nWhy these: .*(?:\n|\Z))?"
)


def _table(pipeline: ValueGuidedPlannerPipeline) -> str:
    """Return the planner's settings as a table, and a line that says why they are so; it ends in a line break."""
    meanings = read_meanings()
    settings = pipeline.resolve_settings()
    rows = (f"| `{name}` | {value} | {meanings[name]} |\n" for name, value in settings.items())
    why = describe_evidence(pipeline.task.get("evidence"), settings)
    return f"{_TABLE_HEAD}{''.join(rows)}\nWhy these: {why}\n"


def read_meanings() -> dict[str, str]:
    """Return what each setting means: the attributes in the docstring of ``Settings``, each as one line."""
    _, attributes = inspect.cleandoc(Settings.__doc__ or "").split("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _model_card(pipeline: ValueGuidedPlannerPipeline) -> ModelCard:
    task, settings = pipeline.task, pipeline.resolve_settings()
    value = "with" if pipeline.value_function is not None else "without"
    text = f"""
# A diffusion planner for {task.get("env_id") or "an unnamed environment"}

Plans {settings["planning_horizon"]} steps of {pipeline.action_dim} actions and {pipeline.observation_dim} observations
by denoising, {value} a value function to guide it. Trained on {", ".join(task.get("dataset_id", [])) or "unnamed data"}
(discount {task.get("discount")}), with the configs in `training/`. Method: Janner et al. 2022, "Planning with Diffusion
for Flexible Behavior Synthesis".
{_describe_checkpoints(task.get("checkpoints"))}
```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
plan = pipeline(observation)  # (O,) or (N, O), in the environment's units
plan.actions[0, 0]            # (A,), what to do now
```

`trust_remote_code=True` runs the code in this folder's `pipeline.py`: read it before you trust it.

{_table(pipeline)}"""
    data = ModelCardData(library_name="diffusers", tags=["reinforcement-learning", "diffusion-planning", "offline-rl"])
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


# The section of a card that describes the habit: a heading and one paragraph, at the end.
_HABIT = re.compile(r"\n## Habit\n\n(?:.+\n?)*")


_CRITIC = re.compile(r"\n## Critic\n\n(?:.+\n?)*")
_DESCRIBED_CRITIC = """
## Critic

`critic/` says by how much a candidate's first action is better than what the data do in the same state (`vgp critic`).
`pipeline(observation, rank_by="critic")` ranks the candidates by it.
"""


def _describe_habit(habit: Habit) -> str:
    return f"""
## Habit

`habit/` answers an observation with {habit.chunk} actions at once, without planning. It was distilled from this planner
(`vgp distill`): `habit = pipeline.load_habit()`, then `habit.answer(observation)[0, 0]` is what to do now.
"""


def _describe_checkpoints(checkpoints: Mapping[str, Any] | None) -> str:
    """Return the line that names the networks' checkpoints; empty if they are unknown."""
    if not checkpoints:
        return ""
    named = [
        f"{name} `{one['file']}`" + (f" of step {one['step']}" if one["step"] is not None else "")
        for name, one in checkpoints.items()
    ]
    return f"\nCheckpoints: {', '.join(named)}.\n"
