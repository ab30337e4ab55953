"""A pipeline folder on disk: how it is written atomically, and how its defaults change."""

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console
from safetensors import SafetensorError

from vgp_lightning.export.card import (
    CRITIC_SECTION,
    CRITIC_WORDS,
    HABIT_SECTION,
    SETTINGS_TABLE,
    describe_habit,
    make_card,
    make_table,
)
from vgp_lightning.pipeline.companions import CRITIC, HABIT, Place, find_companion
from vgp_lightning.pipeline.critic import Critic
from vgp_lightning.pipeline.habit import Habit
from vgp_lightning.pipeline.joining import join_pipeline
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
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
        (building / "training").mkdir(exist_ok=True)
        for name, config in configs.items():
            (building / "training" / f"{name}.yaml").write_text(config)
        make_card(pipeline).save(building / "README.md")
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


def without_value(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the settings of a planner without a value function must be.

    Args:
        given: Those that the user gave.

    Raises:
        ValueError: If they ask for guidance.
    """
    if given.get("n_guide_steps", 0) != 0:
        raise ValueError(
            f"n_guide_steps is {given['n_guide_steps']}, but there is no value function to guide with: give its "
            "checkpoint as --value, or leave --n_guide_steps out"
        )
    return {"n_guide_steps": 0}


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
    _put(habit, folder, HABIT, HABIT_SECTION, describe_habit(habit))
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
    _put(critic, folder, CRITIC, CRITIC_SECTION, CRITIC_WORDS)
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
        table = make_table(new)
        text = SETTINGS_TABLE.sub(lambda _: table, card.read_text())
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
