"""Wrong uses of the command line: each ends in one message, with its exit code, and nothing is written."""

import os
import pickle
import re
import subprocess
import sys

import lightning
import numpy as np
import pytest
import tally
import torch
from fakes import write_tiny
from wrong_uses import CONFIGS, ROWS, VERBS

import vgp_lightning
from vgp_lightning.cli import command, main, verbs
from vgp_lightning.training.denoiser import DenoiserModule

GROUP = "command lines"
FILES = {name: content for name, (content, _) in CONFIGS.items()} | {
    "good.yaml": "{}\n",
    "epsiodes.yaml": "seed: 1\nepsiodes: 2\n",
    "many.yaml": "seed: many\n",
    "training.yaml": "data: {horizon: 8}\n",
    "space.yaml": "space: {batch_size: [1]}\n",
    "lerning_rate.yaml": "model:\n  init_args:\n    lerning_rate: 1\n",
    "lots.yaml": "trainer:\n  max_steps: lots\n",
    "data.yaml": "data: {dataset_id: test/nothing-v0, horizon: 8}\n",
    "syntax.json": "{",
    "list.json": "[1]",
    "file.txt": "only words",
    "dir/file.txt": "only words",
}


def write_checkpoint(path, steps=20):
    module = DenoiserModule(
        transition_dim=3, action_dim=1, horizon=8, task={}, widths=[16, 16], num_train_timesteps=steps
    )
    path.parent.mkdir(parents=True)
    torch.save(
        {
            "state_dict": module.state_dict(),
            "hyper_parameters": dict(module.hparams),
            "vgp_module": "DenoiserModule",
            "global_step": 3,
            "pytorch-lightning_version": lightning.__version__,
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def art(tmp_path_factory):
    """A folder with what the rows name."""
    folder = tmp_path_factory.mktemp("art")
    (folder / "dir").mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    write_tiny(folder / "pipe", task={"env_id": "Track-v0"})
    write_tiny(folder / "bare", guided=False)
    write_checkpoint(folder / "runs/version_0/checkpoints/last.ckpt")
    write_checkpoint(folder / "runs/version_1/checkpoints/last.ckpt")
    arrays = {"observations": np.zeros((4, 2)), "actions": np.eye(4, 1)}
    np.savez(folder / "endless.npz", **arrays)
    np.savez(folder / "flat.npz", **arrays, timeouts=[False, True, False, True])
    (folder / "code.ckpt").write_bytes(pickle.dumps(print, protocol=2))
    return folder


def names(art):
    run = art / "runs/version_0"
    places = {"PIPE": art / "pipe", "BARE": art / "bare", "RUNS": art / "runs", "RUN": run, "ART": art}
    return places | {"CKPT": run / "checkpoints/last.ckpt", "FILE": art / "file.txt", "DIR": art / "dir"}


def words(line, places):
    """Return the words of a row, with paths in place of names."""
    split = re.findall(r"\{.*\}|\S+", line)
    return [
        re.sub(rf"^({'|'.join(places)})(?=/|$)", lambda found: str(places[found[1]]), word) if word else word
        for word in split
    ]


def assert_one_message(error):
    """Check that it is one, and return it."""
    before, found, message = f"\n{error}".rpartition("\nvgp: ")
    assert found, error
    assert not before, error
    assert "Traceback" not in error
    assert message.endswith("\n")
    assert "<class" not in message
    assert "typing." not in message
    return message


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.arguments.replace("/", ":"))
def test_a_wrong_use_ends_in_one_message_and_nothing_is_written(row, art, here, track, capfd):
    with tally.case(GROUP, row.arguments) as verdict:
        verdict.outcome = "clear"
        before = sorted(art.rglob("*"))
        with pytest.raises(SystemExit) as ended:
            main(words(row.arguments, names(art)))
        message = assert_one_message(capfd.readouterr().err)
        assert ended.value.code == row.code
        assert row.message in message
        assert list(here.iterdir()) == []
        assert sorted(art.rglob("*")) == before
        assert not any(path.is_file() for path in (here.parent / "minari").rglob("*"))


def test_there_are_at_least_300_wrong_uses_and_none_is_there_twice():
    assert len(ROWS) >= 300
    assert len({row.arguments for row in ROWS}) == len(ROWS)


# ---------------------------------------------------------------- Ctrl-C, pipes, bugs


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_ctrl_c_ends_a_verb_with_one_line_that_says_what_is_kept(verb, monkeypatch, capfd):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    with tally.case(GROUP, f"Ctrl-C in {verb}") as verdict:
        verdict.outcome = "clear"
        monkeypatch.setattr(command, "_run", stopped)
        with pytest.raises(SystemExit) as ended:
            main([verb])
        assert ended.value.code == 130
        assert capfd.readouterr().err == f"vgp: interrupted: {verbs.VERBS[verb].kept}\n"


def test_ctrl_c_before_the_verb_is_known_is_one_line_too(monkeypatch, capfd):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_run", stopped)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capfd.readouterr().err == "vgp: interrupted\n"


@pytest.mark.parametrize("arguments", ["configs", "configs planner.yaml", "--help"])
def test_output_that_nobody_reads_to_its_end_is_no_error(arguments):
    with tally.case(GROUP, f"{arguments} | true") as verdict:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-m", "vgp_lightning", *arguments.split()],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        os.close(writer)
        verdict.outcome = "right"
        assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("Unable to allocate 149. GiB"), "there is not enough memory: use smaller numbers, such as"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "there is not enough memory"),
        (RuntimeError("CUDA error: device-side assert triggered"), "the GPU failed: CUDA error"),
        (ModuleNotFoundError("No module named 'nosuch'", name="nosuch"), "the package nosuch is not installed: pip "),
        (OSError(28, "No space left on device", "/x/y"), "/x/y: the disk is full (No space left on device)"),
        (OSError(28, "No space left on device"), "the disk is full"),
        (PermissionError(13, "Permission denied", "/x"), "/x: the permission is missing (Permission denied)"),
        (OSError("Error no file named config.json"), "Error no file named config.json"),
        (FloatingPointError("train/loss is nan"), "train/loss is nan"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_the_machine_lacks_is_said_in_one_line(error, message, monkeypatch, capfd):
    def fails(*_):
        raise error

    with tally.case(GROUP, f"{type(error).__name__}: {error}") as verdict:
        verdict.outcome = "clear"
        monkeypatch.setattr(command, "_run", fails)
        with pytest.raises(SystemExit) as ended:
            main(["evaluate"])
        assert ended.value.code == 2
        assert message in assert_one_message(capfd.readouterr().err)


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("y"), AssertionError(), RuntimeError("z"), ImportError("w")], ids=repr
)
def test_a_bug_shows_where_it_is_and_says_that_it_is_one(error, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr(command, "_run", fails)
    with pytest.raises(type(error)) as raised:
        main(["evaluate"])
    assert f"vgp: this is a bug, of vgp_lightning {vgp_lightning.__version__} or of " in raised.value.__notes__[-1]
    assert "VGP_TRACEBACK=1" in raised.value.__notes__[-1]


@pytest.mark.parametrize("renderer", ["nonsense", "osmesa", "glfw"])
@pytest.mark.slow
def test_a_renderer_that_is_not_there_is_named(renderer, here, capfd):
    with tally.case(GROUP, f"MUJOCO_GL={renderer}") as verdict:
        options = ["--env_id", "Hopper-v5", "--behaviour", "random", "--steps", "5", "--dataset_id", "test/new-v0"]
        done = subprocess.run(
            [sys.executable, "-m", "vgp_lightning", "collect", *options],
            env=os.environ | {"MUJOCO_GL": renderer},
            capture_output=True,
            text=True,
            timeout=120,
        )
        if renderer == "nonsense" or done.returncode:
            verdict.outcome = "clear"
            assert done.returncode == 2
            assert f"MuJoCo cannot draw with MUJOCO_GL={renderer}" in assert_one_message(done.stderr)


# ---------------------------------------------------------------- what is no error


def test_of_an_option_that_is_given_twice_the_later_counts(art, here, track, capfd):
    with tally.case(GROUP, "an option twice"):
        with pytest.raises(SystemExit):
            main([*words(VERBS["evaluate"], names(art)), "--episodes", "many", "--episodes", "0"])
        assert "--episodes is 'many'" in capfd.readouterr().err
        with pytest.raises(SystemExit):
            main([*words(VERBS["evaluate"], names(art)), "--episodes", "3", "--episodes", "0"])
        assert "episodes is 0" in capfd.readouterr().err


def test_a_runs_folder_stands_for_its_last_checkpoint_which_is_said(art, here, capfd):
    with tally.case(GROUP, "export --denoiser RUN"):
        run = art / "runs/version_0"
        main(["export", "--denoiser", str(run), "--output", "new"])
        shown = capfd.readouterr().out
        assert f"vgp: --denoiser {run} is a folder: taking {run}/checkpoints/last.ckpt\n" in shown
        assert (here / "new/model_index.json").is_file()


def test_a_folder_with_a_name_that_looks_like_markup_is_printed_as_it_is(art, here, track, capfd):
    with tally.case(GROUP, "markup in a path"):
        (here / "[").mkdir()
        options = ["--episodes", "1", "--video", "false", "--output_dir", "[/red]x"]
        main(["evaluate", str(art / "pipe"), *options])
        assert "[/red]x" in capfd.readouterr().out
