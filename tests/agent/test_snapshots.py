"""A restored environment goes on as an unbroken run does, to the bit."""

import gymnasium
import numpy as np
import pytest

from vgp_lightning.agent.environments import environment_of, make_environments
from vgp_lightning.agent.snapshots import restore, take_snapshot

STEPS = 25


def play(environment, actions):
    return [environment.step(action)[:4] for action in actions]


def same(first, second):
    return len(first) == len(second) and all(
        np.array_equal(one[0], other[0]) and one[1:] == other[1:] for one, other in zip(first, second, strict=True)
    )


def make(name, seed=0, **kwargs):
    environments = make_environments(name, 1, **kwargs)
    environments.reset(seed=seed)
    return environment_of(environments, 0)


# Ant's rewards come of positions that MuJoCo derives, and its observations of contact forces; a maze holds an
# environment that is no wrapper; Pendulum is plain Python.
@pytest.mark.parametrize(
    "name", ["Hopper-v5", "Walker2d-v5", "Ant-v5", "PointMaze_UMaze-v3", "Pendulum-v1", "Track-v0"]
)
def test_it_goes_on_as_an_unbroken_run_does(name, track):
    if name.startswith("PointMaze"):
        pytest.importorskip("gymnasium_robotics")
    environment = make(name)
    random = np.random.default_rng(1)
    space = environment.action_space
    actions = [random.uniform(0.2 * space.low, 0.2 * space.high) for _ in range(STEPS)]
    before, after = actions[: STEPS // 2], actions[STEPS // 2 :]
    play(environment, before)
    snapshot = take_snapshot(environment)
    unbroken = play(environment, after)
    for another in (environment, make(name, seed=7)):
        play(another, before[:3])  # from another state, in another history
        restore(another, snapshot)
        assert same(play(another, after), unbroken)
    # It is not used up, and not changed by the steps since.
    restore(environment, snapshot)
    assert same(play(environment, after), unbroken)


def test_the_steps_that_a_time_limit_has_counted_are_part_of_it():
    environment = make("Hopper-v5", max_episode_steps=10)
    action = np.zeros(3)
    play(environment, [action] * 7)
    snapshot = take_snapshot(environment)
    for _ in range(3):
        restore(environment, snapshot)
        assert [step[3] for step in play(environment, [action] * 3)] == [False, False, True]


def test_chance_in_a_step_is_part_of_it(track, monkeypatch):
    environment = make("Track-v0")
    environment.unwrapped.slip = np.random.default_rng(3)
    snapshot = take_snapshot(environment)
    first = play(environment, [np.zeros(1)])
    restore(environment, snapshot)
    assert same(play(environment, [np.zeros(1)]), first)


def test_another_environment_is_refused(track):
    with pytest.raises(ValueError, match="taken of another environment"):
        restore(make("Track-v0"), take_snapshot(gymnasium.make("Track-v0", disable_env_checker=True)))
