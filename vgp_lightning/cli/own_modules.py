"""Modules in the current folder, for ``--env_id module:Id``: under ``vgp`` Python does not look for modules there."""

import importlib.util
import sys
from pathlib import Path


def find_here(env_id: str | None) -> None:
    """Let a module be imported from the current folder, if it is there and no installed one has its name.

    Only for an id that the user has typed, never for one that a pipeline folder, a checkpoint, a dataset or a config
    names: the current folder may hold a stranger's files. The folder is looked at last, so that nothing in it takes the
    place of an installed package; and it stays, because a module may import others beside it later.

    Args:
        env_id: ``module:Id``; anything else changes nothing.
    """
    module, colon, _ = (env_id or "").partition(":")
    name = module.partition(".")[0]
    if not colon or not name.isidentifier() or importlib.util.find_spec(name) is not None:
        return
    here = Path.cwd()
    if (here / f"{name}.py").is_file() or (here / name).is_dir():
        sys.path.append(str(here))
