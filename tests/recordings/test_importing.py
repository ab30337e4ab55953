"""import-data: each format by its layout, and what is refused. test_libraries.py has files of other libraries."""

import json
import sys
import warnings
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vgp_lightning.cli import main
from vgp_lightning.recordings.importing import import_data

LENGTHS = (5, 1, 8)
O, A = 3, 2  # noqa: E741 (the package's letters)


def recorded(lengths=LENGTHS, seed=0):
    """Episodes of n steps with n + 1 observations, which only the truth knows."""
    rng = np.random.default_rng(seed)
    return [
        {
            "observations": rng.normal(size=(n + 1, O)).astype(np.float32),
            "actions": rng.uniform(-1, 1, (n, A)).astype(np.float32),
            "rewards": rng.normal(size=n).astype(np.float32),
            "terminated": bool(number % 2),
        }
        for number, n in enumerate(lengths)
    ]


def flat(episodes):
    """The same as flat arrays of n rows an episode, as D4RL has them."""
    ends = [np.arange(len(e["actions"])) == len(e["actions"]) - 1 for e in episodes]
    return {
        "observations": np.concatenate([e["observations"][:-1] for e in episodes]),
        "next_observations": np.concatenate([e["observations"][1:] for e in episodes]),
        "actions": np.concatenate([e["actions"] for e in episodes]),
        "rewards": np.concatenate([e["rewards"] for e in episodes]),
        "terminals": np.concatenate([end & e["terminated"] for end, e in zip(ends, episodes, strict=True)]),
        "timeouts": np.concatenate([end & (not e["terminated"]) for end, e in zip(ends, episodes, strict=True)]),
    }


def without(arrays, *names):
    return {name: values for name, values in arrays.items() if name not in names}


def numbered(episodes):
    return np.concatenate([np.full(len(e["actions"]), 7 + number) for number, e in enumerate(episodes)])


def assert_same(dataset, episodes):
    found = list(minari.load_dataset(dataset.id))
    assert len(found) == len(episodes)
    for one, expected in zip(found, episodes, strict=True):
        for key in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(one, key), expected[key])
        assert one.terminations[-1] == expected["terminated"]
        assert one.truncations[-1] == (not expected["terminated"])
        assert not one.terminations[:-1].any()
        assert not one.truncations[:-1].any()


def dropped(episodes):
    """What is left where the final observation is not known."""
    return [
        {
            "observations": e["observations"][:-1],
            "actions": e["actions"][:-1],
            "rewards": e["rewards"][:-1],
            "terminated": e["terminated"],
        }
        for e in episodes
        if len(e["actions"]) > 1
    ]


def truncated(episodes):
    return [e | {"terminated": False} for e in episodes]


def write_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def write_npz(path, arrays):
    np.savez(path, **arrays)
    return path


def columns(arrays, vectors=("observations", "actions")):
    """Flat arrays as columns of a table: obs_0, obs_1, ..."""
    table = {}
    for name, values in arrays.items():
        if name in vectors:
            short = {"observations": "obs", "actions": "action"}[name]
            table |= {f"{short}_{i}": values[:, i] for i in range(values.shape[1])}
        else:
            table[name] = values
    return pyarrow.table(table)


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize(("name", "write"), [("d4rl.hdf5", write_hdf5), ("flat.npz", write_npz)])
def test_flat_arrays_with_next_observations_come_out_whole(tmp_path, capsys, name, write):
    episodes = recorded()
    path = write(tmp_path / name, flat(episodes))
    assert_same(import_data(str(path), dataset_id="me/flat-v0"), episodes)
    said = capsys.readouterr().out
    assert f"read as {'npz' if name == 'flat.npz' else 'd4rl'}" in said
    assert "3 episodes, 14 steps; 1 terminated" in said
    assert "1 minimum, 5 median, 8 maximum" in said


def test_flat_arrays_without_next_observations_lose_the_last_step_of_each_episode_which_is_said(tmp_path, capsys):
    episodes = recorded()
    path = write_hdf5(tmp_path / "d4rl.hdf5", without(flat(episodes), "next_observations"))
    assert_same(import_data(str(path), dataset_id="me/flat-v0"), dropped(episodes))
    said = capsys.readouterr().out
    lost = sum(abs(float(e["rewards"][-1])) for e in episodes)
    assert (
        f"3 episodes have no observation after their last step: their last step is dropped (rewards of {lost:g}" in said
    )
    assert "1 episodes without a step are left out" in said


def test_the_last_observation_is_repeated_where_that_is_asked_for(tmp_path):
    episodes = recorded()
    path = write_npz(tmp_path / "flat.npz", without(flat(episodes), "next_observations"))
    dataset = import_data(str(path), dataset_id="me/flat-v0", last_observation="repeat")
    expected = [
        e | {"observations": np.concatenate([e["observations"][:-1], e["observations"][-2:-1]])} for e in episodes
    ]
    assert_same(dataset, expected)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 99), st.sampled_from(["hdf5", "npz", "csv"]))
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_comes_out_are_the_numbers_that_went_in(tmp_path, lengths, seed, kind):
    episodes = recorded(lengths, seed)
    arrays = flat(episodes)
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.{kind}"
    dataset_id = f"me/d{len(list(tmp_path.rglob('*.hdf5')))}-{len(list(tmp_path.iterdir()))}-v0"
    if kind == "csv":
        names = without(arrays, "next_observations")
        following = {f"next_obs_{i}": arrays["next_observations"][:, i].astype(float) for i in range(O)}
        wide = {key: values.astype(float) if values.dtype.kind == "f" else values for key, values in names.items()}
        table = columns(wide)
        for name, values in following.items():
            table = table.append_column(name, [values])
        pyarrow.csv.write_csv(table, path)
    else:
        (write_hdf5 if kind == "hdf5" else write_npz)(path, arrays)
    assert_same(import_data(str(path), dataset_id=dataset_id), episodes)


def write_robomimic(path, episodes, following=True):
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 20}})
        for number, e in enumerate(episodes):
            group = data.create_group(f"demo_{number}")
            group.attrs["num_samples"] = len(e["actions"])
            group["actions"], group["rewards"] = e["actions"], e["rewards"]
            group["states"] = np.zeros((len(e["actions"]), 5))
            group["dones"] = ((np.arange(len(e["actions"])) == len(e["actions"]) - 1) & e["terminated"]).astype(
                np.int64
            )
            for name, rows in (("obs", e["observations"][:-1]), ("next_obs", e["observations"][1:]))[: 1 + following]:
                group[f"{name}/eef_pos"], group[f"{name}/gripper"] = rows[:, :2], rows[:, 2:]
                group[f"{name}/agentview_image"] = np.zeros((len(rows), 84, 84, 3), dtype=np.uint8)
    return path


def test_demonstrations_of_robomimic_with_their_observations_beside_each_other_and_no_images(tmp_path, capsys):
    episodes = recorded([4] * 12)  # demo_10 comes after demo_9
    assert_same(
        import_data(str(write_robomimic(tmp_path / "low_dim.hdf5", episodes)), dataset_id="me/lift-v0"), episodes
    )
    said = capsys.readouterr().out
    assert "obs/eef_pos (2), obs/gripper (1)" in said
    assert "obs/agentview_image (images of shape (84, 84, 3))" in said
    assert "20 steps a second" in said


def test_chosen_observations_of_robomimic_bring_their_next_ones(tmp_path):
    episodes = recorded()
    path = write_robomimic(tmp_path / "low_dim.hdf5", episodes)
    dataset = import_data(str(path), dataset_id="me/lift-v0", observations=["obs/gripper", "obs/eef_*"])
    assert_same(dataset, [e | {"observations": e["observations"][:, [2, 0, 1]]} for e in episodes])


def test_a_folder_of_npz_with_one_episode_each(tmp_path, capsys):
    episodes = recorded([3] * 11)
    for number, e in enumerate(episodes):
        ends = (np.arange(3) == 2) & e["terminated"]
        np.savez(tmp_path / f"run_{number}.npz", **without(e, "terminated"), terminals=ends)
    assert_same(import_data(str(tmp_path), dataset_id="me/runs-v0"), episodes)


@pytest.mark.parametrize("observations", [0, 1])
def test_a_recording_that_was_aborted_before_its_first_step_is_left_out_and_named(tmp_path, capsys, observations):
    episodes = recorded([3] * 4)
    for number, e in enumerate(episodes):
        np.savez(tmp_path / f"run_{number}.npz", **without(e, "terminated"))
    empty = {"observations": np.zeros((observations, O)), "actions": np.zeros((0, A)), "rewards": np.zeros(0)}
    np.savez(tmp_path / "run_9.npz", **empty)
    dataset = import_data(str(tmp_path), dataset_id="me/runs-v0")
    assert dataset.total_episodes == 4
    assert "run_9.npz" in capsys.readouterr().out


def test_an_episode_column_can_be_a_matrix_of_one_column(tmp_path):
    episodes = recorded([5, 8])
    numbers = np.repeat([7, 9], [5, 8])[:, None]
    path = write_npz(tmp_path / "flat.npz", without(flat(episodes), "terminals", "timeouts") | {"episode": numbers})
    assert [len(one) for one in import_data(str(path), dataset_id="me/flat-v0")] == [5, 8]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_with_an_episode_column(tmp_path, capsys, kind):
    episodes = recorded()
    arrays = without(flat(episodes), "next_observations", "terminals", "timeouts")
    arrays = {key: values.astype(float) for key, values in arrays.items()} | {"episode": numbered(episodes)}
    arrays["timestamp"] = np.arange(len(arrays["rewards"])) * 0.1
    path = tmp_path / f"log.{kind}"
    (pyarrow.csv.write_csv if kind == "csv" else pyarrow.parquet.write_table)(columns(arrays), path)
    assert_same(import_data(str(path), dataset_id="me/log-v0"), truncated(dropped(episodes)))
    assert "10 steps a second, if the times are in seconds" in capsys.readouterr().out


def test_columns_are_named_by_option_in_the_order_that_counts(tmp_path):
    episodes = truncated(recorded())
    arrays = flat(episodes)
    table = {"x": arrays["observations"][:, 0], "v": arrays["observations"][:, 1], "left": arrays["actions"][:, 0]}
    table |= {"right": arrays["actions"][:, 1], "score": arrays["rewards"], "run": [str(n) for n in numbered(episodes)]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "log.parquet")
    options = ["--observations", "[v, x]", "--actions", "[left, right]", "--rewards", "score", "--episode", "run"]
    main(["import-data", str(tmp_path / "log.parquet"), "--dataset_id", "me/log-v0", *options])
    expected = [e | {"observations": e["observations"][:, [1, 0]]} for e in dropped(episodes)]
    assert_same(minari.load_dataset("me/log-v0"), expected)


def write_lerobot(folder, episodes, version):
    """Write the layout that LeRobot's documentation describes; data_path of its info.json leads out of the folder."""
    (folder / "meta").mkdir(parents=True)
    (folder / "data/chunk-000").mkdir(parents=True)
    features = {
        "observation.state": {"dtype": "float32", "shape": [O], "names": None},
        "action": {"dtype": "float32", "shape": [A], "names": None},
        "observation.images.top": {"dtype": "video", "shape": [480, 640, 3]},
        "next.reward": {"dtype": "float32", "shape": [1]},
    }
    info = {"codebase_version": version, "fps": 50, "features": features, "total_episodes": len(episodes)}
    info["data_path"] = "../../elsewhere/{episode_index}.parquet"  # a stranger's; files are found by their names
    (folder / "meta/info.json").write_text(json.dumps(info))
    tables = []
    for number, e in enumerate(episodes):
        n = len(e["actions"])
        tables.append(
            pyarrow.table(
                {
                    "observation.state": pyarrow.FixedSizeListArray.from_arrays(e["observations"][:-1].ravel(), O),
                    "action": pyarrow.array(e["actions"].tolist(), pyarrow.list_(pyarrow.float32())),
                    "timestamp": (np.arange(n) / 50).astype(np.float32),
                    "frame_index": np.arange(n),
                    "episode_index": np.full(n, number),
                    "index": np.arange(n),
                    "task_index": np.zeros(n, dtype=np.int64),
                    "next.reward": e["rewards"],
                    "next.done": np.arange(n) == n - 1,
                }
            )
        )
    if version == "v3.0":
        half = len(tables) // 2
        for number, part in enumerate((tables[:half], tables[half:])):
            path = folder / f"data/chunk-000/file-{number:03d}.parquet"
            pyarrow.parquet.write_table(pyarrow.concat_tables(part), path)
    else:
        for number, table in enumerate(tables):
            pyarrow.parquet.write_table(table, folder / f"data/chunk-000/episode_{number:06d}.parquet")
    return folder


def test_lists_of_different_lengths_matter_only_in_columns_that_are_used(tmp_path):
    table = {
        "obs": pyarrow.array([[1.0, 2.0], [3.0, 4.0]]),
        "action": [0.5, -0.5],
        "reward": [1.0, 2.0],
        "episode": [0, 0],
        "contacts": pyarrow.array([None, [1.0]]),
        "words": pyarrow.array([["push"], ["push", "the", "cube"]]),
        "matrix": pyarrow.array([[[1.0, 2.0]], [[3.0], [4.0]]]),
    }
    path = tmp_path / "log.parquet"
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    assert import_data(str(path), dataset_id="me/log-v0").total_steps == 1
    for key, problem in (
        ("contacts", "column contacts has no value in row 0"),
        ("words", "words holds no numbers"),
        ("matrix", "lists of column matrix have lengths from 1 to 2"),
    ):
        with pytest.raises(ValueError, match=problem):
            import_data(str(path), dataset_id="me/log-v1", observations=key)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobots_datasets_with_the_images_left_out_in_a_line(tmp_path, capsys, version):
    episodes = recorded()
    folder = write_lerobot(tmp_path / "aloha", episodes, version)
    assert_same(import_data(str(folder), dataset_id="me/aloha-v0"), truncated(dropped(episodes)))
    said = capsys.readouterr().out
    assert "left out (a planner takes states): observation.images.top" in said
    assert "50 steps a second" in said
    assert "all count as truncated, unless --terminals names a column" in said
    ended = import_data(str(folder), dataset_id="me/aloha-v1", terminals="next.done")
    assert all(episode.terminations[-1] for episode in ended)


@pytest.mark.parametrize("masks", [False, True])
def test_ogbenchs_last_row_is_the_final_observation_and_its_terminals_are_truncations(tmp_path, capsys, masks):
    episodes = recorded([4, 6]) if masks else truncated(recorded([4, 6]))
    rows = [len(e["observations"]) for e in episodes]
    arrays = {
        "observations": np.concatenate([e["observations"] for e in episodes]),
        "actions": np.concatenate([np.concatenate([e["actions"], [[0.5, 0.5]]]) for e in episodes]).astype(np.float32),
        "terminals": np.concatenate([np.arange(n) == n - 1 for n in rows]),
        "qpos": np.zeros((sum(rows), 4)),
    }
    if masks:
        alive = [np.ones(n, dtype=np.float32) for n in rows]
        alive[1][-2:] = 0  # of the last step, and of the row that is no step
        arrays["masks"] = np.concatenate(alive)
    path = write_npz(tmp_path / "pointmaze-medium-navigate-v0.npz", arrays)
    with pytest.raises(ValueError, match=r"no key holds rewards.*--rewards KEY; or --no_rewards true"):
        import_data(str(path), dataset_id="me/og-v0")
    dataset = import_data(str(path), dataset_id="me/og-v0", no_rewards=True)
    assert_same(dataset, [e | {"rewards": np.zeros(len(e["rewards"]))} for e in episodes])
    assert "read as ogbench" in capsys.readouterr().out


def test_masks_of_other_formats_are_what_the_option_says(tmp_path):
    episodes = recorded([4, 6])
    arrays = {
        name: np.concatenate([e[name][: len(e["actions"])] for e in episodes]) for name in ("observations", "actions")
    }
    arrays |= {"rewards": np.zeros(10), "masks": np.arange(10) % 5 == 4}
    path = write_npz(tmp_path / "mine.npz", arrays)
    dataset = import_data(str(path), dataset_id="me/masks-v0", terminals="masks", last_observation="repeat")
    assert [(len(e.actions), e.terminations[-1]) for e in dataset] == [(5, True), (5, True)]


def test_a_single_number_that_names_a_files_episode_is_refused_with_the_cure(tmp_path):
    (tmp_path / "runs").mkdir()
    for number, e in enumerate(recorded([4, 6])):
        arrays = {name: e[name][: len(e["actions"])] for name in ("observations", "actions")}
        write_npz(
            tmp_path / "runs" / f"run_{number}.npz", arrays | {"rewards": np.zeros(len(e["actions"])), "episode": 0}
        )
    options = {"dataset_id": "me/number-v0", "last_observation": "repeat"}
    with pytest.raises(ValueError, match=r"run_0.npz: episode is a single number: .*leave it out: --episode none"):
        import_data(str(tmp_path / "runs"), **options)
    assert len(import_data(str(tmp_path / "runs"), **options, episode="none")) == 2


# ---------------------------------------------------------------- with an environment


def test_an_environment_gives_its_spaces_and_its_specification(tmp_path):
    environment = gymnasium.make("Pendulum-v1")
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(20, 3)),
        "actions": rng.uniform(-2, 2, (20, 1)),
        "rewards": rng.normal(size=20),
        "timeouts": np.arange(20) % 10 == 9,
    }
    path = write_npz(tmp_path / "p.npz", arrays)
    dataset = import_data(str(path), dataset_id="me/p-v0", env_id="Pendulum-v1")
    assert dataset.action_space == environment.action_space
    assert dataset.env_spec.id == "Pendulum-v1"
    arrays["actions"][13] = 2.5
    with pytest.raises(ValueError, match=r"p\.npz, rows 10 to 19 has actions outside the bounds.*step 3.*2\.5"):
        import_data(str(write_npz(tmp_path / "p.npz", arrays)), dataset_id="me/q-v0", env_id="Pendulum-v1")
    with pytest.raises(ValueError, match="Hopper-v5 has observations of 11 numbers, the episodes have 3"):
        import_data(str(path), dataset_id="me/q-v0", env_id="Hopper-v5")
    with pytest.raises(ValueError, match="environment 'Penduum-v1' cannot be made"):
        import_data(str(path), dataset_id="me/q-v0", env_id="Penduum-v1")


# ---------------------------------------------------------------- what is refused


def spoilt(**replaced):
    return without(flat(recorded([5, 8])), "next_observations") | replaced


REFUSED = [
    ("observations of another number", {"observations": np.zeros((14, O))}, "14 observations for 13 actions"),
    ("numbers of episodes, one for each", {"episode_ids": np.arange(2)}, "2 numbers of the episode for 13 actions"),
    ("rewards of another number", {"rewards": np.zeros(12)}, "12 rewards for 13 actions"),
    ("a reward that is not a number", {"rewards": np.full(13, np.nan)}, r"rows 0 to 4 has rewards that are not finite"),
    ("actions that never change", {"actions": np.ones((13, A))}, "all actions are the same.*--actions KEY"),
    ("discrete actions", {"actions": np.arange(13) % 3}, "whole numbers only.*discrete"),
    ("time stamps as observations", {"observations": np.full((13, O), 1.7e9)}, r"observations\[0\].*reaches 1\.7e\+09"),
    ("flags that are no flags", {"terminals": np.full(13, 0.5)}, "terminals is 0.5 in row 0: .* true or false"),
    ("flags that mark nothing", {"terminals": np.zeros(13), "timeouts": np.zeros(13)}, "timeouts are false in all 13"),
    ("all rewards in the dropped steps", {"rewards": np.isin(np.arange(13), (4, 12))}, "--last_observation repeat"),
]  # fmt: skip


@pytest.mark.parametrize(("replaced", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_numbers_that_cannot_be_right_are_refused_and_nothing_is_left(tmp_path, replaced, message):
    path = write_npz(tmp_path / "spoilt.npz", spoilt(**replaced))
    with pytest.raises(ValueError, match=message):
        import_data(str(path), dataset_id="me/spoilt-v0")
    assert not (tmp_path / "minari/me").exists()


def test_missing_ends_are_refused_with_what_a_done_could_mean(tmp_path):
    arrays = without(spoilt(), "terminals", "timeouts")
    with pytest.raises(ValueError, match=r"nothing says where an episode ends\. Name a key: --terminals KEY"):
        import_data(str(write_npz(tmp_path / "a.npz", arrays)), dataset_id="me/a-v0")
    arrays["done"] = spoilt()["terminals"]
    with pytest.raises(ValueError, match=r"--terminals done if nothing follows .*--timeouts done if the episode"):
        import_data(str(write_npz(tmp_path / "a.npz", arrays)), dataset_id="me/a-v0")


def test_next_observations_that_contradict_the_observations_are_refused(tmp_path):
    arrays = flat(recorded([5, 8]))
    arrays["next_observations"] = arrays["next_observations"][::-1]
    path = write_npz(tmp_path / "a.npz", arrays)
    with pytest.raises(ValueError, match=r"next observation of step 0 is not the observation of step 1.*shuffled"):
        import_data(str(path), dataset_id="me/a-v0")
    assert_same(import_data(str(path), dataset_id="me/a-v0", next_observations="none"), dropped(recorded([5, 8])))


def test_an_episode_in_two_parts_is_refused(tmp_path):
    arrays = without(spoilt(), "terminals", "timeouts") | {"episode": np.arange(13) % 2}
    with pytest.raises(ValueError, match="rows of episode 0 are not together, a second part begins in row 2: sort"):
        import_data(str(write_npz(tmp_path / "a.npz", arrays)), dataset_id="me/a-v0")


def test_keys_that_are_not_found_are_named_with_those_that_there_are(tmp_path):
    path = write_npz(tmp_path / "a.npz", {"xs": np.zeros((4, 2)), "u": np.zeros((4, 1)), "r": np.zeros(4)})
    with pytest.raises(ValueError, match=r"which key holds the observations.*It has r, u, xs"):
        import_data(str(path), dataset_id="me/a-v0")
    with pytest.raises(ValueError, match=r"--observations y: .* has no such key; it has r, u, xs"):
        import_data(str(path), dataset_id="me/a-v0", observations="y")
    with pytest.raises(ValueError, match=r"does not exist: give a .hdf5 file"):
        import_data(str(tmp_path / "nothing"), dataset_id="me/a-v0")
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(ValueError, match=r"a.txt has no format that is known"):
        import_data(str(tmp_path / "a.txt"), dataset_id="me/a-v0")
    with pytest.raises(ValueError, match="dataset id 'a' is malformed"):
        import_data(str(path), dataset_id="a")


def test_a_missing_value_in_a_table_is_named_with_its_row(tmp_path):
    (tmp_path / "a.csv").write_text("obs,action,reward,episode\n1.0,0.5,0,0\n2.0,,0,0\n3.0,0.1,0,0\n")
    with pytest.raises(ValueError, match="column action has no value in row 1"):
        import_data(str(tmp_path / "a.csv"), dataset_id="me/a-v0")


def test_a_table_without_pyarrow_names_the_extra(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.csv").write_text("obs,action,reward,episode\n1.0,0.5,0,0\n")
    for part in ("", ".csv", ".parquet"):
        monkeypatch.setitem(sys.modules, f"pyarrow{part}", None)  # so that importing it fails
    with pytest.raises(SystemExit) as ended:
        main(["import-data", str(tmp_path / "a.csv"), "--dataset_id", "me/a-v0"])
    assert ended.value.code == 2
    assert "need: pip install 'vgp_lightning[tables]'" in capsys.readouterr().err


def test_no_file_of_a_strangers_is_followed_or_unpickled(tmp_path):
    arrays = spoilt()
    write_hdf5(tmp_path / "other.hdf5", arrays)
    with h5py.File(tmp_path / "link.hdf5", "w") as file:
        file["actions"] = arrays["actions"]
        file["observations"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "observations")
    with pytest.raises(ValueError, match=r"observations is a link to .*, and links are not followed"):
        import_data(str(tmp_path / "link.hdf5"), dataset_id="me/a-v0")

    class Mark:
        def __reduce__(self):
            return Path.touch, (tmp_path / "mark",)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.savez(tmp_path / "pickle.npz", **arrays | {"episode": np.array([Mark()] * 13)})
    with pytest.raises(ValueError, match="allow_pickle"):
        import_data(str(tmp_path / "pickle.npz"), dataset_id="me/a-v0")
    assert not (tmp_path / "mark").exists()
