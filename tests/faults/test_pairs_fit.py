"""Two of everything at once: neither loses anything, or one is refused in clear words."""

import subprocess
import sys
import time

import pytest
import tally
import yaml
from children import finish, start
from filelock import FileLock, Timeout
from trainings import fit_words, last_of

from vgp_lightning.cli import main
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.training import runs

GROUP = "two at once"


# ---------------------------------------------------------------- training


@pytest.fixture
def fit_options(make_data, tmp_path):
    """Return the words of a training of 20 steps, into the folder ``runs``."""
    return fit_words(tmp_path, make_data)


def last(tmp_path, version):
    return last_of(tmp_path / "runs", version)


def seed_of(checkpoint):
    return yaml.safe_load(checkpoint["vgp_config"])["seed_everything"]


def refusal(words, capfd):
    with pytest.raises(SystemExit) as ended:
        main(["fit", *words])
    assert ended.value.code == 2
    return capfd.readouterr().err


def test_fit_takes_the_next_number_where_another_run_makes_its_folder_at_the_same_moment(
    fit_options, tmp_path, monkeypatch
):
    # Between the look at the numbers that are taken and the making of the folder, another run makes it.
    make, theirs = runs._make, tmp_path / "runs/denoiser/version_0"

    def make_late(folder):
        if folder == theirs and not theirs.exists():
            theirs.mkdir(parents=True)
            (theirs / "config.yaml").write_text("theirs")
        return make(folder)

    with tally.case(GROUP, "fit and fit, at the same moment"):
        monkeypatch.setattr(runs, "_make", make_late)
        main(["fit", *fit_options])
        assert [path.name for path in theirs.iterdir()] == ["config.yaml"]
        assert (theirs / "config.yaml").read_text() == "theirs"
        assert last(tmp_path, 1)["global_step"] == 20
        assert yaml.safe_load(last(tmp_path, 1)["vgp_config"])["trainer"]["logger"]["init_args"]["version"] is None


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_fit_started_several_times_together_is_several_runs(fit_options, tmp_path, count):
    with tally.case(GROUP, f"{count} x fit"):
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "vgp_lightning", "fit", *fit_options, "--seed_everything", str(seed)],
                stderr=subprocess.PIPE,
                text=True,
            )
            for seed in range(count)
        ]
        for process in processes:
            assert process.wait(timeout=300) == 0, process.stderr.read()
            process.stderr.close()
        found = [last(tmp_path, version) for version in range(count)]
        assert sorted(map(seed_of, found)) == list(range(count))
        assert [checkpoint["global_step"] for checkpoint in found] == [20] * count


def test_fit_does_not_resume_a_run_that_another_process_trains(fit_options, tmp_path, monkeypatch, capfd):
    with tally.case(GROUP, "fit --ckpt_path last, twice") as verdict:
        verdict.outcome = "clear"
        main(["fit", *fit_options])
        folder = tmp_path / "runs/denoiser/version_0"
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        monkeypatch.setattr(runs, "_PATIENCE", 0)
        more = ["--ckpt_path", "last", "--trainer.max_steps", "30", "--may_differ", "[trainer.max_steps]"]
        with FileLock(folder / ".lock"):
            message = refusal([*fit_options, *more], capfd)
        assert f"another process trains in {folder}: wait for its end" in message
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"} == {
            path: age for path, age in before.items() if path.name != ".lock"
        }
        main(["fit", *fit_options, *more])  # the lock is free again
        assert last(tmp_path, 0)["global_step"] == 30


def test_fit_does_not_write_into_a_folder_that_holds_another_run(fit_options, tmp_path, capfd):
    with tally.case(GROUP, "fit --trainer.logger.init_args.version 0, twice") as verdict:
        verdict.outcome = "clear"
        named = ["--trainer.logger.init_args.version", "0"]
        main(["fit", *fit_options, *named])
        before = (tmp_path / "runs/denoiser/version_0/config.yaml").read_text()
        message = refusal([*fit_options, *named, "--seed_everything", "1"], capfd)
        assert "version_0 holds a run already: resume it with --ckpt_path last, or give another" in message
        assert (tmp_path / "runs/denoiser/version_0/config.yaml").read_text() == before


def test_fit_that_fails_leaves_no_folder_of_its_own_and_others_as_they_were(fit_options, tmp_path, capfd):
    with tally.case(GROUP, "fit that fails") as verdict:
        verdict.outcome = "clear"
        (tmp_path / "cache").write_text("a file in the place of the cache's folder")
        refusal([*fit_options, "--data.cache_dir", str(tmp_path / "cache")], capfd)
        assert not (tmp_path / "runs").exists()


def test_a_run_that_was_killed_lets_its_folder_go(fit_options, tmp_path):
    with tally.case(GROUP, "the lock of a run that was killed"):
        folder, more = tmp_path / "runs/denoiser/version_0", ["--may_differ", "[trainer.max_steps]"]
        long = ["--trainer.max_steps", "1000000", "--checkpoint.every_n_train_steps", "10"]
        process = start(["fit", *fit_options, *long], tmp_path / "log")
        begin = time.monotonic()
        while not (folder / "checkpoints/last.ckpt").exists():
            assert process.is_alive(), (tmp_path / "log").read_text()
            assert time.monotonic() - begin < 60
            time.sleep(0.1)
        with pytest.raises(Timeout):
            FileLock(folder / ".lock").acquire(timeout=0)
        process.kill()
        process.join(60)
        steps = last(tmp_path, 0)["global_step"] + 5
        main(["fit", *fit_options, *more, "--trainer.max_steps", str(steps), "--ckpt_path", "last"])
        assert last(tmp_path, 0)["global_step"] == steps


# ---------------------------------------------------------------- export


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_export_into_one_folder_is_won_by_one_process(fit_options, tmp_path, count):
    with tally.case(GROUP, f"{count} x export") as verdict:
        main(["fit", *fit_options])
        checkpoint = tmp_path / "runs/denoiser/version_0/checkpoints/last.ckpt"
        command = ["export", "--denoiser", checkpoint, "--output", tmp_path / "planner"]
        logs = [tmp_path / f"{i}.log" for i in range(count)]
        codes = [finish(process) for process in [start(command, log) for log in logs]]
        assert sorted(codes) == [0, *[2] * (count - 1)]
        losers = [log.read_text() for log, code in zip(logs, codes, strict=True) if code]
        assert all("exists already" in text and "Traceback" not in text for text in losers), losers
        ValueGuidedPlannerPipeline.from_pretrained(tmp_path / "planner")
        assert [path.name for path in tmp_path.glob(".planner*")] == []
        verdict.outcome = "clear"
