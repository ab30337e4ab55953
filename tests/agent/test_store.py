"""The store of episodes: what is kept, who plays what, and what a killed process leaves."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from vgp_lightning.agent.store import EpisodeStore, read_stores

ITEMS = [(0, seed, seed) for seed in range(5)]
IDENTITY = {"verb": "evaluate", "seed": 0}


def wanted():
    return ITEMS


def opened(tmp_path, identity=IDENTITY, **options):
    return EpisodeStore(tmp_path / "episodes", identity, **options)


def claim_all(store):
    return list(iter(lambda: store.claim(wanted), None))


# A process of its own that claims an episode, says so, and waits to be killed.
HOLDER = """
import sys, time
from pathlib import Path
from vgp_lightning.agent.store import EpisodeStore
store = EpisodeStore(Path(sys.argv[1]), {"verb": "evaluate", "seed": int(sys.argv[2])})
print(store.claim(lambda: [(0, seed, seed) for seed in range(5)]), flush=True)
time.sleep(60)
"""


def hold(tmp_path, seed=0):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "episodes"), str(seed)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "(0, 0, 0)\n"
    return process


def kill(process):
    process.kill()
    process.wait()
    process.stdout.close()


# ---------------------------------------------------------------- what is kept


def test_what_was_finished_is_there_in_the_next_process_to_the_bit(tmp_path):
    array = np.array([[0.1, np.nan], [-np.inf, -0.0]], np.float32)
    numbers = {
        "return": 0.1 + 0.2,
        "length": np.int64(3),
        "success": None,
        "steps": {"rewards": array, "none": array[:0]},
    }
    with opened(tmp_path) as store:
        store.finish(ITEMS[2], numbers)
    with opened(tmp_path) as store:
        (found,) = store.finished.values()
        assert list(store.finished) == [ITEMS[2]]
        assert claim_all(store) == [ITEMS[0], ITEMS[1], *ITEMS[3:]]
    assert (found["return"], found["length"], found["success"]) == (0.1 + 0.2, 3, None)
    assert found["steps"]["rewards"].dtype == np.float32
    assert found["steps"]["rewards"].tobytes() == array.tobytes()
    assert found["steps"]["none"].shape == (0, 2)


def test_in_memory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = EpisodeStore(None)
    assert claim_all(store) == ITEMS
    store.finish(ITEMS[0], {"return": 1.0})
    assert store.finished == {ITEMS[0]: {"return": 1.0}}
    assert store.fact("drawn", lambda: [1]) == [1]
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_another_identity_is_another_store_and_again_forgets_one_of_them(tmp_path):
    for seed in (0, 1):
        with opened(tmp_path, {"seed": seed}) as store:
            store.finish(ITEMS[0], {"return": float(seed)})
    with opened(tmp_path, {"seed": 1}, again=True) as store:
        assert store.finished == {}
    with opened(tmp_path, {"seed": 0}) as store:
        assert store.finished == {ITEMS[0]: {"return": 0.0}}


def test_a_fact_is_made_once(tmp_path):
    with opened(tmp_path) as store:
        assert store.known("drawn") is None
        assert store.fact("drawn", lambda: {"scale": (0.1, 1e300)}) == {"scale": [0.1, 1e300]}
    with opened(tmp_path) as store:
        assert store.fact("drawn", lambda: pytest.fail("made again")) == {"scale": [0.1, 1e300]}
    assert list(read_stores(tmp_path / "episodes")) == [(IDENTITY, {"drawn": {"scale": [0.1, 1e300]}})]


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path):
    with opened(tmp_path) as store:
        path = tmp_path / "episodes" / f"{store.key}.jsonl"
    path.rename(tmp_path / "mine")
    path.symlink_to(tmp_path / "mine")
    before = (tmp_path / "mine").read_bytes()
    with opened(tmp_path) as store, pytest.raises(OSError, match=path.name):
        store.finish(ITEMS[0], {"return": 1.0})
    assert (tmp_path / "mine").read_bytes() == before


# ---------------------------------------------------------------- who plays what


def test_two_stores_never_take_the_same_episode(tmp_path):
    with opened(tmp_path) as first, opened(tmp_path) as second:
        assert first.claim(wanted) == ITEMS[0]
        assert second.claim(wanted) == ITEMS[1]
        assert first.claim(wanted) == ITEMS[2]
        second.finish(ITEMS[1], {"return": 1.0})
        assert claim_all(first) == ITEMS[3:]
        assert first.finished == {ITEMS[1]: {"return": 1.0}}
        assert second.claim(wanted) is None


def test_what_a_process_had_claimed_is_free_when_it_has_ended(tmp_path):
    with opened(tmp_path) as second:
        with opened(tmp_path) as first:
            first.claim(wanted)
            assert second.claim(wanted) == ITEMS[1]
        assert second.claim(wanted) == ITEMS[0]


def test_what_a_killed_process_had_claimed_is_free_and_a_living_one_keeps_its_own(tmp_path):
    process = hold(tmp_path)
    with opened(tmp_path) as store:
        assert store.claim(wanted) == ITEMS[1]
        with pytest.raises(ValueError, match=r"another process plays other episodes in .*give another --output_dir"):
            opened(tmp_path, {"verb": "evaluate", "seed": 1})
        kill(process)
        assert store.claim(wanted) == ITEMS[0]
    with opened(tmp_path, {"verb": "evaluate", "seed": 1}):
        assert len(list((tmp_path / "episodes").glob("*.process"))) == 1  # the dead one's is removed


def test_a_second_process_does_not_forget_what_a_living_one_plays(tmp_path):
    with opened(tmp_path, again=True) as first:
        first.finish(ITEMS[0], {"return": 1.0})
        with opened(tmp_path, again=True) as second:
            assert second.finished == first.finished


def test_sharing_ends_when_all_is_finished_by_whomever(tmp_path, monkeypatch):
    with opened(tmp_path) as first, opened(tmp_path) as second:
        item = first.claim(wanted)
        calls = []

        def play():
            calls.append(0)
            for one in claim_all(second):
                second.finish(one, {"return": 0.0})

        monkeypatch.setattr(time, "sleep", lambda seconds: first.finish(item, {"return": 9.0}))
        second.share(wanted, play)
        assert len(calls) == 2
        assert second.finished[item] == {"return": 9.0}


# ---------------------------------------------------------------- what a kill leaves


@pytest.mark.parametrize("cut", [1, 7])
def test_a_torn_last_line_is_cut_off_and_its_episode_is_played_again(tmp_path, cut):
    with opened(tmp_path) as store:
        store.finish(ITEMS[0], {"return": 1.0})
        store.finish(ITEMS[1], {"return": 2.0})
        path = tmp_path / "episodes" / f"{store.key}.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with opened(tmp_path) as store:
        assert store.finished == {ITEMS[0]: {"return": 1.0}}
        store.finish(ITEMS[1], {"return": 3.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["return"] for line in lines if "episode" in line] == [1.0, 3.0]


def test_a_line_that_is_torn_by_another_is_cut_off_by_who_is_there(tmp_path):
    with opened(tmp_path) as store:
        store.finish(ITEMS[0], {"return": 1.0})
        path = tmp_path / "episodes" / f"{store.key}.jsonl"
        with path.open("ab") as file:
            file.write(b'{"episode": [0, 1')
        store.finish(ITEMS[1], {"return": 2.0})
    with opened(tmp_path) as store:
        assert sorted(store.finished) == ITEMS[:2]


@pytest.mark.parametrize("line", ["garbage", "[]", '{"player": 1}', '{"episode": 3}', '{"claim": [0, 1, 1]}'])
def test_a_damaged_line_is_named_with_the_remedy(tmp_path, line):
    with opened(tmp_path) as store:
        path = tmp_path / "episodes" / f"{store.key}.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=rf"line 2 of .*{path.name} is damaged .* remove the file"):
        opened(tmp_path)


def test_nothing_is_left_of_a_store_that_is_discarded_but_what_others_made(tmp_path):
    (tmp_path / "episodes").mkdir()
    (tmp_path / "episodes" / "mine.txt").touch()
    with opened(tmp_path) as store, opened(tmp_path) as other:
        store.fact("a", lambda: 1)
        other.finish(ITEMS[0], {"return": 1.0})
        store.discard()
        assert (tmp_path / "episodes" / f"{store.key}.jsonl").exists()  # the other needs it
        store.close()
        other.discard()
    assert {path.name for path in (tmp_path / "episodes").iterdir()} == {"mine.txt", "lock"}
    (tmp_path / "episodes" / "mine.txt").unlink()
    with opened(tmp_path) as store:
        store.discard()
    assert not (tmp_path / "episodes").exists()
