"""docs/data.md: its Python runs from top to bottom, its commands are understood, and those of its example run."""

import functools
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import minari
import pytest
import yaml

from vgp_lightning import cli
from vgp_lightning.cli.verbs import VERBS
from vgp_lightning.shipped import CONFIGS

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text()
RUN = ("import-data runs.npz --dataset_id me/robot/runs-v0", "describe")  # on what the page's Python writes
# minari.DataCollector needs jax, which is no dependency here: its tree_map, for the structures that are used.
JAX = """
def tree_map(function, tree, *rest):
    if isinstance(tree, dict):
        return {key: tree_map(function, tree[key], *(other[key] for other in rest)) for key in tree}
    if isinstance(tree, tuple):
        return tuple(tree_map(function, *parts) for parts in zip(tree, *rest))
    return function(tree, *rest)
"""


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def commands():
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    return [line.split("  #")[0].strip() for line in text.splitlines() if line.startswith("vgp ")]


def test_the_python_of_the_page_runs_as_printed_and_its_three_commands_on_what_it_wrote(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax/__init__.py").write_text("")
    (tmp_path / "jax/tree_util.py").write_text(JAX)
    pages = [block for block in blocks("python") if not block.startswith("# my_robot.py")]
    script = "\n".join(pages)
    environment = os.environ | {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = {"me/robot/python-v0": 1000, "me/pendulum/buffers-v0": 500, "me/pendulum/collector-v0": 500}
    assert {name: minari.load_dataset(name).total_steps for name in steps} == steps
    for command in commands():
        if command.removeprefix("vgp ").startswith(RUN):
            cli.main(shlex.split(command)[1:])
    assert minari.load_dataset("me/robot/runs-v0").total_episodes == 20
    assert yaml.safe_load((tmp_path / "own.yaml").read_text())["data"]["dataset_id"] == "me/robot/runs-v0"


@pytest.mark.parametrize("command", commands())
def test_each_command_of_the_page_is_understood(command, monkeypatch, tmp_path):
    _, verb, *options = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("data: {dataset_id: me/robot/runs-v0}\n")
    if verb == "fit":
        with pytest.raises(SystemExit) as ended:
            cli.main([verb, *options, "--print_config"])
        assert ended.value.code == 0
        return
    called = []
    entry = VERBS[verb]
    module = import_module(f"vgp_lightning.{entry.module}")
    function = getattr(module, entry.function)
    monkeypatch.setattr(module, entry.function, functools.wraps(function)(lambda **given: called.append(given)))
    cli.main([verb, *options])
    assert len(called) == 1


def test_each_recipe_s_dataset_has_a_stand_in_or_says_that_there_is_none():
    for path in (CONFIGS / "data").glob("*.yaml"):
        assert f"data/{path.name}" in PAGE, path.name
