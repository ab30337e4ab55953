"""The cache: its rows, what is refused, and that it is built atomically, once for all processes."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from filelock import FileLock, Timeout
from gymnasium import spaces

from vgp_lightning.data import cache as module
from vgp_lightning.data import reading
from vgp_lightning.data.cache import cached, load, open_dataset
from vgp_lightning.data.spaces import check_spaces

UNIT = spaces.Box(-1, 1, (1,), np.float32)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "arrays"


def hdf5(dataset):
    return h5py.File(Path(dataset.storage.data_path) / "main_data.hdf5", "r+")


def replace(dataset, path, values):
    """Overwrite an array of the stored dataset in a way that Minari itself would not."""
    with hdf5(dataset) as file:
        del file[path]
        file[path] = values


# ---------------------------------------------------------------- what is in the arrays


def test_an_episode_has_a_row_for_each_step_and_one_of_final_observation_and_zero_action(
    make_dataset, make_episode, cache
):
    first, second = make_episode(3, 0), make_episode(2, 1, terminated=True)
    episodes = load(cached([make_dataset("test/two-v0", [first, second])], cache))
    assert episodes.rows.dtype == episodes.rewards.dtype == np.float32
    np.testing.assert_array_equal(episodes.lengths, [3, 2])
    np.testing.assert_array_equal(episodes.terminated, [False, True])
    np.testing.assert_array_equal(episodes.rows[:3, :1], first.actions)
    np.testing.assert_array_equal(episodes.rows[:4, 1:], first.observations)
    np.testing.assert_array_equal(episodes.rows[4:6, :1], second.actions)
    np.testing.assert_array_equal(episodes.rows[4:, 1:], second.observations)
    np.testing.assert_array_equal(episodes.rows[[3, 6], 0], 0)
    rewards = [*first.rewards, 0, *second.rewards, 0]
    np.testing.assert_array_equal(episodes.rewards, np.float32(rewards))


def test_the_zero_action_is_as_near_zero_as_the_bounds_allow(make_dataset, make_episode, cache):
    action_space = spaces.Box(np.float32([-1, 0.25, -3]), np.float32([1, 2, -0.5]))
    episode = make_episode(2, actions=np.float32([[-1, 0.25, -3], [1, 2, -0.5]]))
    dataset = make_dataset("test/rest-v0", [episode], action_space=action_space)
    np.testing.assert_array_equal(load(cached([dataset], cache)).rows[-1, :3], [0, 0.25, -0.5])


def test_an_episode_of_one_step_is_two_rows(make_dataset, make_episode, cache):
    episode = make_episode(1)
    episodes = load(cached([make_dataset("test/short-v0", [episode])], cache))
    np.testing.assert_array_equal(episodes.lengths, [1])
    np.testing.assert_array_equal(episodes.rows[:, 1:], episode.observations)


def test_nested_observations_are_flattened_in_gymnasiums_order(make_dataset, make_episode, cache):
    space = spaces.Dict(
        OrderedDict(  # not alphabetical
            zeta=spaces.Box(-9, 9, (2,), np.float32),
            alpha=spaces.Tuple([spaces.Box(-9, 9, (2, 2), np.float32), spaces.Box(-9, 9, (1,), np.float64)]),
        )
    )
    rng = np.random.default_rng(0)
    observations = {
        "alpha": (rng.normal(size=(4, 2, 2)).astype(np.float32), rng.normal(size=(4, 1))),
        "zeta": rng.normal(size=(4, 2)).astype(np.float32),
    }
    make_dataset("test/nested-v0", [make_episode(3, observations=observations)], space)
    dataset = minari.load_dataset("test/nested-v0")
    check_spaces(dataset, "test/nested-v0")
    expected = [
        spaces.flatten(
            dataset.observation_space,
            {"alpha": tuple(part[t] for part in observations["alpha"]), "zeta": observations["zeta"][t]},
        )
        for t in range(4)
    ]
    np.testing.assert_array_equal(load(cached([dataset], cache)).rows[:, 1:], np.float32(expected))


def test_observations_and_actions_of_more_dimensions_are_flattened(make_dataset, make_episode, cache):
    observations = np.arange(4 * 6, dtype=np.float32).reshape(4, 2, 3)
    actions = np.linspace(-1, 1, 3 * 4, dtype=np.float32).reshape(3, 2, 2)
    dataset = make_dataset(
        "test/matrix-v0",
        [make_episode(3, observations=observations, actions=actions)],
        spaces.Box(-np.inf, np.inf, (2, 3), np.float32),
    )
    rows = load(cached([dataset], cache)).rows
    np.testing.assert_array_equal(rows[:, 4:], observations.reshape(4, 6))
    np.testing.assert_array_equal(rows[:3, :4], actions.reshape(3, 4))


def test_several_datasets_follow_one_another(make_dataset, make_episode, cache):
    datasets = [make_dataset(f"test/part-v{i}", [make_episode(2 + i, i)]) for i in range(2)]
    episodes = load(cached(datasets, cache))
    np.testing.assert_array_equal(episodes.lengths, [2, 3])
    np.testing.assert_array_equal(episodes.per_dataset, [1, 1])
    np.testing.assert_array_equal(episodes.rows[:, 1], [0, 1, 2, 100, 101, 102, 103])


def test_no_episode_is_lost_or_doubled_where_the_file_is_opened_again(make_dataset, make_episode, cache, monkeypatch):
    monkeypatch.setattr(reading, "_OPEN", 2)
    episodes = load(cached([make_dataset("test/five-v0", [make_episode(1, number) for number in range(5)])], cache))
    np.testing.assert_array_equal(episodes.rows[::2, 1], [0, 100, 200, 300, 400])
    np.testing.assert_array_equal(episodes.per_dataset, [5])


def test_a_dataset_in_a_format_that_minari_reads_has_the_same_rows_and_checks(
    make_dataset, make_episode, cache, monkeypatch
):
    space = spaces.Dict(a=UNIT, b=spaces.Tuple([UNIT, UNIT]))
    numbers = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4, 1)
    episode = make_episode(3, observations={"a": numbers[0], "b": (numbers[1], numbers[2])})
    dataset = make_dataset("test/nested-v0", [episode, episode], space)
    right = load(cached([dataset], cache))
    # Arrow needs pyarrow; Minari's own reader of HDF5 returns the same types.
    monkeypatch.setattr(type(dataset.storage), "FORMAT", "arrow")
    found = load(cached([dataset], cache.with_name("other")))
    for one, other in zip(found, right, strict=True):
        np.testing.assert_array_equal(one, other)
    replace(dataset, "episode_1/rewards", np.zeros((3, 2)))
    with pytest.raises(
        ValueError, match=r"episode 1 of test/nested-v0 has rewards of shape \(3, 2\): \(3,\) is needed"
    ):
        cached([dataset], cache.with_name("other"))
    with hdf5(dataset) as file:
        del file["episode_1/observations/b"]
    with pytest.raises(ValueError, match=r"episode 1 of test/nested-v0: observations lacks b; .*parts a, b"):
        cached([dataset], cache.with_name("other"))
    with hdf5(dataset) as file:
        del file["episode_1/rewards"]
    with pytest.raises(ValueError, match=r"episode 1 of test/nested-v0 cannot be read: .*rewards"):
        cached([dataset], cache.with_name("other"))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["observations", "actions", "rewards"])
def test_a_number_that_is_not_finite_is_refused_with_its_episode_array_and_step(
    make_dataset, make_episode, cache, part, value
):
    episodes = [make_episode(4, number) for number in range(3)]
    getattr(episodes[1], part)[2:] = value
    dataset = make_dataset("test/nan-v0", episodes)
    with pytest.raises(
        ValueError,
        match=rf"episode 1 of test/nan-v0 has {part} .*not finite in float32, first at step 2(, dimension 0)?: ",
    ):
        cached([dataset], cache)


def test_a_number_too_large_for_float32_is_refused(make_dataset, make_episode, cache):
    observations = np.zeros((4, 2))
    observations[2, 1] = 1e39  # the largest float32 is 3.4e38
    space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    dataset = make_dataset("test/huge-v0", [make_episode(3, observations=observations)], space)
    with pytest.raises(ValueError, match=r"episode 0 of test/huge-v0 has observations .*step 2"):
        cached([dataset], cache)


@pytest.mark.parametrize(
    ("part", "kept", "expected"), [("observations", 4, 5), ("rewards", 3, 4), ("terminations", 3, 4)]
)
def test_an_array_of_the_wrong_length_is_refused(make_dataset, make_episode, cache, part, kept, expected):
    broken = make_episode(4, 1)
    dataset = make_dataset("test/short-v0", [make_episode(4, 0), broken])
    replace(dataset, f"episode_1/{part}", np.asarray(getattr(broken, part))[:kept])
    with pytest.raises(
        ValueError, match=f"episode 1 of test/short-v0 has {kept} {part} for 4 actions: {expected} are needed"
    ):
        cached([dataset], cache)


def test_an_episode_without_a_step_is_refused(make_dataset, make_episode, cache):
    dataset = make_dataset("test/empty-v0", [make_episode(2, 0), make_episode(1, 1)])
    replace(dataset, "episode_1/actions", np.zeros((0, 1), np.float32))
    for part in ("rewards", "terminations", "truncations"):
        replace(dataset, f"episode_1/{part}", np.zeros(0))
    replace(dataset, "episode_1/observations", np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="episode 1 of test/empty-v0 has no steps"):
        cached([dataset], cache)


@pytest.mark.parametrize("change", [-1, 1])
def test_metadata_with_another_number_of_steps_are_refused(make_dataset, make_episode, cache, change):
    dataset = make_dataset("test/count-v0", [make_episode(3)])
    dataset._total_steps = dataset.total_steps + change
    with pytest.raises(ValueError, match=r"test/count-v0.*Collect or download the dataset again"):
        cached([dataset], cache)


def test_a_refused_dataset_leaves_no_cache(make_dataset, make_episode, cache):
    episode = make_episode(3)
    episode.rewards[1] = np.nan
    dataset = make_dataset("test/nan-v0", [episode])
    for _ in range(2):  # the second call must not find a cache
        with pytest.raises(ValueError, match="not finite"):
            cached([dataset], cache)
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_discrete_actions_and_observations_are_refused_by_name(make_dataset, make_episode):
    choice = spaces.Discrete(3)
    actions = make_episode(2, actions=np.array([0, 2]))
    with pytest.raises(ValueError, match=r"test/choice-v0 has actions Discrete\(3\)"):
        check_spaces(make_dataset("test/choice-v0", [actions], action_space=choice), "test/choice-v0")
    observations = make_episode(2, observations={"a": np.zeros((3, 1), np.float32), "b": np.array([0, 1, 2])})
    space = spaces.Dict(a=UNIT, b=choice)
    with pytest.raises(ValueError, match=r"test/cell-v0 has observations .*Discrete\(3\)"):
        check_spaces(make_dataset("test/cell-v0", [observations], space), "test/cell-v0")


def test_a_missing_dataset_names_the_command_and_a_near_name(make_dataset, make_episode):
    make_dataset("demo/hopper-v0", [make_episode(1)])
    with pytest.raises(ValueError, match=r"'demo/hoper-v0' .*Did you mean demo/hopper-v0\?.*download demo/hoper-v0"):
        open_dataset("demo/hoper-v0")
    with pytest.raises(ValueError, match="'zzz/qqq-v0' is not in") as caught:
        open_dataset("zzz/qqq-v0")
    assert "Did you mean" not in str(caught.value)


def test_a_missing_dataset_is_the_same_error_where_there_are_no_datasets():
    with pytest.raises(ValueError, match=r"minari download demo/hopper-v0.*vgp collect"):
        open_dataset("demo/hopper-v0")


@pytest.mark.parametrize(("owner", "name"), [(minari.storage, "get_dataset_path"), (minari.MinariDataset, "storage")])
def test_minari_still_has_the_names_that_its_documentation_does_not_list(owner, name):
    assert hasattr(owner, name), (
        f"Minari {minari.__version__} has no {owner.__name__}.{name} any more: see what took its place, and change "
        "cache.py and reading.py in vgp_lightning/data, the only places that use it"
    )


# ---------------------------------------------------------------- downloading


def test_processes_that_may_download_wait_for_each_other_by_a_file_of_the_users_own(make_data, tmp_path, monkeypatch):
    make_data()
    shared = tmp_path / "shared"  # the temporary folder of all users of the machine
    shared.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    lock, load_dataset = tmp_path / "mine" / "download.lock", minari.load_dataset

    def locked(*args, **kwargs):
        with pytest.raises(Timeout), FileLock(lock, timeout=0):
            pass
        return load_dataset(*args, **kwargs)

    monkeypatch.setattr(minari, "load_dataset", locked)
    data = make_data(dataset_id="test/tiny-v0", download=True, cache_dir=str(tmp_path / "mine"))
    assert data.transition_dim == 3
    assert list(shared.iterdir()) == []
    with FileLock(lock, timeout=0):  # it is free again
        pass


# ---------------------------------------------------------------- the cache


def test_the_cache_is_found_again_after_the_dataset_has_been_moved(
    make_dataset, make_episode, cache, tmp_path, monkeypatch
):
    dataset = make_dataset("test/one-v0", [make_episode(3)])
    folder = cached([dataset], cache)
    shutil.copytree(tmp_path / "minari", tmp_path / "elsewhere")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(module, "_write_arrays", None)  # must not be called
    assert cached([minari.load_dataset("test/one-v0")], cache) == folder


def test_changed_content_has_another_cache(make_dataset, make_episode, cache):
    dataset = make_dataset("test/one-v0", [make_episode(3)])
    before = cached([dataset], cache)
    replace(dataset, "episode_0/rewards", np.array([1.0, 2.0, 3.5]))
    after = cached([minari.load_dataset("test/one-v0")], cache)
    assert after != before
    np.testing.assert_array_equal(load(after).rewards, [1, 2, 3.5, 0])
    assert load(before).rewards[2] != 3.5


def test_a_rewritten_dataset_of_the_same_name_and_size_has_another_cache(make_dataset, make_episode, cache):
    def collected(number):
        dataset = make_dataset("test/one-v0", [make_episode(3, number)])
        file = Path(dataset.storage.data_path) / "main_data.hdf5"
        return load(cached([dataset], cache)).rows[0, 1], file.stat().st_size

    first, size = collected(1)
    minari.delete_dataset("test/one-v0")
    assert (first, *collected(2)) == (100, 200, size)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_build_leaves_no_cache(make_dataset, make_episode, cache, monkeypatch, error):
    dataset = make_dataset("test/two-v0", [make_episode(3, number) for number in range(2)])
    check = reading._checked

    def interrupted(name, *args):
        if name.startswith("episode 1"):
            assert list(cache.glob("*/*/rows.npy"))  # half of it is there
            raise error("power cut")
        return check(name, *args)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "_checked", interrupted)
        with pytest.raises(error, match="power cut"):
            cached([dataset], cache)
    assert [path.suffix for path in cache.iterdir()] in ([], [".lock"])
    assert load(cached([dataset], cache)).rows[-1, 1] == 103


def test_a_full_disk_is_an_error_that_names_the_folder_and_leaves_no_cache(
    make_dataset, make_episode, cache, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reading, "_checked", full)
    with pytest.raises(ValueError, match=r"no space is left in .*arrays .* MB are free: .*--data\.cache_dir"):
        cached([make_dataset("test/one-v0", [make_episode(3)])], cache)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


BUILD = """
import hashlib, sys, time
from pathlib import Path
import minari
from vgp_lightning.data import cache as episodes, reading

cache, own, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
check = reading._checked

def slow(name, *args):
    if name.startswith("episode 1"):
        own.with_suffix(".wrote").touch()
        time.sleep(seconds)
    return check(name, *args)

reading._checked = slow
dataset = minari.load_dataset("test/one-v0")
own.with_suffix(".ready").touch()
while not (own.parent / "go").exists():
    time.sleep(0.005)
folder = episodes.cached([dataset], cache)
print("FOLDER", folder, hashlib.blake2b(episodes.load(folder).rows.tobytes()).hexdigest())
"""


def start_build(cache, own, seconds):
    """Build in another process, which sleeps for so many seconds after the second episode."""
    arguments = [sys.executable, "-c", BUILD, str(cache), str(own), str(seconds)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def wait_for(paths, *processes):
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


def test_the_rest_of_a_killed_build_is_no_cache_and_the_next_build_removes_it(
    make_dataset, make_episode, cache, tmp_path
):
    dataset = make_dataset("test/one-v0", [make_episode(3, number) for number in range(2)])
    (tmp_path / "go").touch()
    process = start_build(cache, tmp_path / "first", 60)
    wait_for([tmp_path / "first.wrote"], process)
    process.kill()
    process.communicate(timeout=60)
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] != []
    folder = cached([dataset], cache)
    assert [path for path in cache.iterdir() if path.is_dir()] == [folder]
    np.testing.assert_array_equal(load(folder).rows[:, 1], [0, 1, 2, 3, 100, 101, 102, 103])


def test_leftovers_of_other_datasets_are_removed_unless_somebody_holds_their_lock(make_dataset, make_episode, cache):
    dead, living = (cache / f"{key * 32}.building-x" for key in "ab")
    for path in (dead, living):
        path.mkdir(parents=True)
        (path / "rows.npy").touch()
    with FileLock(cache / f"{'b' * 32}.lock"):
        folder = cached([make_dataset("test/one-v0", [make_episode(3)])], cache)
    assert {path for path in cache.iterdir() if path.is_dir()} == {folder, living}


@pytest.mark.parametrize(
    "name",
    [
        ".hopper.building-x",  # of a `vgp export` that is running
        "my.building-plans",
        "building-x",
        f"{'A' * 32}.building-x",
        f"{'a' * 31}.building-x",
        f"x{'a' * 32}.building-x",
    ],
)
def test_what_the_cache_did_not_make_is_never_removed(make_dataset, make_episode, cache, name):
    (cache / name).mkdir(parents=True)
    (cache / name / "plan").touch()
    cached([make_dataset("test/one-v0", [make_episode(3)])], cache)
    assert (cache / name / "plan").exists()


# ---------------------------------------------------------------- a cache of another user


@pytest.fixture
def as_another_user(monkeypatch):
    """Act as a user without rights; the datasets lie where this user may read them."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    shared = Path(tempfile.mkdtemp())
    shared.chmod(0o755)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(shared / "minari"))

    @contextmanager
    def act():
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    yield shared, act
    shutil.rmtree(shared)


def test_a_shared_cache_is_used_without_writing_and_what_it_lacks_is_an_error_with_the_option(
    make_data, as_another_user
):
    shared, act = as_another_user
    options = {"cache_dir": str(shared / "cache")}
    make_data(**options).prepare_data()
    before = snapshot(shared)
    with act():
        data = make_data(dataset_id="test/tiny-v0", **options)
        data.prepare_data()
        data.setup("fit")
        with pytest.raises(ValueError, match=r"cache cannot be written to .*another user: .*--data\.cache_dir FOLDER"):
            make_data(dataset_id="test/tiny-v0", discount=0.5, **options).prepare_data()
        with pytest.raises(ValueError, match=r"new cannot be written to .*--data\.cache_dir FOLDER"):
            make_data(dataset_id="test/tiny-v0", cache_dir=str(shared / "new")).prepare_data()
        with pytest.raises(ValueError, match=r"cache cannot be written to .*download.lock.*--data\.cache_dir FOLDER"):
            make_data(dataset_id="test/tiny-v0", download=True, **options)
    assert snapshot(shared) == before
    (rows,) = shared.glob("cache/*/rows.npy")
    rows.write_bytes(b"")
    with act(), pytest.raises(ValueError, match=r"cache cannot be written to .*--data\.cache_dir FOLDER"):
        make_data(dataset_id="test/tiny-v0", **options).prepare_data()


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_file_in_the_place_of_the_cache_is_an_error_with_the_option(make_data, tmp_path):
    (tmp_path / "file").touch()
    for place in ("file", "file/cache"):
        data = make_data(**({} if place == "file" else {"dataset_id": "test/tiny-v0"}), cache_dir=str(tmp_path / place))
        with pytest.raises(ValueError, match=r"file.* is no folder .*--data\.cache_dir FOLDER"):
            data.prepare_data()


def test_a_user_without_a_home_needs_the_option(make_data, monkeypatch, tmp_path):
    make_data()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without an entry and without HOME
    with pytest.raises(ValueError, match=r"no place for the datasets' cache .*--data\.cache_dir FOLDER"):
        make_data(dataset_id="test/tiny-v0")
    make_data(dataset_id="test/tiny-v0", cache_dir=str(tmp_path / "mine"))


PEAK = """
import sys
from pathlib import Path
import minari
from vgp_lightning.data.cache import cached, load

def peak():  # of this process, with mapped files; getrusage would start with the parent's peak
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000

for name in ("test/small-v0", "test/large-v0"):
    folder = cached([minari.load_dataset(name)], Path(sys.argv[1]))
    print("PEAK", peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not report a peak")
@pytest.mark.parametrize(("small", "large", "steps"), [(2, 60, 20_000), (200, 2000, 2)])
@pytest.mark.slow
def test_a_much_larger_dataset_is_built_in_the_same_memory(make_dataset, make_episode, cache, small, large, steps):
    space = spaces.Box(-np.inf, np.inf, (16,), np.float32)
    for name, count in (("small", small), ("large", large)):
        episode = make_episode(steps, observations=np.zeros((steps + 1, 16), np.float32))
        make_dataset(f"test/{name}-v0", [episode] * count, space)
    done = subprocess.run([sys.executable, "-c", PEAK, str(cache)], capture_output=True, text=True, check=True)
    first, second = (float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("PEAK"))
    # Sixty long episodes are 82 MB of rows; HDF5 would keep 66 MB of two thousand short ones.
    assert second - first < 30


def test_of_two_processes_one_builds_and_the_other_waits(make_dataset, make_episode, cache, tmp_path):
    dataset = make_dataset("test/one-v0", [make_episode(3, number) for number in range(2)])
    processes = [start_build(cache, tmp_path / name, 0.3) for name in ("first", "second")]
    wait_for([tmp_path / "first.ready", tmp_path / "second.ready"], *processes)
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    folder = cached([dataset], cache)
    rows = hashlib.blake2b(load(folder).rows.tobytes()).hexdigest()
    assert {output.split("FOLDER ")[1].strip() for output in outputs} == {f"{folder} {rows}"}
    assert [path for path in cache.iterdir() if path.is_dir()] == [folder]
    np.testing.assert_array_equal(load(folder).rows[:, 1], [0, 1, 2, 3, 100, 101, 102, 103])
    assert len(list(tmp_path.glob("*.wrote"))) == 1


def test_the_arrays_are_mapped_read_only(make_dataset, make_episode, cache):
    episodes = load(cached([make_dataset("test/one-v0", [make_episode(3)])], cache))
    for array in (episodes.rows, episodes.rewards):
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
