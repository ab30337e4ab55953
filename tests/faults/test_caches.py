"""Damaged caches: each damage is noticed, named in one line, and built again."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tally

ARRAYS = ("rows.npy", "rewards.npy", "lengths.npy", "terminated.npy", "per_dataset.npy")
RETURNS = "returns_0.997_0.0_cut.npy"
FILES = (*ARRAYS, RETURNS, "statistics.npz")
MANIFESTS = ("manifest.json", f"{RETURNS}.json", "statistics.npz.json")


class Marker:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def noise(path, size):
    path.write_bytes(np.random.default_rng(0).bytes(size))


def one_byte(path, size):
    content = bytearray(path.read_bytes())
    content[size * 2 // 3] ^= 1
    path.write_bytes(content)


def folder(path, size):
    path.unlink()
    path.mkdir()


def dangling(path, size):
    path.unlink()
    path.symlink_to("nothing")


def pickled(path, size):
    marker = path.parents[3] / "marker"
    path.write_bytes(pickle.dumps(Marker(marker)))


def object_array(path, size):
    marker = path.parents[3] / "marker"
    with path.open("wb") as file:
        np.save(file, np.array([Marker(marker)], object), allow_pickle=True)


DAMAGES = {
    "missing": lambda path, size: path.unlink(),
    "empty": lambda path, size: path.write_bytes(b""),
    "cut by a byte": lambda path, size: os.truncate(path, size - 1),
    "cut in half": lambda path, size: os.truncate(path, size // 2),
    "a byte too long": lambda path, size: path.write_bytes(path.read_bytes() + b"\0"),
    "other content of the same size": noise,
    "zeros of the same size": lambda path, size: path.write_bytes(bytes(size)),
    "one bit": one_byte,
    "an array of another shape": lambda path, size: np.save(path.open("wb"), np.zeros(3)),
    "a folder": folder,
    "a link to nothing": dangling,
    "a pickle": pickled,
    "an array of pickles": object_array,
}


def prepared(make_data):
    """Prepare the data, and return what training would read."""
    data = make_data(dataset_id="test/tiny-v0")
    data.prepare_data()
    data.setup("fit")
    batch = data.train_windows.batch(range(len(data.train_windows)))
    return data.normalization, batch.trajectories.tolist(), batch.returns.tolist()


@pytest.fixture
def built(make_data, tmp_path, capfd):
    """Build a cache; returns its folder, and a function that prepares it again and says what it printed."""
    make_data()
    right = prepared(make_data)
    (place,) = (path for path in (tmp_path / "cache/vgp_lightning").iterdir() if path.is_dir())
    assert capfd.readouterr().err == ""

    def again():
        assert prepared(make_data) == right
        return capfd.readouterr().err

    return place, again


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("name", [*FILES, *MANIFESTS])
def test_a_damaged_file_is_named_and_built_again(built, name, tmp_path):
    place, again = built
    assert again() == ""
    for damage, make in DAMAGES.items():
        with tally.case("damaged folders", f"cache, {name}: {damage}") as verdict:
            make(place / name, (place / name).stat().st_size)
            message = again()
            # An array is built again with its whole folder, and what was computed from it too.
            owner = place if name in (*ARRAYS, "manifest.json") else place / name.removesuffix(".json")
            line = f"vgp: the cache {re.escape(str(owner))} is built again: .*{re.escape(name)}.*\n"
            if damage == "missing" and owner == place / name:
                line = ""  # as if it had never been needed
            assert re.fullmatch(line, message)
            assert again() == ""
            assert not (tmp_path / "marker").exists()
            assert [path for path in place.parent.iterdir() if "building" in path.name] == []
            verdict.outcome = "clear"


@pytest.mark.parametrize("text", ["[]", "{}", "null", "1e999", '"rows.npy"', "{" * 9, "[" * 100_000, '{"rows.npy": 1}'])
def test_a_manifest_of_other_content_is_no_manifest(built, text):
    with tally.case("damaged folders", f"cache, manifest.json: {text[:20]}") as verdict:
        place, again = built
        (place / "manifest.json").write_text(text)
        assert again().count("is built again") == 1
        assert again() == ""
        verdict.outcome = "clear"


def test_a_cache_of_an_earlier_version_is_built_again_since_it_was_not_checked_as_strictly(built):
    with tally.case("damaged folders", "cache of an earlier version") as verdict:
        place, again = built
        for name in MANIFESTS:
            (place / name).unlink()
        assert "it has no manifest.json, which this version writes" in again()
        assert again() == ""
        verdict.outcome = "clear"


def test_an_empty_folder_and_a_file_in_its_place_are_built_again(built):
    place, again = built
    for damage in ("an empty folder", "a file"):
        with tally.case("damaged folders", f"cache, {damage}") as verdict:
            shutil.rmtree(place)
            if damage == "a file":
                place.write_text("")
            else:
                place.mkdir()
            assert again().count("is built again") == 1
            assert again() == ""
            verdict.outcome = "clear"


def test_a_cache_that_was_moved_and_linked_is_used_as_it_is(built, tmp_path):
    with tally.case("damaged folders", "cache moved and linked"):
        place, again = built
        place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
        assert again() == ""


def test_content_that_was_changed_together_with_its_size_in_the_manifest_is_noticed(built):
    with tally.case("damaged folders", "cache and manifest of another size") as verdict:
        place, again = built
        np.save(place / "rows.npy", np.zeros((3, 3), np.float32))
        written = json.loads((place / "manifest.json").read_text())
        written["rows.npy"]["bytes"] = (place / "rows.npy").stat().st_size
        (place / "manifest.json").write_text(json.dumps(written))
        assert again().count("is built again") == 1
        verdict.outcome = "clear"


def test_damage_in_a_large_file_is_looked_for_in_blocks_from_its_beginning_to_its_end(make_data, monkeypatch, capfd):
    monkeypatch.setattr("vgp_lightning.data.building._BLOCK", 64)
    monkeypatch.setattr("vgp_lightning.data.building._BLOCKS", 4)
    make_data()
    right = prepared(make_data)
    (rows,) = Path(os.environ["XDG_CACHE_HOME"]).rglob("rows.npy")
    size = rows.stat().st_size
    assert size > 1000
    for place in (0, size // 3 + 10, size - 1):
        with tally.case("damaged folders", f"cache, byte {place} of a large file") as verdict:
            content = bytearray(rows.read_bytes())
            content[place] ^= 1
            rows.write_bytes(content)
            assert prepared(make_data) == right
            assert "is built again" in capfd.readouterr().err
            verdict.outcome = "clear"


def test_a_damaged_cache_that_cannot_be_written_to_is_an_error_with_damage_and_cure(built, make_data, monkeypatch):
    with tally.case("damaged folders", "damaged cache of another user") as verdict:
        place, _ = built
        (place / "rows.npy").write_bytes(b"")
        data = make_data(dataset_id="test/tiny-v0")

        def refused(*args, **kwargs):
            raise PermissionError(13, "Permission denied", str(place.parent))

        monkeypatch.setattr("vgp_lightning.data.building.tempfile.mkdtemp", refused)
        with pytest.raises(ValueError, match=r"cannot be written to .*another user: .*--data\.cache_dir FOLDER"):
            data.prepare_data()
        verdict.outcome = "clear"
