"""Where numbers come from: the planner (a folder, the shipped one, the Hub), environment and versions behind them."""

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import gymnasium
from gymnasium.envs.registration import EnvSpec

from vgp_lightning import __version__
from vgp_lightning.pipeline.companions import CRITIC, HABIT, Place
from vgp_lightning.pipeline.hub import fetch_folder, is_repository
from vgp_lightning.report.documents import read_json
from vgp_lightning.report.files import hash_file
from vgp_lightning.shipped import EXAMPLE, example_planner


def find_planner(name: str) -> Path:
    """Return the pipeline folder that a name stands for.

    Args:
        name: A folder's path, ``hopper-example`` for the planner that ships, or the name of a repository on the Hub, of
            which the data are fetched and the code is not. What lies in the current folder comes first.

    Raises:
        ValueError: If it looks like a repository, and the Hub has no such planner.
    """
    if name == EXAMPLE and not Path(name).exists():
        return Path(example_planner())
    return fetch_folder(name) if is_repository(name) else Path(name)


def name_of(folder: Path) -> str:
    """Return a short name of a pipeline folder, for a folder of results."""
    resolved = folder.resolve()
    if resolved.parent.name == "snapshots":  # of the Hub's cache: models--me--name/snapshots/COMMIT
        return resolved.parent.parent.name.removeprefix("models--")
    return resolved.name


def describe_environment(environment: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """Return the specification as gymnasium writes it, without what ``make_environments`` and a video add to it."""
    spec = asdict(cast(EnvSpec, environment.spec))
    spec["kwargs"] = {key: value for key, value in spec["kwargs"].items() if key != "render_mode"}
    spec["additional_wrappers"] = spec["additional_wrappers"][:-1]  # the last one flattens observations
    if callable(entry := spec["entry_point"]):  # gymnasium refuses to write functions
        spec["entry_point"] = f"{entry.__module__}:{entry.__qualname__}"
    parts = ("namespace", "name", "version")  # they follow from the id
    described: dict[str, Any] = json.loads(
        json.dumps({key: value for key, value in spec.items() if key not in parts}, default=repr)
    )
    return described


def hash_weights(folder: Path, companion: Place | None = None) -> str | None:
    """Return one hash of the names and contents of a folder's weight files; None if it has none.

    Args:
        folder: The pipeline folder.
        companion: Those of its habit or its critic; None: those of its planner.
    """
    found = (path for kind in ("safetensors", "bin") for path in folder.glob(f"*/*.{kind}"))
    files = sorted(path for path in found if _companion_of(path) is companion)
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{hash_file(path)}  {path.relative_to(folder).as_posix()}\n".encode())
    return whole.hexdigest() if files else None


def _companion_of(path: Path) -> Place | None:
    """Return which companion a file in a subfolder belongs to; None: to the planner itself."""
    return next((place for place in (HABIT, CRITIC) if path.parent.name in place.folders), None)


def hash_configs(folder: Path) -> str:
    """Return one hash of the planner's configurations: of its networks, its scheduler and its normalisation."""
    whole = hashlib.sha256()
    path = folder / "model_index.json"
    index = read_json(path) if path.is_file() else {}
    for part in sorted(name for name, value in index.items() if isinstance(value, list)):  # [library, class]
        for config in sorted((folder / part).glob("*.json")):
            whole.update(f"{config.relative_to(folder).as_posix()}\n".encode() + config.read_bytes())
    kept = {name: value for name, value in index.items() if name not in ("planner", "task")}
    whole.update(json.dumps(kept, sort_keys=True).encode())
    return whole.hexdigest()


def versions() -> dict[str, str | None]:
    """Return the versions of the packages that influence returns; None: not installed."""
    found: dict[str, str | None] = {"vgp_lightning": __version__}
    for name in ("torch", "diffusers", "gymnasium", "gymnasium-robotics", "mujoco", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
