"""write_episodes: plain arrays become a dataset that trains, or a message that says what is missing."""

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer

from vgp_lightning.data import MinariDataModule, write_episodes


def episode(steps=6, seed=0, **replaced):
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.normal(size=(steps + 1, 3)),
        "actions": rng.uniform(-0.5, 0.5, (steps, 2)),
        "rewards": rng.normal(size=steps),
    } | replaced


def test_arrays_come_out_as_they_went_in_and_a_module_reads_them():
    written = [episode(6, 0, terminated=True), episode(9, 1)]
    dataset = write_episodes("me/robot/runs-v0", written, description="by hand")
    for found, expected in zip(minari.load_dataset("me/robot/runs-v0"), written, strict=True):
        for key in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(found, key), expected[key])
    assert [found.terminations[-1] for found in dataset] == [True, False]
    assert [found.truncations[-1] for found in dataset] == [False, True]
    assert dataset.action_space == spaces.Box(-1, 1, (2,), np.float64)  # the convention, since all actions keep it
    data = MinariDataModule("me/robot/runs-v0", horizon=4, validation_share=0.5)
    data.setup("fit")
    assert (data.action_dim, data.observation_dim) == (2, 3)


def test_lists_and_minaris_own_buffers_are_episodes_too():
    arrays = episode(4, 2)
    buffer = EpisodeBuffer(
        observations=list(arrays["observations"]),
        actions=list(arrays["actions"]),
        rewards=arrays["rewards"].tolist(),
        terminations=[False, False, False, True],
        truncations=[False] * 4,
    )
    lists = {key: values.tolist() for key, values in arrays.items()}
    one, other = write_episodes("me/two-v0", [buffer, lists])
    np.testing.assert_array_equal(one.observations, other.observations)
    assert one.terminations.tolist() == [False, False, False, True]
    assert not other.terminations.any()


@pytest.mark.parametrize(
    ("bounds", "low", "high"),
    [
        ({}, [-3, -0.5], [2, 0.5]),
        ({"action_low": -4, "action_high": [4, 5]}, [-4, -4], [4, 5]),
        ({"action_low": -4}, [-4, -4], [2, 0.5]),
    ],
)
def test_actions_beyond_1_are_bounded_by_the_data_or_by_the_user(bounds, low, high):
    actions = np.array([[-3.0, 0.5], [2.0, -0.5]])
    dataset = write_episodes("me/a-v0", [episode(2, actions=actions)], **bounds)
    np.testing.assert_array_equal(dataset.action_space.low, low)
    np.testing.assert_array_equal(dataset.action_space.high, high)


def test_one_bound_of_the_users_leaves_the_environments_other_one():
    some = episode(4, observations=np.zeros((5, 3)), actions=np.full((4, 1), 0.5))
    dataset = write_episodes("me/pendulum-v0", [some], env_id="Pendulum-v1", action_low=-1)
    assert (dataset.action_space.low.tolist(), dataset.action_space.high.tolist()) == ([-1], [2])


def test_named_observations_have_the_order_of_the_first_episode():
    parts = {"p": np.ones((5, 1)), "v": np.full((5, 2), 2.0)}
    reversed_parts = dict(reversed(parts.items()))
    one, other = write_episodes("me/named-v0", [episode(4, observations=each) for each in (parts, reversed_parts)])
    assert one.observations.tolist() == other.observations.tolist() == [[1, 2, 2]] * 5
    with pytest.raises(ValueError, match=r"episode 1 has observations \['p'\]: \['p', 'v'\] are needed"):
        write_episodes("me/b-v0", [episode(4, observations=each) for each in (parts, {"p": parts["p"]})])


class TwoParts(gymnasium.Env):
    observation_space = spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Dict({"a": spaces.Box(-1, 1, (1,))})])
    action_space = spaces.Box(-1, 1, (2,))


def test_observations_of_a_tuple_are_written_as_one_and_read_again(monkeypatch):
    spec = EnvSpec("TwoParts-v0", entry_point=f"{__name__}:{TwoParts.__name__}")
    monkeypatch.setitem(gymnasium.registry, spec.id, spec)
    some = episode(4, observations=np.arange(15).reshape(5, 3) / 20)
    (found,) = write_episodes("me/tuple-v0", [some], env_id="TwoParts-v0")
    np.testing.assert_allclose(found.observations[0], some["observations"][:, :2], rtol=1e-6)
    np.testing.assert_allclose(found.observations[1]["a"], some["observations"][:, 2:], rtol=1e-6)
    data = MinariDataModule("me/tuple-v0", horizon=2, validation_share=0.0)
    data.setup("fit")
    window = data.train_windows.batch([0]).trajectories[0]
    np.testing.assert_allclose(window[:, 2:], some["observations"][:2], rtol=1e-6)


def test_an_end_in_the_middle_is_said():
    with pytest.warns(UserWarning, match="episode 0 goes on after step 1, which is marked as its terminal one"):
        write_episodes("me/on-v0", [episode(4, terminations=[0, 1, 0, 0])])


def test_an_environment_gives_bounds_specification_and_the_order_of_named_observations():
    rng = np.random.default_rng(0)
    parts = {"observation": rng.normal(size=(4, 4)), "desired_goal": np.ones((4, 2)), "achieved_goal": np.zeros((4, 2))}
    maze = episode(3, observations=parts, actions=rng.uniform(-1, 1, (3, 2)).astype(np.float32))
    dataset = write_episodes("me/maze-v0", [maze], env_id="PointMaze_UMaze-v3")
    (found,) = dataset
    np.testing.assert_array_equal(found.observations["desired_goal"], parts["desired_goal"])
    np.testing.assert_array_equal(found.observations["observation"], parts["observation"])
    assert dataset.env_spec.id == "PointMaze_UMaze-v3"
    assert gymnasium.make("Pendulum-v1").action_space == spaces.Box(-2, 2, (1,), np.float32)
    with pytest.raises(ValueError, match=r"episode 0 has actions outside the bounds .*2\.5, bounds -2\.0 to 2\.0"):
        write_episodes("me/p-v0", [episode(2, actions=np.array([[0.0], [2.5]]))], env_id="Pendulum-v1")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"observations": np.zeros((6, 3))}, r"6 observations for 6 actions, 7 are needed: the observation after the"),
        ({"observations": np.zeros((9, 3))}, r"9 observations for 6 actions, 7 are needed$"),
        ({"observations": np.full((7, 3), np.inf)}, r"observations that are not finite in float32, first at step 0"),
        ({"rewards": np.zeros(5)}, r"rewards of shape \(5,\): \(6,\) is needed"),
        ({"rewards": None}, "has no rewards: give observations"),
        ({"actions": np.zeros((0, 2))}, "has no steps: leave it out"),
        ({"terminations": [False, True]}, r"has terminations of shape \(2,\): 6 of true or false, or 0 and 1"),
        ({"terminations": [0, 0, 0, 0, 0, np.nan]}, "has terminations of shape .*: 6 of true or false"),
        ({"actions": np.array(["left"] * 6)}, "actions of type <U4 .* an array of real numbers"),
        ({"observations": np.zeros((7, 2))}, "has observations of 2 numbers, episode 0 of 3"),
    ],
)
def test_an_episode_that_cannot_be_right_is_refused_with_its_number_and_nothing_is_left(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=f"episode 1.*{message}"):
        write_episodes("me/wrong-v0", [episode(), episode(6, 1, **wrong)])
    assert not (tmp_path / "minari/me").exists()


def test_no_episodes_are_refused():
    with pytest.raises(ValueError, match="there are no episodes to write as me/none-v0"):
        write_episodes("me/none-v0", [])
