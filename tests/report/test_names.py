"""Names of dimensions: as many as the environments have, and each moves with the joint that it names."""

import gymnasium
import numpy as np
import pytest

from vgp_lightning.report.names import name_dimensions

PLANAR = ["Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Swimmer-v5", "InvertedPendulum-v5"]


@pytest.mark.parametrize("env_id", [*PLANAR, "Reacher-v5", "Ant-v5"])
def test_every_dimension_has_its_own_name(env_id):
    environment = gymnasium.make(env_id)
    actions, observations = environment.action_space.shape[0], environment.observation_space.shape[0]
    names = name_dimensions(env_id, actions, observations)
    assert (len(set(names.actions)), len(set(names.observations))) == (actions, observations)
    assert not any(name.startswith("action") for name in names.actions)
    numbered = sum(name.startswith("observation") for name in names.observations)
    structure = environment.unwrapped.observation_structure if env_id != "Reacher-v5" else {}
    assert numbered == structure.get("cfrc_ext", 0)
    if structure:
        velocities = [name for name in names.observations if "velocity" in name]
        assert len(velocities) == structure["qvel"]
        assert list(names.observations[structure["qpos"] :][: len(velocities)]) == velocities
    environment.close()


@pytest.mark.parametrize("env_id", [*PLANAR, "Ant-v5"])
def test_a_name_is_that_of_the_joint_which_moves_its_dimension(env_id):
    body = gymnasium.make(env_id).unwrapped
    body.reset(seed=0)
    names = name_dimensions(env_id, body.action_space.shape[0], body.observation_space.shape[0]).observations
    model, data = body.model, body.data
    for i in range(model.njnt):
        joint = model.joint(i)
        if joint.type == 0 or joint.name.startswith("root") or joint.name in ("free_body_rot", "slider1", "slider2"):
            continue  # the body's own place, of which not all is observed
        before = body._get_obs().copy()
        data.qpos[joint.qposadr[0]] += 0.1
        changed = np.flatnonzero(body._get_obs() != before)
        assert len(changed) == 1
        parts = {part: names[changed[0]].split() for part in ("thigh", "leg", "foot", "shin") if part in joint.name}
        for part, words in parts.items():
            if not (part == "leg" and env_id == "Ant-v5"):
                assert part in words, f"{joint.name} is called {names[changed[0]]}"
        if env_id == "Walker2d-v5":
            assert joint.name.endswith("_left_joint") == names[changed[0]].startswith("left ")
        if env_id == "HalfCheetah-v5":
            assert joint.name[0] == names[changed[0]][0]  # bthigh: back thigh
        if env_id == "Ant-v5":
            assert ("hip" in joint.name) == ("hip" in names[changed[0]])


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5"])
def test_an_action_is_named_after_the_joint_that_its_motor_turns(env_id):
    model = gymnasium.make(env_id).unwrapped.model
    names = name_dimensions(env_id, model.nu, {"Ant-v5": 105, "Hopper-v5": 11}.get(env_id, 17)).actions
    legs = {"1": "front left", "2": "front right", "3": "back left", "4": "back right"}  # the joints of Ant
    for i, name in enumerate(names):
        joint = model.joint(model.actuator(i).trnid[0]).name
        if env_id == "Ant-v5":
            assert name == f"{legs[joint[-1]]} {'hip' if 'hip' in joint else 'ankle'} torque"
        else:
            plain = joint.replace("_joint", "")
            ends = {"b": "back ", "f": "front "} if env_id == "HalfCheetah-v5" else {}
            plain = ends.get(plain[0], "") + plain[1:] if ends else plain
            side = "left " if plain.endswith("_left") else ""
            assert name == f"{side}{plain.removesuffix('_left')} torque"


def test_a_maze_is_named_in_the_order_of_its_flat_observation():
    robotics = pytest.importorskip("gymnasium_robotics")
    gymnasium.register_envs(robotics)
    environment = gymnasium.make("PointMaze_UMaze-v3")
    names = name_dimensions("PointMaze_UMaze-v3", 2, 8).observations
    observation, _ = environment.reset(seed=3)
    flat = gymnasium.spaces.flatten(environment.observation_space, observation)
    assert dict(zip(names, flat, strict=True))["goal y"] == observation["desired_goal"][1]
    assert dict(zip(names, flat, strict=True))["position x"] == observation["achieved_goal"][0]
    assert dict(zip(names, flat, strict=True))["velocity x"] == observation["observation"][2]
    environment.close()


@pytest.mark.parametrize("which", [("Hopper-v5", 3, 12), ("Hopper-v5", 2, 11), ("mine:Robot-v0", 3, 11), (None, 1, 2)])
def test_a_changed_or_unknown_environment_keeps_its_numbers(which):
    names = name_dimensions(*which)
    assert names.actions[0] == "action 0"
    assert names.observations[-1] == f"observation {which[2] - 1}"
