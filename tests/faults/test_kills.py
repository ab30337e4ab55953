"""Verbs that are killed at random moments go on with the same command, and find what the unbroken run finds."""

import multiprocessing

import minari
import numpy as np
import pytest
from children import SPACE, TRACK, arrays, kill, kill_and_finish, moments, played, read, same_arrays, timed
from fakes import contents
from tally import case

from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")


def times(count):
    """Return a parameter of how many kills: few in the fast run, more in the slow one."""
    return pytest.mark.parametrize("kills", [3, pytest.param(count, marks=pytest.mark.slow)])


@times(15)
def test_evaluate_goes_on_after_kills(slow, folder, tmp_path, kills):
    command = ["evaluate", folder, "--episodes", 12, "--environments", 2, "--env_id", TRACK, "--output_dir"]
    longest = timed([*command, tmp_path / "whole"], tmp_path / "log")
    whole = read(tmp_path / "whole" / "evaluation.json")
    output = tmp_path / "killed"

    def check():
        if (output / "evaluation.json").exists():
            report = read(output / "evaluation.json")
            assert report == whole
            assert (output / "rollout.gif").read_bytes() == (tmp_path / "whole" / "rollout.gif").read_bytes()

    with case("kills", f"evaluate, {kills} kills"):
        drawn = moments(np.random.default_rng(kills), kills, longest)
        kill_and_finish([*command, output], tmp_path / "log", drawn, check)
        assert read(output / "evaluation.json") == whole
        episodes = played(output / "episodes")
        assert sorted(episodes) == sorted(set(episodes))  # none was played to its end twice
        check()


@pytest.mark.slow
@times(15)
def test_tune_goes_on_after_kills(slow, folder, tmp_path, kills):
    command = ["tune", folder, "--episodes", 13, "--configurations", 6, "--holdout_episodes", 3, "--env_id", TRACK]
    command += ["--environments", 2, "--space", SPACE]
    before = contents(folder)
    longest = timed([*command, "--write", "false", "--output_dir", tmp_path / "whole"], tmp_path / "log")
    whole = read(tmp_path / "whole" / "tuning.json")
    assert contents(folder) == before
    output = tmp_path / "killed"

    def check():
        ValueGuidedPlannerPipeline.from_pretrained(folder)

    with case("kills", f"tune, {kills} kills"):
        drawn = moments(np.random.default_rng(kills), kills, longest)
        kill_and_finish([*command, "--output_dir", output], tmp_path / "log", drawn, check)
        report = read(output / "tuning.json")
        assert report | {"written": False} == whole
        defaults = ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings()
        better = report["outcome"] == "better"
        assert (report["written"], defaults) == (True, report["winner_settings" if better else "default_settings"])
        episodes = played(output / "episodes")
        assert sorted(episodes) == sorted(set(episodes))


@times(15)
def test_collect_goes_on_after_kills(slow, tmp_path, monkeypatch, kills):
    command = ["collect", "--env_id", TRACK, "--behaviour", "random", "--steps", 120, "--environments", 2]
    command += ["--dataset_id", "test/track-v0"]
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "whole"))
    longest = timed(command, tmp_path / "log")
    whole = arrays(tmp_path / "whole", "test/track-v0")
    root = tmp_path / "killed"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    done = []

    def check():
        assert list(minari.list_local_datasets()) in ([], ["test/track-v0"])
        if (root / "test" / "track-v0").exists():
            assert same_arrays(arrays(root, "test/track-v0"), whole)
            done.append(1)

    with case("kills", f"collect, {kills} kills"):
        for moment in moments(np.random.default_rng(kills), kills, longest):
            if not done:  # a finished dataset is not collected again
                kill(command, tmp_path / "log", *moment)
                check()
        if not done:
            timed(command, tmp_path / "log")
        check()
        assert done
        hidden = [path.name for path in (root / "test").iterdir() if path.name.startswith(".")]
        assert hidden == [] or len(done) > 1  # killed between writing the dataset and removing the store


@pytest.mark.slow
@times(10)
def test_diagnose_goes_on_after_kills(slow, folder, tmp_path, kills):
    command = ["diagnose", folder, "--episodes", 6, "--starts", 2, "--env_id", TRACK, "--output_dir"]
    longest = timed([*command, tmp_path / "whole"], tmp_path / "log")
    whole = read(tmp_path / "whole" / "diagnostics.json")
    output = tmp_path / "killed"

    def check():
        if (output / "diagnostics.json").exists():
            report = read(output / "diagnostics.json")
            assert report == whole
            for name in report["pictures"]:
                assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name

    with case("kills", f"diagnose, {kills} kills"):
        drawn = moments(np.random.default_rng(kills), kills, longest)
        kill_and_finish([*command, output], tmp_path / "log", drawn, check)
        check()
        assert (output / "diagnostics.json").exists()
