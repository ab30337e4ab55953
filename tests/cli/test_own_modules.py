"""``--env_id module:Id`` finds a module in the current folder, and nothing but the user's own option does."""

import importlib
import sys

import gymnasium
import minari
import pytest
from fakes import write_tiny

from vgp_lightning.cli import main

MODULE = """
import gymnasium, numpy
from {name}_helper import GOAL

class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (3,))
    action_space = gymnasium.spaces.Box(-1, 1, (2,))
    def __init__(self, render_mode=None): pass
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return numpy.zeros(3, dtype=numpy.float32), {{}}
    def step(self, action):
        return numpy.ones(3, dtype=numpy.float32), GOAL, False, False, {{}}

gymnasium.register("Mine-v0", entry_point="{name}:Mine", max_episode_steps=4)
open("imported", "w").close()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a module that registers an environment and imports one beside it."""
    name = "tasks_of_a_test"
    (tmp_path / f"{name}.py").write_text(MODULE.format(name=name))
    (tmp_path / f"{name}_helper.py").write_text("GOAL = 2.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    importlib.invalidate_caches()
    yield tmp_path
    gymnasium.registry.pop("Mine-v0", None)
    for module in (name, f"{name}_helper"):
        sys.modules.pop(module, None)


def test_an_environment_of_a_file_in_the_current_folder_is_found(here):
    options = ["--behaviour", "random", "--steps", "8", "--dataset_id", "me/mine-v0"]
    main(["collect", "--env_id", "tasks_of_a_test:Mine-v0", *options])
    assert minari.load_dataset("me/mine-v0").total_steps == 8
    assert (here / "imported").exists()


@pytest.mark.parametrize("how", ["config", "folder"])
def test_an_id_that_somebody_else_wrote_imports_nothing_from_the_current_folder(here, how, capfd):
    if how == "config":
        (here / "own.yaml").write_text("env_id: tasks_of_a_test:Mine-v0\n")
        options = ["collect", "--behaviour", "random", "--steps", "8", "--dataset_id", "me/a-v0", "-c", "own.yaml"]
    else:
        write_tiny(here / "planner", task={"env_id": "tasks_of_a_test:Mine-v0"})
        options = ["evaluate", "planner", "--episodes", "1"]
    with pytest.raises(SystemExit):
        main(options)
    assert "--env_id" in capfd.readouterr().err
    assert not (here / "imported").exists()
    assert str(here) not in sys.path


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "json:Mine-v0", "nowhere:Mine-v0", "a b:c"])
def test_the_current_folder_is_not_looked_at_where_it_has_nothing_to_give(here, env_id, capfd):
    (here / "json.py").write_text("open('imported', 'w').close()\n")
    options = ["--behaviour", "random", "--steps", "4", "--max_episode_steps", "4", "--dataset_id", "me/a-v0"]
    if env_id == "Pendulum-v1":
        main(["collect", "--env_id", env_id, *options])
    else:
        with pytest.raises(SystemExit):
            main(["collect", "--env_id", env_id, *options])
    assert str(here) not in sys.path
    assert not (here / "imported").exists()
    if env_id == "nowhere:Mine-v0":
        assert "No module named 'nowhere': looked among the installed packages, then in the" in capfd.readouterr().err
