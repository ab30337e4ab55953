"""Malformed datasets: each is refused with the dataset, the episode and the array named, or read as what it is."""

import json
import os
import re
import shutil
import warnings

import h5py
import minari
import numpy as np
import pytest
import tally
from gymnasium import spaces

from vgp_lightning.cli import main
from vgp_lightning.data.cache import Episodes, load
from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.shipped import CONFIGS

STEPS, EPISODES, VICTIM = 12, 4, "episode_2"
NAMED = {"tiny": r"episode 2 of test/tiny-v0\b", "parts": r"episode 2 of test/parts-v0\b"}
KEYS = ("observations", "actions", "rewards", "terminations", "truncations")
VECTORS = KEYS[2:]
LENGTHS = dict.fromkeys(KEYS, STEPS) | {"observations": STEPS + 1}

# Each case: its name, the dataset that it changes, the change (of the folder of main_data.hdf5), and what the message
# says after the name of the episode. None: the change is harmless.
CASES = []


def case(name, message, *, dataset="tiny", whole=False):
    """Add a case; ``whole``: the message is about the dataset, and names no episode."""

    def add(change):
        CASES.append(pytest.param(dataset, change, message, whole, id=name))
        return change

    return add


def hdf5(change):
    """Make a change of an open file, by its victim, of a change of the folder."""

    def opened(folder):
        with h5py.File(folder / "main_data.hdf5", "r+") as file:
            change(file.get(VICTIM, file))

    return opened


def put(key, make, **options):
    """Replace an array by what a function makes of it."""

    def change(group):
        old = group[key][()]
        del group[key]
        group.create_dataset(key, data=make(old), **options)

    return hdf5(change)


def entry(key, value, dtype=None):
    """Replace the numbers of step 5."""

    def make(old):
        new = old.astype(dtype or old.dtype)
        new[5] = value
        return new

    return put(key, make)


def member(key, make):
    """Replace an array by what a function makes in its group."""

    def change(group):
        old = group[key][()] if isinstance(group[key], h5py.Dataset) else None
        del group[key]
        make(group, key, old)

    return hdf5(change)


# ---------------------------------------------------------------- what is missing, and lengths


def removed(key):
    def change(group):
        del group[key]

    return hdf5(change)


for key in KEYS:
    case(f"no {key}", f"has no {key}")(removed(key))
    for length, change in (("shorter", lambda old: old[:-1]), ("longer", lambda old: np.concatenate([old, old[-1:]]))):
        part = "observations" if key == "actions" else key
        case(f"{key} {length}", rf"has \d+ {part} for 1\d actions: 1\d are needed")(put(key, change))
    expected = "has no steps: remove it" if key == "actions" else f"has 0 {key} for 12 actions"
    case(f"{key} empty", expected)(put(key, lambda old: old[:0]))


@case("no group of an episode", r"has 3 episodes in main_data.hdf5, but 4 by its metadata.json", whole=True)
def no_group(folder):
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        del file[VICTIM]


@case("an episode of another number", "is missing: main_data.hdf5 has no group episode_2")
def renamed(folder):
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        file.move(VICTIM, "episode_7")


@case("an episode more", r"has 5 episodes in main_data.hdf5, but 4 by its metadata.json", whole=True)
def one_more(folder):
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        file.copy(VICTIM, "episode_4")


@case("an episode that is an array", "is one array: a group of observations, actions")
def array_for_group(folder):
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        del file[VICTIM]
        file[VICTIM] = np.zeros(3)


# ---------------------------------------------------------------- shapes and types

for key in VECTORS:
    message = rf"has {key} of shape \(12, \d\): \(12,\) is needed"
    case(f"{key} of two columns", message)(put(key, lambda old: np.stack([old, old], 1)))
    case(f"{key} of one column", message)(put(key, lambda old: old[:, None]))
for columns in (0, 2, 3):
    case(
        f"actions of {columns} columns", rf"has actions of shape \(12, {columns}\): \(12, 1\) is needed, by its space"
    )(put("actions", lambda old, columns=columns: np.zeros((12, columns), np.float32)))
for shape in ((13,), (13, 1), (13, 3), (13, 2, 2)):
    case(f"observations of shape {shape}", rf"has observations of shape {re.escape(str(shape))}: \(13, 2\) is needed")(
        put("observations", lambda old, shape=shape: np.zeros(shape, np.float32))
    )
COMPOUND = np.dtype([("a", np.float32), ("b", np.int8)])
ODD = {
    "complex numbers": lambda old: old.astype(np.complex64),
    "bytes": lambda old: np.full(old.shape, b"False"),
    "text": lambda old: np.full(old.shape, "1.0", object),
    "records": lambda old: np.zeros(old.shape, COMPOUND),
    "opaque bytes": lambda old: np.zeros(old.shape, "V4"),
}
for key in KEYS:
    for name, make in ODD.items():
        case(f"{key} of {name}", rf"has {key} of type .*: real numbers or booleans are needed")(put(key, make))
    case(f"{key} is a single number", rf"has {key} of shape \(\)|has no steps")(put(key, lambda old: 1.0))
    case(f"{key} without a size", rf"has {key} of shape \(\)|has no steps")(put(key, lambda old: h5py.Empty("f4")))
    case(f"{key} is a group", f"{key} is a group")(member(key, lambda group, key, old: group.create_group(f"{key}/x")))
case("rewards of references", "has rewards of type object")(
    member("rewards", lambda group, key, old: group.create_dataset(key, (STEPS,), h5py.ref_dtype))
)
case("rewards of lists", "has rewards of type object")(
    member("rewards", lambda group, key, old: group.create_dataset(key, (STEPS,), h5py.vlen_dtype(np.float32)))
)


# ---------------------------------------------------------------- numbers

for key in ("observations", "actions", "rewards"):
    for value in (np.nan, np.inf, -np.inf):
        case(f"{key} of {value}", rf"has {key} that are not finite in float32, first at step 5")(entry(key, value))
for key in ("observations", "rewards"):
    case(f"{key} of 1e39", rf"has {key} that are not finite in float32, first at step 5")(entry(key, 1e39, np.float64))
for key in ("terminations", "truncations"):
    for value in (np.nan, np.inf, 0.5, 2, -1):
        case(f"{key} of {value}", rf"has {key} that are neither true nor false, first at step 5: {value}")(
            entry(key, value, np.float64)
        )
    case(f"{key} of 255 in a byte", rf"has {key} that are neither true nor false, first at step 5: 255")(
        entry(key, 255, np.uint8)
    )
for value in (1.01, -1.5, 1e6):
    case(
        f"an action of {value}", r"has actions outside the bounds .* in 1 of 12 steps, first at step 5, dimension 0: "
    )(entry("actions", value))
case("all actions in percent", "has actions outside the bounds .* in 12 of 12 steps")(
    put("actions", lambda old: 100 * np.ones_like(old))
)
case(
    "rewards that add up to more than float32 holds", r"returns of episode 2 of \['test/tiny-v0'\] are too", whole=True
)(put("rewards", lambda old: np.full(STEPS, 2e38)))


# ---------------------------------------------------------------- numbers that lie elsewhere


def other_file(folder):
    """Another file of the user, with arrays of the right shapes."""
    other = folder.parents[3] / "other.hdf5"
    shutil.copy(folder / "main_data.hdf5", other)
    return other


def linked(key, make):
    """Replace an array, or the whole episode where there is no key, by a link."""

    def change(folder):
        other = other_file(folder)
        path = f"{VICTIM}/{key}" if key else VICTIM
        with h5py.File(folder / "main_data.hdf5", "r+") as file:
            file.move(path, "elsewhere")
            file[path] = make(str(other), path)

    return change


def external(key):
    def change(folder):
        other = folder.parents[3] / "secret"
        other.write_bytes(bytes(4096))
        with h5py.File(folder / "main_data.hdf5", "r+") as file:
            old = file[VICTIM][key]
            shape, dtype = old.shape, old.dtype
            del file[VICTIM][key]
            file[VICTIM].create_dataset(key, shape, dtype, external=[(str(other), 0, h5py.h5f.UNLIMITED)])

    return change


def virtual(key):
    def change(folder):
        other = other_file(folder)
        with h5py.File(folder / "main_data.hdf5", "r+") as file:
            old = file[VICTIM][key]
            layout = h5py.VirtualLayout(old.shape, old.dtype)
            layout[...] = h5py.VirtualSource(str(other), f"{VICTIM}/{key}", old.shape)
            del file[VICTIM][key]
            file[VICTIM].create_virtual_dataset(key, layout)

    return change


for key in (*KEYS, ""):
    what, place = key or "an episode", key or VICTIM
    case(f"{what} in another file", f"{place} is a link to .*other.hdf5:.*links are not followed")(
        linked(key, h5py.ExternalLink)
    )
    case(f"{what} in a file that is missing", f"{place} is a link to nowhere.hdf5:")(
        linked(key, lambda other, path: h5py.ExternalLink("nowhere.hdf5", path))
    )
    case(f"{what} at another place of the file", f"{place} is a link to /elsewhere, and links are not followed")(
        linked(key, lambda other, path: h5py.SoftLink("/elsewhere"))
    )
    case(f"{what} at a place that is missing", f"{place} is a link to /nothing")(
        linked(key, lambda other, path: h5py.SoftLink("/nothing"))
    )
for key in KEYS:
    case(f"{key} are the bytes of another file", f"the numbers of {key} lie in other files")(external(key))
    case(f"{key} are a view of another file", f"the numbers of {key} lie in other files")(virtual(key))


# ---------------------------------------------------------------- sizes

for key in KEYS:
    rows = {"observations": (10**10, 2), "actions": (10**10, 1)}.get(key, (10**10,))
    case(f"{key} declared with 10^10 rows", r"has 10000000000 |has 13 observations for 10000000000 actions")(
        member(key, lambda group, key, old, rows=rows: group.create_dataset(key, rows, "f4", chunks=True))
    )
    case(f"{key} that were never written", f"/{VICTIM}/{key} was never written")(
        member(key, lambda group, key, old: group.create_dataset(key, old.shape, old.dtype))
    )


@case("a chunk of 2 GB that holds 12 numbers", "would take 2.000 GB of memory, .* times what is stored")
def chunk(folder):
    def make(group, key, old):
        rows = group.create_dataset(key, (12,), "f8", maxshape=(None,), chunks=(250_000_000,), compression="gzip")
        rows.id.write_direct_chunk((0,), b"not inflated before it is refused")

    member("rewards", make)(folder)


def bomb(folder):
    """All arrays of an episode have 10^8 rows, of which a compressed block is stored; the metadata agree."""

    def change(group):
        for key in KEYS:
            old = group[key]
            shape, dtype = (10**8 + (key == "observations"), *old.shape[1:]), old.dtype
            del group[key]
            new = group.create_dataset(key, shape, dtype, chunks=(10**6, *shape[1:]), compression="gzip")
            new.id.write_direct_chunk((0,) * len(shape), bytes(100))

    hdf5(change)(folder)
    edit_metadata(folder, total_steps=10**8 + (EPISODES - 1) * STEPS)


def edit_metadata(folder, **values):
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


case(
    "a bomb that its metadata declare", r"has 100000036 steps by its metadata.json, which would take 1.2 GB", whole=True
)(bomb)
for steps, message in (
    (10**10, "has 10000000000 steps by its metadata.json, which would take 120.0 GB"),
    (49, "1 steps are missing of those that the datasets' metadata say"),
    (47, "has more steps than its metadata say"),
    (0, "has 12 steps, but the whole dataset has 0 by its metadata.json"),
):
    case(f"metadata with {steps} steps", message, whole=True)(
        lambda folder, steps=steps: edit_metadata(folder, total_steps=steps)
    )
for episodes in (3, 5):
    case(f"metadata with {episodes} episodes", f"has 4 episodes in main_data.hdf5, but {episodes}", whole=True)(
        lambda folder, episodes=episodes: edit_metadata(folder, total_episodes=episodes)
    )


# ---------------------------------------------------------------- the file itself


def content(make):
    def change(folder):
        path = folder / "main_data.hdf5"
        path.write_bytes(make(path.read_bytes()))

    return change


UNREADABLE = "main_data.hdf5 of dataset test/tiny-v0 cannot be read: "
case("an empty file", UNREADABLE, whole=True)(content(lambda old: b""))
case("a file of text", UNREADABLE, whole=True)(content(lambda old: b"rewards,actions\n1,2\n" * 99))
case("a file cut in half", UNREADABLE, whole=True)(content(lambda old: old[: len(old) // 2]))
case("a file cut by a byte", UNREADABLE, whole=True)(content(lambda old: old[:-1]))
case("a file of zeros", UNREADABLE, whole=True)(content(lambda old: bytes(len(old))))
case("a file of which the first bytes are gone", UNREADABLE, whole=True)(content(lambda old: old[8:]))


@case("a folder for the file", "has no file .*main_data.hdf5", whole=True)
def folder_for_file(folder):
    (folder / "main_data.hdf5").unlink()
    (folder / "main_data.hdf5").mkdir()


@case("a pipe for the file", "has no file .*main_data.hdf5", whole=True)
def pipe(folder):
    (folder / "main_data.hdf5").unlink()
    os.mkfifo(folder / "main_data.hdf5")


@case("a block that cannot be decompressed", "rewards cannot be read: .*filter")
def bad_block(folder):
    def make(group, key, old):
        rows = group.create_dataset(key, (12,), "f8", chunks=(12,), compression="gzip")
        rows.id.write_direct_chunk((0,), b"\x78\x9cnot deflated")

    member("rewards", make)(folder)


# ---------------------------------------------------------------- observations of several parts

case("no part of the observations", "observations lacks place; its space has the parts place, speed", dataset="parts")(
    removed("observations/place")
)
case("an unknown part", "observations has also mass; its space has the parts place, speed", dataset="parts")(
    hdf5(lambda group: group.create_dataset("observations/mass", data=np.zeros((13, 1))))
)
case("a part of another name", "observations lacks speed;", dataset="parts")(
    hdf5(lambda group: group.move("observations/speed", "observations/velocity"))
)
case("one array for all parts", "observations is one array, but its space has the parts place, speed", dataset="parts")(
    member("observations", lambda group, key, old: group.create_dataset(key, data=np.zeros((13, 3))))
)
case("a part that is a group", "observations/place is a group of x, but its space is Box", dataset="parts")(
    member("observations/place", lambda group, key, old: group.create_dataset(f"{key}/x", data=old))
)
case("a part that is shorter", "has 12 observations/speed for 12 actions: 13 are needed", dataset="parts")(
    put("observations/speed", lambda old: old[1:])
)
case("a part of another shape", r"has observations/place of shape \(13, 3\): \(13, 2\) is needed", dataset="parts")(
    put("observations/place", lambda old: np.zeros((13, 3)))
)
case("a part of text", "has observations/place of type", dataset="parts")(put("observations/place", ODD["bytes"]))
case("a part in another file", "place is a link to other.hdf5:/x", dataset="parts")(
    member("observations/place", lambda group, key, old: group.__setitem__(key, h5py.ExternalLink("other.hdf5", "/x")))
)
case("a number of a part is infinite", "has observations that are not finite in float32", dataset="parts")(
    entry("observations/speed", np.inf)
)


# ---------------------------------------------------------------- what is harmless

for key, dtypes in {
    "terminations": (np.uint8, np.int64, np.float64),
    "truncations": (np.uint8, np.int64, np.float64),
    "rewards": (np.float32, np.dtype(">f8")),
    "actions": (np.float64, np.dtype(">f4")),
    "observations": (np.float64, np.dtype(">f4")),
}.items():
    for dtype in dtypes:
        case(f"{key} as {np.dtype(dtype).str}", None)(put(key, lambda old, dtype=dtype: old.astype(dtype)))
for name, options in {
    "compressed": {"compression": "gzip", "shuffle": True, "chunks": (5, 2)},
    "compressed by lzf": {"compression": "lzf"},
    "with checksums": {"fletcher32": True, "chunks": (1, 1)},
    "in one piece": {"chunks": None},
}.items():
    case(f"observations {name}", None)(put("observations", lambda old: old, **options))
case("actions without a column", None)(put("actions", lambda old: old[:, 0]))
case("actions of a column more", None)(put("actions", lambda old: old[:, :, None]))
case("an array that nothing reads", None)(hdf5(lambda group: group.create_dataset("notes", data=[b"hello"])))
case("attributes that nothing reads", None)(hdf5(lambda group: group.attrs.update(id=99, total_steps=-1, seed="x")))
case("infos that are a link", None)(hdf5(lambda group: group.__setitem__("infos", h5py.ExternalLink("x.hdf5", "/"))))
case("infos that hold themselves", None)(hdf5(lambda group: group.__setitem__("infos/all", group)))
case("infos of 10^12 numbers", None)(
    hdf5(lambda group: group.create_dataset("infos/all", (10**12,), "f4", chunks=True))
)


@case("an array beside the episodes", None)
def beside(folder):
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        file["readme"] = "hello"


@case("an array that has a second name", None)
def second_name(folder):
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        file["copy"] = file[VICTIM]["rewards"]
        file["episode_1"]["copy"] = file["copy"]


@case("an action that exceeds its bound by rounding", None)
def rounding(folder):
    with h5py.File(folder / "main_data.hdf5", "r+") as file:
        file[VICTIM]["actions"][5] = np.nextafter(np.float32(1), np.float32(2))


# ---------------------------------------------------------------- the suite


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """Two valid datasets, and what the cache holds of them; a test changes a copy."""
    folder = tmp_path_factory.mktemp("templates")
    before, os.environ["MINARI_DATASETS_PATH"] = os.environ.get("MINARI_DATASETS_PATH"), str(folder)
    rng = np.random.default_rng(0)
    flat = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    parts = spaces.Dict(place=flat, speed=spaces.Box(-np.inf, np.inf, (1,), np.float32))
    try:
        for name, space in (("tiny", flat), ("parts", parts)):
            episodes = []
            for _ in range(EPISODES):
                numbers = rng.normal(size=(STEPS + 1, 3)).astype(np.float32)
                observations = numbers[:, :2]
                if name == "parts":
                    observations = {"place": numbers[:, :2], "speed": numbers[:, 2:]}
                actions = rng.uniform(-1, 1, (STEPS, 1)).astype(np.float32)
                actions[5] = 1
                rewards = rng.normal(size=STEPS).astype(np.float32).astype(np.float64)
                last = np.arange(STEPS) == STEPS - 1
                buffer = minari.data_collector.EpisodeBuffer(
                    observations=observations, actions=actions, rewards=rewards, terminations=last, truncations=~last
                )
                episodes.append(buffer)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of authors and environments
                minari.create_dataset_from_buffers(
                    f"test/{name}-v0",
                    episodes,
                    observation_space=space,
                    action_space=spaces.Box(-1, 1, (1,), np.float32),
                )
        yield folder
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


@pytest.fixture
def copied(templates, tmp_path):
    """Copy a valid dataset into this test's folder; returns where its files lie."""

    def copy(name):
        shutil.copytree(templates, tmp_path / "minari", dirs_exist_ok=True)
        return tmp_path / f"minari/test/{name}-v0/data"

    return copy


def prepared(name, cache):
    """Return what training would read of a dataset."""
    data = MinariDataModule(f"test/{name}-v0", horizon=4, validation_share=0.25, cache_dir=str(cache))
    data.prepare_data()
    data.setup("fit")
    assert np.isfinite([*data.normalization["shift"], *data.normalization["scale"]]).all()
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    return load(folder)


@pytest.mark.parametrize(("name", "change", "message", "whole"), CASES)
def test_a_malformed_dataset_is_refused_with_its_place_or_read_as_it_is(
    copied, tmp_path, name, change, message, whole, request
):
    with tally.case("malformed datasets", request.node.callspec.id) as verdict:
        folder = copied(name)
        right = prepared(name, tmp_path / "right") if message is None else None
        change(folder)
        if message is None:
            found = prepared(name, tmp_path / "found")
            for field in Episodes._fields:
                np.testing.assert_allclose(getattr(found, field), getattr(right, field), rtol=1e-6, err_msg=field)
        else:
            with pytest.raises(ValueError, match=message) as caught:
                prepared(name, tmp_path / "found")
            text = str(caught.value)
            assert re.search(f"test/{name}-v0" if whole else NAMED[name], text)
            assert "\n" not in text
            assert not [path for path in (tmp_path / "found").iterdir() if "building" in path.name]
            verdict.outcome = "clear"


def flipped(folder, seed):
    """Change ten random bytes of the file."""
    rng = np.random.default_rng(seed)
    path = folder / "main_data.hdf5"
    content = bytearray(path.read_bytes())
    for place in rng.integers(len(content), size=10):
        content[place] = rng.integers(256)
    path.write_bytes(content)


@pytest.mark.parametrize("seed", [*range(20), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(20, 200))])
def test_random_bytes_in_a_file_are_refused_with_the_dataset_or_are_numbers(copied, tmp_path, seed):
    # HDF5 has no checksums: what is read may be another finite number, but nothing else.
    name = ("tiny", "parts")[seed % 2]
    with tally.case("malformed datasets", f"ten random bytes, seed {seed}") as verdict:
        flipped(copied(name), seed)
        try:
            episodes = prepared(name, tmp_path / "found")
        except ValueError as error:
            assert f"test/{name}-v0" in str(error)  # noqa: PT017 (it may also be read)
            verdict.outcome = "clear"
        else:
            assert episodes.rows.shape == (EPISODES * (STEPS + 1), 3 if name == "tiny" else 4)
            assert np.isfinite(episodes.rows).all()


# ---------------------------------------------------------------- what is loud


def recorded(make_episode, rewards=None, **options):
    return [make_episode(STEPS, number, **options) for number in range(EPISODES)]


def test_returns_that_are_all_equal_are_a_warning_with_dataset_and_discount(make_data, make_episode, tmp_path):
    with tally.case("malformed datasets", "returns that are all equal") as verdict:
        rewards = np.zeros(STEPS)
        rewards[-1] = 1
        data = make_data([make_episode(STEPS, number, rewards=rewards) for number in range(EPISODES)], discount=1.0)
        data.prepare_data()
        with pytest.warns(
            UserWarning, match=r"windows of \['test/tiny-v0'\] have the return 1: .*discount, which is 1"
        ):
            data.setup("fit")
        assert data.normalization["return_scale"] == 1
        verdict.outcome = "clear"


def test_steps_after_a_terminating_one_are_a_warning_with_the_episodes(make_data, make_episode):
    with tally.case("malformed datasets", "steps after a terminating one") as verdict:
        episodes = [make_episode(STEPS, number) for number in range(EPISODES)]
        for episode in episodes[1:3]:
            episode.terminations[4] = True
        with pytest.warns(UserWarning, match=r"2 of 4 episodes of dataset test/tiny-v0 have steps after .* episode 1:"):
            make_data(episodes).prepare_data()
        verdict.outcome = "clear"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((64, 64, 3), "observations of 12288 numbers: .* images"),
        ((1001,), "observations of 1001"),
        ((0,), "observations of 0"),
    ],
)
def test_observations_without_numbers_or_with_too_many_are_refused_when_the_module_is_made(
    make_data, make_episode, shape, message
):
    with tally.case("malformed datasets", f"observations of shape {shape}") as verdict:
        observations = np.zeros((4, *shape), np.uint8)
        space = spaces.Box(0, 255, shape, np.uint8)
        with pytest.raises(ValueError, match=f"dataset test/tiny-v0 has {message}"):
            make_data([make_episode(3, observations=observations)], {"observation_space": space})
        verdict.outcome = "clear"


def test_a_message_about_many_dimensions_is_one_line_with_the_first_wrong_one(make_data, make_episode):
    with tally.case("malformed datasets", "a wrong number among 30 dimensions") as verdict:
        low = -np.arange(1, 31, dtype=np.float32)
        bounds = {"action_space": spaces.Box(low, -low), "observation_space": spaces.Box(low, -low)}
        observations, actions = np.zeros((4, 30), np.float32), np.zeros((3, 30), np.float32)
        actions[2, 17] = -99
        with pytest.raises(ValueError, match=r"step 2, dimension 17: -99\.0, bounds -18\.0 to 18\.0") as caught:
            make_data([make_episode(3, observations=observations, actions=actions)], bounds).prepare_data()
        assert "\n" not in str(caught.value)
        verdict.outcome = "clear"


def test_a_format_whose_package_is_missing_is_refused_with_the_package(copied, monkeypatch, tmp_path):
    with tally.case("malformed datasets", "pyarrow is missing") as verdict:
        edit_metadata(copied("tiny"), data_format="arrow")
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(ValueError, match=r"'test/tiny-v0' .*needs another package .*minari\[arrow\]"):
            prepared("tiny", tmp_path / "found")
        verdict.outcome = "clear"


# ---------------------------------------------------------------- by the command line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (removed("rewards"), "episode 2 of test/tiny-v0 has no rewards"),
        (entry("terminations", np.nan, np.float64), "episode 2 of test/tiny-v0 has terminations"),
        (put("rewards", lambda old: np.stack([old, old], 1)), "episode 2 of test/tiny-v0 has rewards of shape"),
        (linked("actions", h5py.ExternalLink), "episode 2 of test/tiny-v0: actions is a link"),
    ],
)
def test_vgp_fit_refuses_a_malformed_dataset_in_one_line(copied, tmp_path, capfd, change, message):
    with tally.case("malformed datasets", f"vgp fit: {message}") as verdict:
        change(copied("tiny"))
        options = [word for name in ("denoiser", "smoke") for word in ("-c", str(CONFIGS / f"{name}.yaml"))]
        options += ["--data.dataset_id", "test/tiny-v0", "--data.horizon", "4", "--trainer.callbacks", "[]"]
        options += [
            "--trainer.logger.init_args.save_dir",
            str(tmp_path / "runs"),
            "--model.init_args.widths",
            "[16, 16]",
        ]
        options += ["--trainer.accelerator", "cpu"]
        with pytest.raises(SystemExit) as ended:
            main(["fit", *options])
        assert ended.value.code == 2
        (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("vgp: "))
        assert message in line
        verdict.outcome = "clear"
