"""Writing a dataset: what Minari reads back, which ids it takes, and that a failure leaves nothing."""

import errno
import os
import warnings

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from vgp_lightning.data.cache import cached, load
from vgp_lightning.data.writing import free_path, write_dataset

MALFORMED = [
    "hopper",
    "demo/hopper",
    "demo/hopper v0",
    "../hopper-v0",
    "hopper-v",
    "d/hopper-v0",
    "/hopper-v0",
    "-v",
    "",
]
WELL_FORMED = ["hopper-v0", "demo/hopper-v12", "de/mo/hopper-v0", "a-b_c/d-e_f-v1", "h-v0"]
ABOUT = {"algorithm_name": "by hand", "description": "tiny"}


class Nested(gymnasium.Env):
    """An environment of which only the spaces matter."""

    observation_space = spaces.Dict(
        place=spaces.Box(-9, 9, (2, 2), np.float64), speed=spaces.Dict(now=spaces.Box(-9, 9, (1,), np.float64))
    )
    action_space = spaces.Box(-1, 1, (2, 1), np.float32)


@pytest.fixture
def environment():
    gymnasium.register("Nested-v0", entry_point=f"{__name__}:Nested")
    yield gymnasium.make("Nested-v0", disable_env_checker=True)
    del gymnasium.registry["Nested-v0"]


def flat_episode(steps, seed=0):
    rng = np.random.default_rng(seed)
    last = np.arange(steps) == steps - 1
    return EpisodeBuffer(
        seed=seed,
        observations=list(rng.normal(size=(steps + 1, 5))),
        actions=list(rng.uniform(-1, 1, (steps, 2)).astype(np.float32)),
        rewards=list(rng.normal(size=steps)),
        terminations=list(last),
        truncations=[False] * steps,
    )


# ---------------------------------------------------------------- what is written


def test_flat_episodes_get_the_structure_of_the_environments_spaces(environment):
    flat = [flat_episode(3, 7), flat_episode(2, 8)]
    write_dataset("test/nested-v0", flat, environment, **ABOUT)
    dataset = minari.load_dataset("test/nested-v0")
    assert [int(m["seed"]) for m in dataset.storage.get_episode_metadata(range(2))] == [7, 8]
    for episode, expected in zip(dataset.iterate_episodes(), flat, strict=True):
        observations = np.stack(expected.observations)
        np.testing.assert_array_equal(episode.observations["place"].reshape(-1, 4), observations[:, :4])
        np.testing.assert_array_equal(episode.observations["speed"]["now"], observations[:, 4:])
        np.testing.assert_array_equal(episode.actions[:, :, 0], expected.actions)
        np.testing.assert_array_equal(episode.rewards, expected.rewards)
        np.testing.assert_array_equal(episode.terminations, expected.terminations)


def test_the_cache_flattens_what_was_given_its_structure(environment, tmp_path):
    episode = flat_episode(4)
    rows = load(cached([write_dataset("test/nested-v0", [episode], environment, **ABOUT)], tmp_path / "arrays")).rows
    np.testing.assert_array_equal(rows[:4, :2], np.stack(episode.actions))
    np.testing.assert_array_equal(rows[:, 2:], np.float32(episode.observations))


def test_the_dataset_says_how_it_was_made(environment):
    scores = {"ref_min_score": -1.0, "ref_max_score": 3.0}
    dataset = write_dataset("test/about-v0", [flat_episode(1)], environment, **ABOUT, **scores)
    assert {name: dataset.storage.metadata[name] for name in (ABOUT | scores)} == ABOUT | scores
    assert dataset.env_spec.id == "Nested-v0"


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize("dataset_id", MALFORMED)
def test_a_malformed_id_is_refused_and_leaves_nothing(environment, dataset_id, tmp_path):
    with pytest.raises(ValueError, match=r"malformed: it must be \(namespace/\)name-vN"):
        write_dataset(dataset_id, [flat_episode(1)], environment, **ABOUT)
    assert not (tmp_path / "minari").exists()


def test_minari_calls_the_same_ids_malformed(make_dataset, make_episode):
    for dataset_id in WELL_FORMED:
        free_path(dataset_id)
        assert make_dataset(dataset_id, [make_episode(1)]).id == dataset_id
    for dataset_id in MALFORMED:
        with pytest.raises((ValueError, TypeError)):
            make_dataset(dataset_id, [make_episode(1)])


def test_an_id_that_exists_is_refused_with_its_folder_and_the_command_that_removes_it(make_dataset, make_episode):
    path = free_path("test/one-v0")
    make_dataset("test/one-v0", [make_episode(3)])
    with pytest.raises(ValueError, match=r"'test/one-v0' already exists in .*minari delete test/one-v0") as caught:
        free_path("test/one-v0")
    assert str(path) in str(caught.value)


# ---------------------------------------------------------------- what a failure leaves


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_failure_leaves_no_dataset_and_the_others_as_they_were(environment, monkeypatch, error):
    write_dataset("test/first-v0", [flat_episode(3)], environment, **ABOUT)
    free = free_path("test/second-v0")

    def fails(*_, **__):
        assert not free.exists()  # half of it lies elsewhere
        assert list(free.parent.glob(".second-v0.building-*"))
        raise error("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(h5py.Group, "create_dataset", fails)
        with pytest.raises(error, match="power cut"):
            write_dataset("test/second-v0", [flat_episode(3)], environment, **ABOUT)
    assert [path.name for path in free.parent.iterdir() if path.is_dir()] == ["first-v0"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(minari.list_local_datasets()) == ["test/first-v0"]
    write_dataset("test/second-v0", [flat_episode(3)], environment, **ABOUT)


def test_a_dataset_that_another_process_has_written_meanwhile_stays(environment, monkeypatch):
    create = minari.create_dataset_from_buffers

    def overtaken(*arguments, **options):
        monkeypatch.setattr(minari, "create_dataset_from_buffers", create)
        root = os.environ["MINARI_DATASETS_PATH"]
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(home))
        write_dataset("test/one-v0", [flat_episode(7)], environment, **ABOUT)
        monkeypatch.setenv("MINARI_DATASETS_PATH", root)
        return create(*arguments, **options)

    home = os.environ["MINARI_DATASETS_PATH"]
    monkeypatch.setattr(minari, "create_dataset_from_buffers", overtaken)
    with pytest.raises(ValueError, match="'test/one-v0' already exists"):
        write_dataset("test/one-v0", [flat_episode(3)], environment, **ABOUT)
    assert minari.load_dataset("test/one-v0").total_steps == 7


def test_a_disk_without_room_is_named_before_hdf5_meets_it(environment, monkeypatch):
    def full(file, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left .*needs up to 0\.3 MB, and .* MB are free.*building") as caught:
        write_dataset("test/full-v0", [flat_episode(3)], environment, **ABOUT)
    assert caught.value.errno == errno.ENOSPC
    assert minari.list_local_datasets() == {}


@pytest.mark.parametrize(("count", "steps"), [(1, 1), (60, 2), (3, 5000), (40, 300)])
def test_what_is_reserved_is_more_than_what_is_written(environment, monkeypatch, count, steps):
    reserved = []
    monkeypatch.setattr(os, "posix_fallocate", lambda file, start, size: reserved.append(size))
    write_dataset("test/size-v0", [flat_episode(steps)] * count, environment, **ABOUT)
    size = sum(path.stat().st_size for path in (free_path("test/other-v0").parent / "size-v0").rglob("*.*"))
    assert size < reserved[0] < 2 * size + 400_000
