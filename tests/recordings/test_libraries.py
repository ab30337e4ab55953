"""import-data on files that other libraries wrote with their own code: what comes out is what went in, to the bit.

tests/fixtures/formats.tar.xz holds the files, and as npz the arrays that went in. The programs that made them are in
tests/fixtures/formats; their first lines name the libraries, with versions.
"""

import tarfile
from pathlib import Path

import minari
import numpy as np
import pytest

from vgp_lightning.recordings.importing import import_data

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "formats.tar.xz"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def what_went_in(path):
    """Return the arrays of each episode."""
    episodes: dict[int, dict] = {}
    with np.load(path) as arrays:
        for name in arrays.files:
            number, key = name.split("/", 1)
            episodes.setdefault(int(number), {})[key] = arrays[name]
    return [episodes[number] for number in sorted(episodes)]


def assert_is(episode, observations, actions, rewards, terminated):
    np.testing.assert_array_equal(episode.observations, observations)
    np.testing.assert_array_equal(episode.actions, actions)
    np.testing.assert_array_equal(episode.rewards, rewards)
    assert episode.terminations.tolist() == [False] * (len(actions) - 1) + [terminated]
    assert episode.truncations.tolist() == [False] * (len(actions) - 1) + [not terminated]


@pytest.mark.parametrize("version", ["v21", "v30"])
def test_a_dataset_that_lerobot_wrote_comes_out_as_it_went_in(files, version, capsys):
    went_in = what_went_in(files / f"lerobot-{version}.npz")
    found = list(import_data(str(files / f"lerobot-{version}"), dataset_id="me/lerobot-v0"))
    assert len(found) == len(went_in) == 4
    for episode, one in zip(found, went_in, strict=True):
        rewards = one["next.reward"][:-1, 0]
        assert_is(episode, one["observation.state"], one["action"][:-1], rewards, terminated=False)
        assert episode.actions.dtype == episode.observations.dtype == np.float32
    said = capsys.readouterr().out
    assert "read as lerobot" in said
    assert "left out (a planner takes states): observation.images.top, observation.images.wrist" in said
    assert "50 steps a second" in said


@pytest.mark.parametrize("version", ["v21", "v30"])
def test_the_ends_that_lerobot_stores_are_taken_where_they_are_named(files, version):
    went_in = what_went_in(files / f"lerobot-{version}.npz")
    options = {"terminals": "next.done", "last_observation": "repeat"}
    found = import_data(str(files / f"lerobot-{version}"), dataset_id="me/lerobot-v0", **options)
    for episode, one in zip(found, went_in, strict=True):
        observations = np.concatenate([one["observation.state"], one["observation.state"][-1:]])
        assert_is(episode, observations, one["action"], one["next.reward"][:, 0], bool(one["next.done"][-1, 0]))


def test_a_matrix_that_lerobot_wrote_is_an_observation_of_its_numbers(files):
    went_in = what_went_in(files / "lerobot-v21.npz")
    keys = ["observation.pose", "observation.state"]
    found = import_data(str(files / "lerobot-v21"), dataset_id="me/lerobot-v0", observations=keys)
    for episode, one in zip(found, went_in, strict=True):
        expected = np.concatenate([one["observation.pose"].reshape(-1, 4), one["observation.state"]], axis=1)
        np.testing.assert_array_equal(episode.observations, expected)


def test_demonstrations_that_robomimic_extracted_come_out_as_they_went_in(files, capsys):
    went_in = what_went_in(files / "robomimic.npz")
    found = list(import_data(str(files / "robomimic.hdf5"), dataset_id="me/robomimic-v0"))
    assert len(found) == len(went_in) == 2
    for episode, one in zip(found, went_in, strict=True):
        # done_mode 2 of robomimic: the end of each demonstration is one, as in its datasets of human demonstrations.
        assert_is(episode, one["states"], one["actions"], one["rewards"], terminated=True)
    said = capsys.readouterr().out
    assert "obs/position (1), obs/velocity (1)" in said
    assert "obs/front_image (images of shape (20, 20, 3))" in said
    assert "20 steps a second" in said


def test_episodes_that_d4rl_s_program_played_come_out_in_single_precision_as_it_writes_them(files, capsys):
    went_in = what_went_in(files / "d4rl.npz")
    found = list(import_data(str(files / "d4rl.hdf5"), dataset_id="me/d4rl-v0"))
    assert [len(episode.actions) for episode in found] == [8, 10, 10, 2]
    assert [len(one["actions"]) for one in went_in] == [8, 10, 10, 5]  # D4RL cuts the last one at its number of steps
    for episode, one in zip(found, went_in, strict=True):
        steps = len(episode.actions)
        single = {key: values.astype(np.float32) for key, values in one.items()}
        whole = steps == len(one["actions"])
        observations, rewards = single["observations"][: steps + 1], single["rewards"][:steps]
        assert_is(episode, observations, single["actions"][:steps], rewards, whole and bool(one["terminated"]))
    assert sum(bool(episode.terminations[-1]) for episode in found) == 1
    assert "infos/action_log_probs, infos/qpos, infos/qvel" in capsys.readouterr().out


def test_trajectories_that_ogbench_s_program_played_are_those_that_its_own_reader_finds(files):
    with np.load(files / "ogbench-read.npz") as read:
        ends = np.flatnonzero(read["terminals"]) + 1
        split = {key: np.split(read[key], ends[:-1]) for key in ("observations", "actions", "next_observations")}
    found = import_data(str(files / "ogbench.npz"), dataset_id="me/ogbench-v0", no_rewards=True)
    assert found.total_episodes == len(ends) == 3
    for number, episode in enumerate(minari.load_dataset("me/ogbench-v0")):
        observations = np.concatenate([split["observations"][number], split["next_observations"][number][-1:]])
        actions = split["actions"][number]
        assert_is(episode, observations, actions, np.zeros(len(actions)), terminated=False)
