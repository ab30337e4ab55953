"""Full disks, by a limit on the size of files: one clear sentence, and nothing half-written is left."""

import resource
from contextlib import contextmanager

import pytest
import tally
from children import finish, limited, start
from fakes import differences
from trainings import fit_words, last_of

from vgp_lightning.cli import main
from vgp_lightning.shipped import CONFIGS


@contextmanager
def full_after(size):
    """No file of this process may grow beyond so many bytes. Python ignores SIGXFSZ, so that writing fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ---------------------------------------------------------------- the cache of vgp fit


def files(folder):
    return {path: path.stat().st_size for path in folder.rglob("*") if path.suffix != ".lock" and path.is_file()}


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 200, 400, 544, 1000, 1300])
def test_a_cache_that_does_not_fit_is_one_clear_sentence_and_leaves_nothing(make_data, tmp_path, size):
    with tally.case("full disks", f"vgp fit, cache, {size} bytes") as verdict:
        data = make_data()
        with (
            full_after(size),
            pytest.raises(
                ValueError, match=r"no space is left in .*limit on the size.*free: .*--data\.cache_dir"
            ) as full,
        ):
            data.prepare_data()
        assert "\n" not in str(full.value)
        assert files(tmp_path / "cache") == {}
        data.prepare_data()
        data.setup("fit")
        verdict.outcome = "clear"


@pytest.mark.parametrize("size", [0, 100, 128, 300, 500])
def test_returns_that_do_not_fit_leave_the_cache_as_it_was(make_data, tmp_path, size):
    with tally.case("full disks", f"vgp fit, returns, {size} bytes") as verdict:
        make_data().prepare_data()
        before = files(tmp_path / "cache")
        data = make_data(dataset_id="test/tiny-v0", discount=0.5)
        with full_after(size), pytest.raises(ValueError, match=r"no space is left in .*--data\.cache_dir"):
            data.prepare_data()
        assert files(tmp_path / "cache") == before
        data.prepare_data()
        verdict.outcome = "clear"


def test_vgp_fit_says_in_one_line_that_its_cache_does_not_fit(make_data, tmp_path, capfd):
    with tally.case("full disks", "vgp fit, cache, by the command line") as verdict:
        make_data()
        options = [word for name in ("denoiser", "smoke") for word in ("-c", str(CONFIGS / f"{name}.yaml"))]
        options += ["--data.dataset_id", "test/tiny-v0", "--data.horizon", "4", "--model.init_args.widths", "[16, 16]"]
        options += ["--trainer.callbacks", "[]", "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
        with full_after(1000), pytest.raises(SystemExit) as ended:
            main(["fit", *options])
        assert ended.value.code == 2
        errors = capfd.readouterr().err
        assert "Traceback" not in errors
        (line,) = (line for line in errors.splitlines() if line.startswith("vgp: "))
        assert f"no space is left in {tmp_path / 'cache'}" in line
        assert files(tmp_path / "cache") == {}
        verdict.outcome = "clear"


# ---------------------------------------------------------------- checkpoints and exports


@pytest.mark.parametrize("limit", [20_000, *(pytest.param(one, marks=pytest.mark.slow) for one in (2000, 100_000))])
def test_fit_on_a_full_disk_goes_on_when_there_is_room(make_data, tmp_path, limit):
    more = ["--ckpt_path", "last", "--checkpoint.every_n_train_steps", "5"]
    assert finish(start(["fit", *fit_words(tmp_path, make_data, "whole"), *more], tmp_path / "log")) == 0
    with tally.case("full disks", f"fit, {limit} bytes") as verdict:
        words = fit_words(tmp_path, make_data, "full")
        code, printed = limited(["fit", *words, *more], limit)
        assert (code, "Traceback" in printed) == (2, False), printed
        assert "File too large" in printed
        assert finish(start(["fit", *words, *more], tmp_path / "log")) == 0
        (path,) = (tmp_path / "full").glob("*/*/checkpoints/last.ckpt")
        version = int(path.parent.parent.name.removeprefix("version_"))
        first, second = last_of(tmp_path / "whole"), last_of(tmp_path / "full", version)
        assert differences(first["state_dict"], second["state_dict"]) == []
        verdict.outcome = "clear"


@pytest.mark.parametrize("limit", [20_000, *(pytest.param(one, marks=pytest.mark.slow) for one in (0, 1000, 60_000))])
def test_export_on_a_full_disk_leaves_nothing(make_data, tmp_path, limit):
    main(["fit", *fit_words(tmp_path, make_data)])
    command = ["export", "--denoiser", tmp_path / "runs/denoiser/version_0/checkpoints/last.ckpt", "--output"]
    with tally.case("full disks", f"export, {limit} bytes") as verdict:
        code, printed = limited([*command, tmp_path / "planner"], limit)
        assert (code, "Traceback" in printed) == (2, False), printed
        assert str(tmp_path / "planner") in printed
        assert [path.name for path in tmp_path.glob("*planner*")] == []
        verdict.outcome = "clear"
