"""Where the files are that ship with the package: the configs, and a small trained planner."""

from pathlib import Path


def _find_shipped(name: str) -> Path:
    """Return a folder that ships.

    An installed wheel holds it inside the package; in a clone it is beside it. The package is looked at first, because
    a folder of this name in site-packages belongs to some other distribution.
    """
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else Path(__file__).parent.parent / name


CONFIGS = _find_shipped("configs")
PLANNERS = _find_shipped("planners")
EXAMPLE = "hopper-example"


def example_planner() -> str:
    """Return the folder of the small trained planner that ships with the package.

    It hops in Hopper-v5; its README.md says what it was trained on and what it returns. ``vgp evaluate hopper-example``
    takes it by its name.
    """
    return str(PLANNERS / EXAMPLE)
