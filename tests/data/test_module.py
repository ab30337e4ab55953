"""The data module: windows against plain loops over the episodes, splits, statistics, and what is refused."""

import ast
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from vgp_lightning.data import cache
from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.data.returns import discounted_returns

PADDINGS = ["none", "terminated", "all"]


def prepared(data):
    data.prepare_data()
    data.setup("fit")
    return data


def seen(windows):
    """Return the first observation value, 100 * episode + step, of each window."""
    return windows.batch(range(len(windows))).trajectories[:, 0, -2].int().tolist()


def expected_windows(episodes, horizon, padding, discount):
    """Return all windows and their returns, by loops over the recorded episodes."""
    trajectories, returns = [], []
    for episode in episodes:
        steps = len(episode.rewards)
        padded = padding == "all" or (padding == "terminated" and episode.terminations[-1])
        for first in range(steps):
            if not padded and first + horizon > steps:
                continue
            window = []
            for t in range(first, first + horizon):
                action = episode.actions[t] if t < steps else np.zeros_like(episode.actions[0])
                window.append([*action, *episode.observations[min(t, steps)]])
            trajectories.append(window)
            returns.append(sum(discount ** (t - first) * episode.rewards[t] for t in range(first, steps)))
    return np.float32(trajectories), np.array(returns)


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("horizon", [1, 3, 5])
@pytest.mark.parametrize("padding", PADDINGS)
def test_the_windows_are_those_of_a_loop_over_the_episodes(make_data, make_episode, padding, horizon):
    lengths = [5, 2, 7, 1, 6]  # some are shorter than the horizon
    episodes = [make_episode(length, i, terminated=i % 2 == 1) for i, length in enumerate(lengths)]
    data = prepared(make_data(episodes, horizon=horizon, padding=padding, discount=0.9, validation_share=0))
    trajectories, returns = expected_windows(episodes, horizon, padding, discount=0.9)
    windows = data.train_windows
    assert len(windows) == windows.total == len(trajectories)
    found = [windows.batch([i]) for i in range(len(windows))]
    np.testing.assert_array_equal(torch.cat([window.trajectories for window in found]), trajectories)
    np.testing.assert_allclose(torch.cat([window.returns for window in found]), returns, rtol=1e-5)


def test_padding_repeats_the_final_observation_with_the_action_nearest_to_zero(make_data, make_episode):
    episodes = [make_episode(2, actions=np.float32([[1], [2]]))]
    bounds = {"action_space": spaces.Box(0.5, 2, (1,), np.float32)}
    data = prepared(make_data(episodes, bounds, padding="all", validation_share=0))
    (window, late), observations = data.train_windows.batch([0, 1]).trajectories, episodes[0].observations
    assert window[:, 0].tolist() == [1, 2, 0.5, 0.5]
    np.testing.assert_array_equal(window[:, 1:], observations[[0, 1, 2, 2]])
    assert late[:, 0].tolist() == [2, 0.5, 0.5, 0.5]
    np.testing.assert_array_equal(late[:, 1:], observations[[1, 2, 2, 2]])


def test_a_batch_has_the_requested_windows_in_the_requested_order(make_data):
    windows = prepared(make_data(validation_share=0)).train_windows
    indices = [5, 0, 71, 5, 30]
    batch, singles = windows.batch(indices), [windows.batch([i]) for i in indices]
    np.testing.assert_array_equal(batch.trajectories, torch.cat([single.trajectories for single in singles]))
    np.testing.assert_array_equal(batch.returns, torch.cat([single.returns for single in singles]))
    assert len(batch.trajectories) == 5


@pytest.mark.parametrize(("batch_size", "sizes"), [(9, [9] * 8), (16, [16] * 4 + [8]), (100, [72])])
def test_the_loader_yields_every_training_window_once_an_epoch(make_data, batch_size, sizes):
    data = prepared(make_data(validation_share=0, batch_size=batch_size))  # 8 episodes of 9 windows
    shown = [batch.trajectories[:, 0, -2] for batch in data.train_dataloader()]
    assert [len(batch) for batch in shown] == sizes
    assert sorted(torch.cat(shown).tolist()) == [100 * e + t for e in range(8) for t in range(9)]


def test_torchs_seed_decides_the_order(make_data):
    data = prepared(make_data(validation_share=0, batch_size=100))

    def order(seed):
        torch.manual_seed(seed)
        return next(iter(data.train_dataloader())).trajectories[:, 0, -2].tolist()

    assert order(1) == order(1) != order(2)


def test_a_limit_spreads_the_held_out_windows_evenly(make_data, make_episode):
    episodes = [make_episode(60, number) for number in range(4)]
    data = prepared(make_data(episodes, horizon=1, validation_share=0.5, validation_windows=12))
    held_out = sorted({first // 100 for first in seen(data.validation_windows)})
    assert len(held_out) == 2
    assert seen(data.validation_windows) == [100 * e + t for e in held_out for t in range(0, 60, 10)]
    assert data.validation_windows.total == 120


def test_a_limit_above_the_number_of_windows_changes_nothing(make_data):
    windows = prepared(make_data(validation_share=0.25, validation_windows=1000)).validation_windows
    assert len(windows) == len(set(seen(windows))) == 2 * 9


# ---------------------------------------------------------------- the split


def split(data):
    prepared(data)
    return [{first // 100 for first in seen(windows)} for windows in (data.train_windows, data.validation_windows)]


def test_no_episode_is_trained_on_and_held_out(make_data, make_episode):
    train, held_out = split(make_data([make_episode(5, n) for n in range(20)], validation_share=0.2))
    assert len(held_out) == 4
    assert train | held_out == set(range(20))
    assert not train & held_out


def test_the_splits_seed_decides_which_episodes_are_held_out(make_data, make_episode):
    first = split(make_data([make_episode(5, n) for n in range(20)], validation_share=0.2))
    again, other = (
        split(make_data(dataset_id="test/tiny-v0", validation_share=0.2, split_seed=seed)) for seed in (0, 1)
    )
    assert first == again != other


def test_a_small_share_holds_one_episode_out_and_no_share_none(make_data):
    assert len(split(make_data(validation_share=0.01))[1]) == 1
    data = make_data(dataset_id="test/tiny-v0", validation_share=0)
    train, held_out = split(data)
    assert train == set(range(8))
    assert not held_out
    assert list(data.val_dataloader()) == []


def test_too_few_episodes_to_hold_one_out_are_an_error(make_data, make_episode):
    with pytest.raises(ValueError, match=r"1 episodes, too few .*set data\.validation_share to 0"):
        prepared(make_data([make_episode(9)]))


# ---------------------------------------------------------------- mixed datasets


def test_mixed_datasets_contain_both(make_data, make_dataset, make_episode):
    for name, numbers in (("one", (0, 1)), ("two", (2, 3))):
        make_dataset(f"test/{name}-v0", [make_episode(5, number) for number in numbers])
    train, held_out = split(make_data(dataset_id=["test/one-v0", "test/two-v0"], validation_share=0.25))
    assert train | held_out == {0, 1, 2, 3}


def test_weights_decide_how_often_each_dataset_is_drawn(make_data, make_dataset, make_episode):
    for name, number in (("one", 0), ("two", 1)):
        make_dataset(f"test/{name}-v0", [make_episode(10, number)])
    ids = ["test/one-v0", "test/two-v0"]
    for weights, share in ((None, 0.5), ([3, 1], 0.25), ([0, 1], 1)):
        data = prepared(make_data(dataset_id=ids, weights=weights, horizon=1, batch_size=20, validation_share=0))
        (batch,) = data.train_dataloader()
        assert (batch.trajectories[:, 0, -2] >= 100).float().mean() == share


@pytest.mark.parametrize("part", ["observation_space", "action_space"])
def test_datasets_of_different_spaces_are_refused_with_both_names(make_data, make_dataset, make_episode, part):
    make_dataset("test/one-v0", [make_episode(2)])
    dimension = {"observation_space": 2, "action_space": 1}[part]
    make_dataset("test/two-v0", [make_episode(2)], **{part: spaces.Box(-7, 7, (dimension,), np.float32)})
    with pytest.raises(ValueError, match=r"cannot be mixed: test/one-v0 .* test/two-v0 .*-7"):
        make_data(dataset_id=["test/one-v0", "test/two-v0"])


# ---------------------------------------------------------------- statistics and description


def test_the_statistics_are_numpys_of_all_rows_and_of_the_training_windows_returns(make_data, make_episode):
    episodes = [make_episode(6, number, action_dim=2) for number in range(4)]
    data = prepared(make_data(episodes, discount=0.9, validation_share=0.25, padding="none"))
    rows = np.concatenate([np.hstack([np.vstack([e.actions, [[0, 0]]]), e.observations]) for e in episodes])
    train = {first // 100 for first in seen(data.train_windows)}
    _, returns = expected_windows([episodes[number] for number in train], 4, "none", 0.9)
    normalization = data.normalization
    assert normalization["action_dim"] == data.action_dim == 2
    assert data.transition_dim == 4
    np.testing.assert_allclose(normalization["shift"], rows.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(normalization["scale"], rows.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(normalization["return_shift"], returns.mean(), rtol=1e-4)
    np.testing.assert_allclose(normalization["return_scale"], returns.std(), rtol=1e-4)


def test_statistics_in_chunks_are_those_of_all_rows(make_data, monkeypatch, tmp_path):
    whole = prepared(make_data()).normalization
    monkeypatch.setattr("vgp_lightning.data.module.CHUNK", 7)
    monkeypatch.setattr("vgp_lightning.data.normalizer.CHUNK", 7)
    chunked = prepared(make_data(dataset_id="test/tiny-v0", cache_dir=str(tmp_path / "other"))).normalization
    for name in ("shift", "scale", "return_shift", "return_scale"):
        np.testing.assert_allclose(chunked[name], whole[name], rtol=1e-6)


def test_limits_are_those_of_the_rows(make_data):
    data = prepared(make_data(normalizer="limits"))
    low, high = -np.float64(data.normalization["scale"]), np.float64(data.normalization["scale"])
    assert (data.normalization["shift"][1] + low[1], data.normalization["shift"][1] + high[1]) == (0, 712)


def test_infinite_action_bounds_are_none_and_everything_is_json(make_data, make_episode):
    bounds = spaces.Box(np.float32([-np.inf, -1]), np.float32([2.5, np.inf]))
    data = prepared(make_data([make_episode(5, n, action_dim=2) for n in range(2)], {"action_space": bounds}))
    assert data.normalization["action_low"] == [None, -1]
    assert data.normalization["action_high"] == [2.5, None]
    assert json.loads(json.dumps([data.normalization, data.task])) == [data.normalization, data.task]


def test_the_task_has_the_environment_the_datasets_and_the_reference_scores_if_there_are_both(
    make_data, make_dataset, make_episode
):
    environment = gymnasium.make("Pendulum-v1", max_episode_steps=7)
    make_dataset(
        "test/scored-v0",
        [make_episode(5, observations=np.zeros((6, 3), np.float32))],
        environment.observation_space,
        environment.action_space,
        env=environment,
        eval_env=environment,
        ref_min_score=-3.0,
        ref_max_score=7.0,
    )
    task = make_data(dataset_id="test/scored-v0", discount=0.9, termination_penalty=-2.0).task
    assert task["dataset_id"] == ["test/scored-v0"]
    assert (task["discount"], task["termination_penalty"], task["env_id"]) == (0.9, -2, "Pendulum-v1")
    assert task["env_spec"]["max_episode_steps"] == 7
    assert task["reference_scores"] == {"name": "dataset test/scored-v0", "min": -3, "max": 7}
    unknown = make_data().task
    assert (unknown["env_id"], unknown["env_spec"], unknown["reference_scores"]) == (None, None, None)


def test_making_a_data_module_reads_no_episode(make_data, tmp_path):
    make_data()
    assert not (tmp_path / "cache").exists()


def test_the_cache_lies_in_xdg_cache_home_or_in_cache_dir(make_data, tmp_path):
    prepared(make_data())
    prepared(make_data(dataset_id="test/tiny-v0", cache_dir=str(tmp_path / "mine")))
    for folder in ("cache/vgp_lightning", "mine"):
        assert len(list((tmp_path / folder).glob("*/rows.npy"))) == 1


def test_returns_of_other_settings_lie_side_by_side(make_data, make_episode, tmp_path):
    episodes = [make_episode(9, number, terminated=number % 2 == 1) for number in range(4)]
    settings = [{}, {"discount": 0.9}, {"termination_penalty": -100.0}, {"truncation": "continue"}]
    make_data(episodes)
    for _ in range(2):  # built, then found
        for options in settings:
            options = {"discount": 0.5, "padding": "all", "validation_share": 0} | options
            data = prepared(make_data(dataset_id="test/tiny-v0", **options))
            expected = [
                discounted_returns(
                    episode.rewards,
                    bool(episode.terminations[-1]),
                    options["discount"],
                    options.get("termination_penalty", 0.0),
                    options.get("truncation", "cut"),
                )
                for episode in episodes
            ]
            found = data.train_windows.batch(range(36)).returns
            np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-5)
    assert len(list((tmp_path / "cache").glob("*/*/returns_*.npy"))) == len(settings)


def test_integers_and_floats_of_one_value_share_the_cached_returns(make_data, tmp_path):
    prepared(make_data(discount=1, termination_penalty=-1))
    prepared(make_data(dataset_id="test/tiny-v0", discount=1.0, termination_penalty=-1.0))
    assert len(list((tmp_path / "cache").glob("*/*/returns_*.npy"))) == 1


def test_a_warm_start_reads_no_episode_and_computes_no_return(make_data, monkeypatch):
    cold = prepared(make_data(discount=0.9))
    for owner, name in ((cache, "_write_arrays"), (MinariDataModule, "_write_returns")):
        monkeypatch.setattr(owner, name, None)  # must not be called
    for name in ("returns.discounted_returns", "module.measure_rows"):
        monkeypatch.setattr(f"vgp_lightning.data.{name}", None)
    (file,) = Path(os.environ["MINARI_DATASETS_PATH"]).rglob("*.hdf5")
    state = file.stat()
    file.write_bytes(bytes(state.st_size))  # there is nothing left to read
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    warm = prepared(make_data(dataset_id="test/tiny-v0", discount=0.9))
    assert warm.normalization == cold.normalization
    for windows, before in zip(
        (warm.train_windows, warm.validation_windows), (cold.train_windows, cold.validation_windows), strict=True
    ):
        every = range(len(before))
        assert torch.equal(windows.batch(every).trajectories, before.batch(every).trajectories)
        assert torch.equal(windows.batch(every).returns, before.batch(every).returns)


def test_rows_and_returns_are_memory_mapped(make_data):
    windows = prepared(make_data()).train_windows
    for array in (windows.rows, windows.returns):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_an_interruption_while_returns_are_written_leaves_no_file(make_data, monkeypatch, tmp_path):
    calls = itertools.count()

    def interrupted(*args):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return discounted_returns(*args)

    data = make_data()
    with monkeypatch.context() as patch:
        patch.setattr("vgp_lightning.data.returns.discounted_returns", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data.prepare_data()
    assert list((tmp_path / "cache").rglob("*returns*")) == list((tmp_path / "cache").rglob("*.building-*")) == []
    prepared(data)


PREPARE = """
import sys, time
from pathlib import Path
from vgp_lightning.data import module as data
from vgp_lightning.data import cache as episodes

own = Path(sys.argv[1])
built = []
Module = data.MinariDataModule
for owner, name in ((episodes, "_write_arrays"), (data, "measure_rows"), (Module, "_write_returns")):
    def counted(*args, write=getattr(owner, name), name=name):
        built.append(name)
        return write(*args)
    setattr(owner, name, counted)

module = Module("test/tiny-v0", horizon=4)
own.with_suffix(".ready").touch()
while len(list(own.parent.glob("*.ready"))) < 2:
    time.sleep(0.01)
module.prepare_data()
module.setup("fit")
returns = module.train_windows.batch(range(len(module.train_windows))).returns
print("FOUND", {"built": built, "numbers": [module.normalization, returns.tolist()]})
"""


def test_two_processes_that_prepare_the_same_data_build_each_part_once_and_find_the_same(make_data, tmp_path):
    make_data()
    processes = [
        subprocess.Popen([sys.executable, "-c", PREPARE, str(tmp_path / name)], stdout=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    first, second = (ast.literal_eval(output.split("FOUND ")[1]) for output in outputs)
    assert sorted(first["built"] + second["built"]) == ["_write_arrays", "_write_returns", "measure_rows"]
    assert first["numbers"] == second["numbers"]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("padding", ["none", "terminated"])
def test_a_horizon_longer_than_all_episodes_is_an_error_with_padding_and_longest_episode(make_data, padding):
    with pytest.raises(ValueError, match=r"no window of 13 steps .*longest has 12 steps: set data\.padding to 'all'"):
        prepared(make_data(horizon=13, padding=padding))
    prepared(make_data(dataset_id="test/tiny-v0", horizon=13, padding="all"))


def test_held_out_episodes_that_are_too_short_are_an_error_too(make_data, make_episode):
    for seed in itertools.count():  # until the short one is held out
        episodes = [make_episode(2 if number == 0 else 12, number) for number in range(4)]
        options = {"split_seed": seed, "validation_share": 0.25}
        if np.random.default_rng(seed).permutation(4)[0] == 0:
            break
    words = r"no window of 4 steps fits the held-out episodes .*, whose longest has 2 steps"
    with pytest.raises(ValueError, match=words):
        prepared(make_data(episodes, **options))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"horizon": 0}, "data.horizon is 0: it must be at least 1"),
        ({"discount": 1.5}, "data.discount is 1.5: it must be at least 0, at most 1"),
        ({"discount": -0.1}, "data.discount is -0.1"),
        ({"batch_size": 0}, "data.batch_size is 0"),
        ({"validation_windows": 0}, "data.validation_windows is 0"),
        ({"validation_share": 1}, r"data.validation_share is 1: it must lie in \[0, 1\)"),
        ({"validation_share": -0.1}, "data.validation_share is -0.1"),
        ({"truncation": "continue", "discount": 1}, "needs a discount below 1"),
        ({"termination_penalty": float("nan")}, "data.termination_penalty is nan: it must be a finite number"),
        ({"termination_penalty": -float("inf")}, "data.termination_penalty is -inf"),
        ({"split_seed": -1}, "data.split_seed is -1: it must be at least 0"),
        ({"num_workers": -1}, "data.num_workers is -1: it must be at least 0"),
        ({"dataset_id": []}, "data.dataset_id is empty"),
        ({"padding": "ALL"}, "padding.*'ALL'"),
        ({"truncation": "go on"}, "truncation.*'go on'"),
        ({"normalizer": "minmax"}, "'minmax'"),
        ({"weights": [1, 2]}, r"data.weights is \[1, 2\]: give one finite weight for each of the 1 datasets"),
        ({"weights": [-1]}, r"data.weights is \[-1\]: .*none below zero"),
        ({"weights": [0]}, r"data.weights is \[0\]: .*not all of them zero"),
        ({"weights": [float("nan")]}, r"data.weights is \[nan\]"),
        ({"weights": [float("inf")]}, r"data.weights is \[inf\]"),
        ({"weights": []}, r"data.weights is \[\]: give one finite weight for each of the 1 datasets"),
        ({"weights": ["all"]}, r"data.weights is \['all'\]"),
        ({"weights": 1}, r"data.weights is 1: give one"),
        ({"horizon": -4}, "data.horizon is -4: it must be at least 1"),
        ({"horizon": 4.5}, "data.horizon is 4.5: it must be a whole number"),
        ({"horizon": "4"}, "data.horizon is '4': it must be a whole number"),
        ({"horizon": True}, "data.horizon is True: it must be a whole number"),
        ({"horizon": float("nan")}, "data.horizon is nan: it must be a whole number"),
        ({"batch_size": -1}, "data.batch_size is -1: it must be at least 1"),
        ({"batch_size": 2.0}, "data.batch_size is 2.0: it must be a whole number"),
        ({"validation_windows": -1}, "data.validation_windows is -1: it must be at least 1"),
        ({"validation_share": 1.0}, r"data.validation_share is 1.0: it must lie in \[0, 1\)"),
        ({"validation_share": 1.5}, "data.validation_share is 1.5: it must be at least 0, at most 1"),
        ({"validation_share": float("nan")}, "data.validation_share is nan: it must be a finite number"),
        ({"validation_share": "half"}, "data.validation_share is 'half': it must be a finite number"),
        ({"discount": float("nan")}, "data.discount is nan: it must be a finite number"),
        ({"discount": None}, "data.discount is None: it must be a finite number"),
        ({"discount": 10**400}, "it must be at least 0, at most 1"),
        ({"num_workers": 100_000}, "data.num_workers is 100000: it must be at least 0, at most 256"),
        ({"dataset_id": None}, "data.dataset_id has None: name Minari datasets"),
        ({"dataset_id": ""}, "data.dataset_id has '': name Minari datasets"),
        ({"dataset_id": ["test/tiny-v0", 3]}, "data.dataset_id has 3: name Minari datasets"),
        ({"dataset_id": ["test/tiny-v0"] * 2}, "data.dataset_id names test/tiny-v0 2 times.* data.weights draws more"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_value(make_data, bad, message):
    with pytest.raises(ValueError, match=message):
        prepared(make_data(**bad))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"horizon": 10**9}, "16 windows of data.horizon 1000000000 with 3 numbers a step would take 192 GB"),
        ({"horizon": 10**7, "batch_size": 10**9}, "96 windows of data.horizon 10000000 .* would take 11 GB"),
        ({"horizon": 10**400}, "16 windows of data.horizon 10+ .*would take 192.* GB"),
    ],
)
def test_a_batch_that_no_device_holds_is_refused_with_its_size_before_anything_is_read(
    make_data, tmp_path, options, size
):
    with pytest.raises(ValueError, match=f"a batch of {size}.*set data.horizon or data.batch_size lower"):
        make_data(**options)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("padding", ["none", "terminated", "all"])
def test_windows_of_many_more_steps_than_all_episodes_are_refused(make_data, padding):
    with pytest.raises(ValueError, match=r"data.horizon is 1025, but the longest .* has 12 steps.*at most 1024"):
        prepared(make_data(horizon=1025, padding=padding))
    prepared(make_data(dataset_id="test/tiny-v0", horizon=1024, padding="all"))


def test_a_batch_of_all_windows_may_be_asked_for_by_any_large_number(make_data):
    (batch,) = prepared(make_data(batch_size=10**9, validation_share=0)).train_dataloader()
    assert len(batch.trajectories) == 8 * 9


def test_a_dataset_without_episodes_is_refused_with_the_command_that_removes_it(make_data, make_dataset):
    make_dataset("test/none-v0", [], action_space=spaces.Box(-1, 1, (1,), np.float32))
    with pytest.raises(ValueError, match=r"test/none-v0 has no episodes.*`minari delete test/none-v0`"):
        make_data(dataset_id="test/none-v0")


def test_discrete_actions_are_refused_when_the_module_is_made(make_dataset, make_episode):
    episode = make_episode(2, actions=np.array([0, 2]))
    make_dataset("test/choice-v0", [episode], action_space=spaces.Discrete(3))
    with pytest.raises(ValueError, match="only Box actions"):
        MinariDataModule("test/choice-v0")
