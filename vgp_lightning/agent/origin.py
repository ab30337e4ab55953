"""Where a planner comes from: a folder of the user's, the one that ships with the package, or the Hugging Face Hub."""

from pathlib import Path

from vgp_lightning.pipeline.hub import fetch_folder, is_repository
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
