"""Verbs that are started two or three times at once share the work, and find what one process finds."""

import multiprocessing

import minari
import pytest
from children import SPACE, TRACK, arrays, finish, played, read, same_arrays, start, timed
from tally import case

from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")

COUNTS = [2, pytest.param(3, marks=pytest.mark.slow)]


def together(count, commands, tmp_path):
    """Start commands at once, each ``count`` times, and return exit codes and what was printed."""
    logs = [tmp_path / f"{i}.log" for i in range(count * len(commands))]
    processes = [start(commands[i % len(commands)], log) for i, log in enumerate(logs)]
    return [finish(process) for process in processes], [log.read_text() for log in logs]


@pytest.mark.parametrize("count", COUNTS)
def test_evaluate_is_shared(slow, folder, tmp_path, count):
    command = ["evaluate", folder, "--episodes", 12, "--environments", 2, "--env_id", TRACK, "--output_dir"]
    timed([*command, tmp_path / "alone"], tmp_path / "log")
    with case("two at once", f"evaluate, {count} processes"):
        codes, logs = together(count, [[*command, tmp_path / "shared"]], tmp_path)
        assert codes == [0] * count, logs
        assert read(tmp_path / "shared" / "evaluation.json") == read(tmp_path / "alone" / "evaluation.json")
        episodes = played(tmp_path / "shared" / "episodes")
        assert len(episodes) == 12 == len(set(episodes))
        assert list((tmp_path / "shared" / "episodes").glob("*.process")) == []


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
def test_tune_is_shared(slow, folder, tmp_path, count):
    command = ["tune", folder, "--episodes", 13, "--configurations", 6, "--holdout_episodes", 3, "--env_id", TRACK]
    command += ["--environments", 2, "--space", SPACE, "--output_dir"]
    timed([*command, tmp_path / "alone", "--write", "false"], tmp_path / "log")
    with case("two at once", f"tune, {count} processes"):
        codes, logs = together(count, [[*command, tmp_path / "shared"]], tmp_path)
        assert codes == [0] * count, logs
        report = read(tmp_path / "shared" / "tuning.json")
        assert report | {"written": False} == read(tmp_path / "alone" / "tuning.json")
        episodes = played(tmp_path / "shared" / "episodes")
        assert len(episodes) == len(set(episodes))
        defaults = ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings()
        assert defaults == report["winner_settings"] or report["outcome"] == "not better"
        # One that comes too late prints the result, and does not search from the winner on.
        codes, logs = together(1, [[*command, tmp_path / "shared"]], tmp_path)
        assert (codes, "of a finished search" in logs[0]) == ([0], True)
        assert read(tmp_path / "shared" / "tuning.json") == report
        assert played(tmp_path / "shared" / "episodes") == episodes


@pytest.mark.parametrize("count", COUNTS)
def test_collect_is_shared(slow, tmp_path, monkeypatch, count):
    command = ["collect", "--env_id", TRACK, "--behaviour", "random", "--steps", 120, "--environments", 2]
    command += ["--dataset_id", "test/track-v0"]
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "alone"))
    timed(command, tmp_path / "log")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "shared"))
    with case("two at once", f"collect, {count} processes"):
        codes, logs = together(count, [command], tmp_path)
        assert codes == [0] * count, logs
        assert same_arrays(*(arrays(tmp_path / root, "test/track-v0") for root in ("alone", "shared")))
        assert [path.name for path in (tmp_path / "shared" / "test").glob(".*")] == []


def test_collect_of_two_different_datasets_under_one_id_makes_one_of_them(slow, tmp_path, monkeypatch):
    command = ["collect", "--env_id", TRACK, "--behaviour", "random", "--environments", 2]
    command += ["--dataset_id", "test/track-v0", "--steps"]
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "shared"))
    with case("two at once", "collect, two datasets under one id") as verdict:
        codes, logs = together(1, [[*command, 60], [*command, 90]], tmp_path)
        assert sorted(codes) == [0, 2], logs
        loser = logs[codes.index(2)]
        assert "another process plays other episodes" in loser or "already exists" in loser
        assert minari.load_dataset("test/track-v0").total_steps == (60, 90)[codes.index(0)]
        verdict.outcome = "clear"


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
def test_diagnose_is_shared(slow, folder, tmp_path, count):
    command = ["diagnose", folder, "--episodes", 6, "--starts", 2, "--env_id", TRACK, "--output_dir"]
    timed([*command, tmp_path / "alone"], tmp_path / "log")
    with case("two at once", f"diagnose, {count} processes"):
        codes, logs = together(count, [[*command, tmp_path / "shared"]], tmp_path)
        assert codes == [0] * count, logs
        assert read(tmp_path / "shared" / "diagnostics.json") == read(tmp_path / "alone" / "diagnostics.json")
        episodes = played(tmp_path / "shared" / "episodes")
        assert len(episodes) == 6 == len(set(episodes))


def test_evaluate_of_other_settings_in_the_same_folder_is_refused_while_one_runs(slow, folder, tmp_path):
    command = ["evaluate", folder, "--episodes", 12, "--environments", 2, "--env_id", TRACK]
    command += ["--output_dir", tmp_path / "shared", "--temperature"]
    with case("two at once", "evaluate, two settings in one folder") as verdict:
        codes, logs = together(1, [[*command, 0.5], [*command, 1.0]], tmp_path)
        assert sorted(codes) == [0, 2], logs
        assert "another process plays other episodes" in logs[codes.index(2)]
        assert read(tmp_path / "shared" / "evaluation.json")["settings"]["temperature"] == (0.5, 1.0)[codes.index(0)]
        verdict.outcome = "clear"
