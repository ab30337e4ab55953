"""Environments that a folder may name: all that are registered, as gymnasium itself writes them."""

import json

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec

from vgp_lightning.agent.trust import trusted_spec
from vgp_lightning.data.registry import register_robotics

MAZE = [[1, 1, 1, 1], [1, "g", 0, 1], [1, 1, 1, 1]]


def written(name, **changes):
    return json.loads(gymnasium.spec(name).to_json()) | changes


def test_every_registered_environment_is_taken_as_gymnasium_writes_it():
    register_robotics("PointMaze_UMaze-v3")
    taken = 0
    for name, registered in gymnasium.registry.items():
        if isinstance(registered.entry_point, str) and "shimmy" not in name:
            spec = trusted_spec({"env_spec": written(name)}, "folder")
            assert (spec.id, spec.entry_point) == (name, registered.entry_point)
            assert json.dumps(spec.kwargs) == json.dumps(registered.kwargs)
            taken += 1
    assert taken > 50


def test_keyword_arguments_and_the_time_limit_are_those_of_the_folder():
    kwargs = {"healthy_z_range": [0.7, float("inf")], "exclude_current_positions_from_observation": False}
    spec = trusted_spec({"env_spec": written("Hopper-v5", kwargs=kwargs, max_episode_steps=7)}, "folder")
    assert (spec.kwargs, spec.max_episode_steps, spec.reward_threshold) == (kwargs, 7, 3800.0)
    assert gymnasium.spec("Hopper-v5").kwargs == {}


def test_a_maze_of_the_dataset_is_taken_without_its_render_mode():
    pytest.importorskip("gymnasium_robotics")
    register_robotics("PointMaze_UMaze-v3")
    given = written("PointMaze_UMaze-v3", kwargs={"maze_map": MAZE, "reset_target": False, "render_mode": "human"})
    assert trusted_spec({"env_spec": given}, "folder").kwargs == {"maze_map": MAZE, "reset_target": False}


def test_specifications_of_older_versions_are_taken():
    given = written("Pendulum-v1") | {"apply_api_compatibility": False, "autoreset": False}
    del given["vector_entry_point"]
    assert trusted_spec({"env_spec": given}, "folder").max_episode_steps == 200


def test_a_task_without_an_environment_names_none():
    assert trusted_spec({"env_id": None, "env_spec": None}, "folder") is None
    assert trusted_spec({"env_id": "Hopper-v5"}, "folder") == "Hopper-v5"


def test_an_environment_of_the_users_process_is_taken_as_it_is_registered_there(monkeypatch, track):
    place = f"{track.__module__}:{track.__qualname__}"
    given = json.loads(EnvSpec("Track-v0", place, max_episode_steps=3).to_json())
    assert trusted_spec({"env_spec": given}, "folder").entry_point is track
    with pytest.raises(ValueError, match="Track-v0 with keyword arguments of its own"):
        trusted_spec({"env_spec": given | {"kwargs": {"length": 3}}}, "folder")
