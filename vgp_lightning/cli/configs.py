"""Configs that ship with the package: how a name finds one, and ``vgp configs``."""

import argparse
import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from vgp_lightning.shipped import CONFIGS


def locate_configs(arguments: list[str]) -> list[str]:
    """Put the configs first, so that all other options take precedence over them, and replace their names by paths.

    Args:
        arguments: Options of a verb, in any of the forms ``-c X``, ``-c=X``, ``-cX``, ``--config X``, ``--config=X``.

    Returns:
        The configs in their order, each as option and path of a file, then everything else unchanged.

    Raises:
        ValueError: If there is no file of one of the names.
    """
    configs: list[str] = []
    others: list[str] = []
    expected = False  # whether this word is the value of the one before
    for word in arguments:
        if expected:
            configs += [others.pop(), _locate(word)]
        elif word.startswith(("--config=", "-c=")):
            option, name = word.split("=", 1)
            configs += [option, _locate(name)]
        elif word.startswith("-c") and word != "-c":
            configs += ["-c", _locate(word.removeprefix("-c"))]
        else:
            others.append(word)
        expected = not expected and word in ("-c", "--config")
    return configs + others


def show_configs(arguments: list[str], parse_error: Callable[..., NoReturn]) -> None:
    """List the packaged configs, each with the first line of its comment, or print one of them.

    Args:
        arguments: Verb, and the name of the config to print, if any.
        parse_error: Reports an error in the options.

    Raises:
        ValueError: If no packaged config has this name.
    """

    class Parser(argparse.ArgumentParser):
        error = parse_error

    parser = Parser(
        prog="vgp configs", description="list the configs that ship with the package, or print one", allow_abbrev=False
    )
    parser.add_argument("name", nargs="?", help="the config to print, such as data/hopper-medium.yaml")
    name = parser.parse_args(arguments[1:]).name
    names = config_names()
    if name is not None:
        # Never the file of this name in the current folder: `vgp configs X > X` is how a copy is made.
        if name not in names:
            raise _unknown(name, f"among the packaged configs ({CONFIGS})")
        print((CONFIGS / name).read_text(), end="")
        return
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {_first_line(CONFIGS / name)}")


def _locate(name: str) -> str:
    """Return the path of a config: in the current folder first, then among the packaged ones."""
    if os.path.isfile(name):
        return name
    if os.path.exists(name) and not os.path.isdir(name):
        return Path(name).read_text()  # a pipe, such as that of <(COMMAND), can be read only once
    if name in config_names():
        return str(CONFIGS / name)
    if os.path.isdir(name):
        raise ValueError(f"{name} is a folder, and -c takes a file; `vgp configs` lists the packaged ones")
    if _is_yaml(name):
        return name
    raise _unknown(name, f"in the current folder ({Path.cwd()}), then among the packaged configs ({CONFIGS})")


def config_names() -> list[str]:
    """Return the packaged configs as users name them: relative to their folder."""
    paths = (path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
    return [path.as_posix() for path in sorted(paths, key=lambda path: (len(path.parts), path))]


def _is_yaml(text: str) -> bool:
    """Return whether the text is options written as YAML, which jsonargparse takes in place of a file's name."""
    import yaml

    try:
        return isinstance(yaml.safe_load(text), dict)
    except (yaml.YAMLError, RecursionError):
        return False


def _unknown(name: str, where: str) -> ValueError:
    near = difflib.get_close_matches(name, config_names(), n=1)
    guess = f" Did you mean {near[0]}?" if near else ""
    return ValueError(f"there is no config {name!r}: looked {where}.{guess} `vgp configs` lists the packaged ones.")


def _first_line(path: Path) -> str:
    return path.read_text().splitlines()[0].removeprefix("#").strip()
