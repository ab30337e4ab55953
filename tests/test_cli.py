"""The front door: every verb as a user types it."""

import json
import math
import os
import pickle
import re
import subprocess
import sys
import time
from importlib.metadata import version

import numpy as np
import pytest
import torch
import yaml
from fakes import write_tiny
from jsonargparse import ArgumentParser
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from vgp_lightning.agent.behaviours import ASSETS
from vgp_lightning.cli import main
from vgp_lightning.cli.manual import FIT_OPTIONS
from vgp_lightning.cli.verbs import VERBS
from vgp_lightning.export.card import read_meanings
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.shipped import CONFIGS
from vgp_lightning.training.denoiser import DenoiserModule

DATA = {"dataset_id": "test/pendulum-v0", "horizon": 8, "discount": 0.9, "batch_size": 16, "validation_share": 0.2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a dataset of a pendulum, its data config, and one run of each network."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        environment.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        options = ["--env_id", "Pendulum-v1", "--behaviour", "random", "--steps", "400", "--max_episode_steps", "40"]
        main(["collect", *options, "--dataset_id", "test/pendulum-v0"])
        (folder / "data.yaml").write_text(yaml.safe_dump({"data": DATA}))
        for base in ("denoiser", "value"):
            main(["fit", *files(folder, base)])
    return folder


@pytest.fixture
def in_world(world, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(world / "minari"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(world / "cache"))
    return world


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working folder. The cache lies beside it, because onnxruntime writes there when it is first imported."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def files(folder, base="denoiser", runs=None):
    """Return the options of a tiny run that writes into the folder."""
    names = [CONFIGS / f"{base}.yaml", folder / "data.yaml", CONFIGS / "smoke.yaml"]
    options = ["--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false"]
    options += ["--trainer.logger.init_args.save_dir", str(runs or folder / "runs")]
    return [word for name in names for word in ("-c", str(name))] + options


def last(folder, base="denoiser"):
    return folder / "runs" / base / "version_0" / "checkpoints" / "last.ckpt"


def scalars(run):
    """Return {tag: [(step, value)]} of a run's TensorBoard events."""
    events = EventAccumulator(str(run)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def failure(capfd, *args):
    """Run the command, which has to fail politely, and return its message."""
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    message = capfd.readouterr().err
    assert ended.value.code == 2
    assert "Traceback" not in message
    return message


def snapshot(folder):
    return sorted(folder.rglob("*"))


# ---------------------------------------------------------------- the main job


def test_the_main_job_from_episodes_to_an_evaluated_planner(in_world, tmp_path, capfd):
    denoiser, value = last(in_world), last(in_world, "value")
    for path in (denoiser, value):
        assert torch.load(path, weights_only=True)["global_step"] == 20

    for base, path in (("denoiser", denoiser), ("value", value)):
        main(["validate", *files(in_world, base, tmp_path / "validated"), "--ckpt_path", str(path)])
    shown = capfd.readouterr().out
    assert "val/diffusion_loss" in shown
    assert "val/value_loss" in shown

    planner = tmp_path / "planner"
    main(["export", "--denoiser", str(denoiser), "--value", str(value), "--output", str(planner)])
    assert str(planner) in capfd.readouterr().out
    assert (planner / "model_index.json").is_file()

    results = tmp_path / "results"
    options = ["--episodes", "2", "--output_dir", str(results), "--video", "false", "--batch_size", "2"]
    main(["evaluate", str(planner), *options, "--num_inference_steps", "1", "--replan_every", "8"])
    report = json.loads((results / "evaluation.json").read_text())
    assert {"return_mean", "return_iqm", "return_ci95", "normalized_score", "plan_ms", "episodes"} <= report.keys()
    assert len(report["episodes"]) == 2
    returns = [episode["return"] for episode in report["episodes"]]
    assert report["return_mean"] == pytest.approx(sum(returns) / 2)
    assert -17 * 40 < min(returns) <= max(returns) < 0  # a pendulum's step costs at most 16.3; 40 steps as collected
    assert report["normalized_score"] is None  # nobody published references for a pendulum
    assert report["settings"]["batch_size"] == 2
    assert report["plan_ms"] > 0


@pytest.mark.parametrize("base", ["denoiser", "value"])
def test_a_run_logs_its_losses_and_its_progress(in_world, base):
    logged = scalars(in_world / "runs" / base / "version_0")
    loss = {"denoiser": "diffusion_loss", "value": "value_loss"}[base]
    assert {f"train/{loss}", f"val/{loss}", "train/lr", "train/grad_norm"} <= logged.keys()
    assert len(logged[f"val/{loss}"]) == 2  # val_check_interval is 10 of 20 steps
    assert len(logged[f"train/{loss}"]) == 4  # log_every_n_steps is 5
    for tag in (f"train/{loss}", f"val/{loss}", "train/grad_norm"):
        assert all(0 < value < 1e4 for _, value in logged[tag]), tag
    assert max(value for _, value in logged["train/lr"]) <= 2e-4 * (1 + 1e-6)
    details, count = {"denoiser": ("diffusion_loss", 5), "value": ("rank_correlation", 4)}[base]
    assert sum(tag.startswith(f"val_levels/{details}/t") for tag in logged) == count


@pytest.mark.parametrize("base", ["denoiser", "value"])
def test_tensorboard_shows_the_losses_together_the_settings_beside_the_scores_and_no_epochs(in_world, base):
    run = in_world / "runs" / base / "version_0"
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(run)).Reload()
    tags = events.Tags()
    assert "epoch" not in tags["scalars"]
    loss = {"denoiser": "diffusion_loss", "value": "value_loss"}[base]
    layout = Layout()
    (made,) = events.Tensors("custom_scalars__config__")
    layout.ParseFromString(made.tensor_proto.string_val[0])
    headings = [category.title for category in layout.category]
    assert headings[0] == "losses"
    assert ("value quality" in headings) == (base == "value")
    assert list(layout.category[0].chart[0].multiline.tag) == [f"train/{loss}", f"val/{loss}"]
    for chart in (chart for category in layout.category for chart in category.chart):
        for pattern in chart.multiline.tag:
            assert any(re.fullmatch(pattern, tag) for tag in tags["scalars"]), pattern
    (text,) = events.Tensors("run/text_summary")
    text = text.tensor_proto.string_val[0].decode()
    assert "| dataset | test/pendulum-v0 |" in text
    assert "    data:\n      dataset_id: test/pendulum-v0\n" in text  # the config
    parameters = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    experiment = HParamsPluginData.FromString(parameters).experiment
    assert {"dataset", "horizon", "learning_rate", "steps"} <= {one.name for one in experiment.hparam_infos}
    assert f"val/{loss}" in {one.name.tag for one in experiment.metric_infos}
    assert {one.name.tag for one in experiment.metric_infos} <= set(tags["scalars"])  # whose last values it shows


def test_the_picture_of_plans_is_logged(in_world):
    events = EventAccumulator(str(in_world / "runs" / "denoiser" / "version_0")).Reload()
    assert "val_pictures/plans" in events.Tags()["images"]


def test_both_networks_are_trained_in_one_run_and_exported_as_one_planner(in_world, tmp_path, capfd):
    main(["fit", *files(in_world, "planner", tmp_path / "runs")])
    run = tmp_path / "runs/planner/version_0"
    assert_says_what_it_did_and_what_comes_next(capfd.readouterr(), run)
    logged = scalars(run)
    assert {"train/diffusion_loss", "train/value_loss", "val/diffusion_loss", "val/value_loss"} <= logged.keys()
    alone = {name: scalars(in_world / "runs" / name / "version_0") for name in ("denoiser", "value")}
    for name, loss in (("denoiser", "diffusion_loss"), ("value", "value_loss")):
        for tag in (f"train/{loss}", f"val/{loss}"):
            assert logged[tag] == alone[name][tag]  # the same numbers, to the bit
    folders = tmp_path / "two", tmp_path / "one"
    main(
        [
            "export",
            "--denoiser",
            str(last(in_world)),
            "--value",
            str(last(in_world, "value")),
            "--output",
            str(folders[0]),
        ]
    )
    main(["export", "--denoiser", str(run / "checkpoints/last.ckpt"), "--output", str(folders[1])])
    plans = [
        ValueGuidedPlannerPipeline.from_pretrained(folder)(
            np.array([0.6, -0.8, 1.5]), generator=torch.Generator().manual_seed(7)
        )
        for folder in folders
    ]
    assert torch.equal(plans[0].actions, plans[1].actions)
    assert torch.equal(plans[0].values, plans[1].values)
    assert plans[0].actions.shape == (1, 8, 1)


def assert_says_what_it_did_and_what_comes_next(printed, run):
    assert printed.err == ""  # no tips, no list of accelerators, no warning
    first, *progress, trained, after, watch = printed.out.splitlines()
    assert re.fullmatch(rf"vgp: training PlannerModule, 0\.\d+ million weights, 20 steps on cpu, in {run}", first)
    assert [line.split(",")[0] for line in progress] == ["step 10 of 20", "step 20 of 20"]  # one a validation
    for name in ("train/diffusion_loss", "val/diffusion_loss", "train/value_loss", "val/value_loss"):
        assert all(re.search(rf", {name} \d", line) for line in progress)
    checkpoint = run / "checkpoints/last.ckpt"
    assert trained.endswith(f"the checkpoint is {checkpoint}")
    assert after == f"next:  vgp export --denoiser {checkpoint} --output exports/planner-0"
    assert watch == f"watch: tensorboard --logdir {run.parent.parent}, then open http://localhost:6006/#custom_scalars"


# ---------------------------------------------------------------- whose word counts


def test_later_files_win_and_the_command_line_wins_over_all(in_world, tmp_path, capsys):
    for name, rate in (("first", 1e-3), ("second", 2e-3)):
        overlay = {"model": {"init_args": {"learning_rate": rate, "warmup_steps": 7}}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(overlay))
    first, second = (["-c", str(tmp_path / f"{name}.yaml")] for name in ("first", "second"))

    def rate(*options):
        with pytest.raises(SystemExit):
            main(["fit", *files(in_world), *options, "--print_config"])
        arguments = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
        assert arguments["warmup_steps"] == 7
        assert arguments["widths"] == [16, 16, 16, 64]  # smoke's, which no later file names
        return arguments["learning_rate"]

    assert rate(*first, *second) == 2e-3
    assert rate(*second, *first) == 1e-3
    option = ["--model.init_args.learning_rate", "5e-3"]
    assert rate(*first, *second, *option) == 5e-3
    assert rate(*option, *second) == 5e-3  # wherever it stands


def test_null_lifts_a_limit_that_a_config_or_the_folder_sets(in_world, tmp_path):
    limited, unlimited = tmp_path / "limited", tmp_path / "unlimited"
    (tmp_path / "limit.yaml").write_text("max_grad_norm: 0.5\n")
    options = ["--denoiser", str(last(in_world)), "--value", str(last(in_world, "value"))]
    options += ["-c", str(tmp_path / "limit.yaml")]
    main(["export", *options, "--output", str(limited)])
    main(["export", *options, "--output", str(unlimited), "--max_grad_norm", "null"])
    limits = [json.loads((folder / "model_index.json").read_text())["planner"] for folder in (limited, unlimited)]
    assert [planner["max_grad_norm"] for planner in limits] == [0.5, None]

    options = [str(limited), "--episodes", "1", "--video", "false", "--num_inference_steps", "1", "--replan_every", "8"]
    main(["evaluate", *options, "--output_dir", str(tmp_path / "as_the_folder_says")])
    main(["evaluate", *options, "--output_dir", str(tmp_path / "lifted"), "--max_grad_norm", "null"])
    reports = [json.loads((tmp_path / n / "evaluation.json").read_text()) for n in ("as_the_folder_says", "lifted")]
    assert [report["settings"]["max_grad_norm"] for report in reports] == [0.5, None]


def test_the_merged_config_is_beside_the_run_in_the_checkpoint_and_in_the_export(in_world, tmp_path):
    written = yaml.safe_load((in_world / "runs" / "denoiser" / "version_0" / "config.yaml").read_text())
    stored = yaml.safe_load(torch.load(last(in_world), weights_only=True)["vgp_config"])
    main(["export", "--denoiser", str(last(in_world)), "--output", str(tmp_path / "planner")])
    exported = yaml.safe_load((tmp_path / "planner" / "training" / "denoiser.yaml").read_text())
    # What is handed on does not say where this machine keeps its runs.
    logger = exported["trainer"]["logger"]["init_args"]
    assert logger["save_dir"] == "runs"
    assert exported | {"trainer": exported["trainer"] | {"logger": stored["trainer"]["logger"]}} == stored
    for config in (written, stored):
        assert config["model"]["class_path"] == "vgp_lightning.training.DenoiserModule"
        assert config["model"]["init_args"]["widths"] == [16, 16, 16, 64]  # smoke.yaml
        assert config["model"]["init_args"]["action_weight"] == 10.0  # denoiser.yaml
        assert config["data"]["dataset_id"] == "test/pendulum-v0"  # data.yaml
        assert config["trainer"]["logger"]["init_args"]["save_dir"] == str(in_world / "runs")  # the command line
        assert config["seed_everything"] == 0


def test_a_run_goes_on_where_its_checkpoint_ends_at_the_rate_that_is_asked_for(in_world, tmp_path):
    options = ["--trainer.max_steps", "30", "--trainer.log_every_n_steps", "1", "--ckpt_path", str(last(in_world))]
    options += ["--model.init_args.learning_rate", "7e-3"]
    options += ["--may_differ", "[trainer.max_steps, model.init_args.learning_rate]"]
    main(["fit", *files(in_world, runs=tmp_path), *options])
    run = tmp_path / "denoiser" / "version_0"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 30
    logged = scalars(run)
    assert [step for step, _ in logged["train/diffusion_loss"]] == list(range(20, 30))
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["learning_rate"] == 7e-3
    # Cosine from step 2 to 30, from the first step on; with 2e-4 it were 6e-5 there.
    rates = [7e-3 * (1 + math.cos(math.pi * (step - 2) / 28)) / 2 for step in range(20, 30)]
    assert [value for _, value in logged["train/lr"]] == pytest.approx(rates, rel=1e-5)


# ---------------------------------------------------------------- configs are named without a path


def printed_config(capsys, *options):
    """Return what ``vgp fit`` makes of the options."""
    with pytest.raises(SystemExit) as ended:
        main(["fit", *options, "--print_config"])
    printed = capsys.readouterr()
    assert ended.value.code in (0, None), printed.err
    return yaml.safe_load(printed.out)


@pytest.mark.parametrize("form", [["-c", "{}"], ["-c{}"], ["-c={}"], ["--config", "{}"], ["--config={}"]])
def test_a_packaged_config_is_named_without_its_path(elsewhere, capsys, form):
    names = ("planner.yaml", "data/hopper-medium.yaml")
    config = printed_config(capsys, *(word.format(name) for name in names for word in form))
    assert config["model"]["class_path"] == "vgp_lightning.training.PlannerModule"
    assert config["data"]["dataset_id"] == "vgp/hopper/medium-v0"


def test_the_process_s_own_arguments_name_packaged_configs_too(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vgp", "fit", "-c", "value.yaml", "-c", "data/hopper-medium.yaml"])
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--print_config"])
    with pytest.raises(SystemExit):
        main()
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"] == "vgp_lightning.training.ValueModule"


def test_a_file_of_the_current_folder_comes_before_a_packaged_one(elsewhere, capsys):
    (elsewhere / "data").mkdir()
    (elsewhere / "data" / "hopper-medium.yaml").write_text("data: {dataset_id: mine-v0, horizon: 16}\n")
    options = ["-c", "planner.yaml", "-c", "data/hopper-medium.yaml"]
    assert printed_config(capsys, *options)["data"]["dataset_id"] == "mine-v0"


def test_a_folder_of_the_same_name_is_no_config(elsewhere, capsys):
    (elsewhere / "planner.yaml").mkdir()
    config = printed_config(capsys, "-c", "planner.yaml", "-c", "data/hopper-medium.yaml")
    assert config["model"]["class_path"] == "vgp_lightning.training.PlannerModule"


@pytest.mark.parametrize("padding", [0, 500])
def test_options_written_as_yaml_are_still_taken_in_place_of_a_file(elsewhere, capsys, padding):
    text = "{data: {dataset_id: mine-v0, horizon: 16}}" + " " * padding  # long enough to be no file's name
    assert printed_config(capsys, "-c", "planner.yaml", "-c", text)["data"]["dataset_id"] == "mine-v0"


def test_every_verb_takes_packaged_configs(elsewhere, capfd):
    # The settings are accepted; what is missing is the folder.
    message = failure(capfd, "evaluate", "nothing", "-c", "evaluate/hopper-medium.yaml", "--episodes", "1")
    assert "nothing is not a pipeline folder" in message
    message = failure(capfd, "export", "--denoiser", "a.ckpt", "--output", "b", "-c=evaluate/hopper-medium.yaml")
    assert "a.ckpt does not exist" in message


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "configs"])
@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("planer.yaml", "planner.yaml"),
        ("configs/planner.yaml", "planner.yaml"),
        ("hopper-medium.yaml", "data/hopper-medium.yaml"),
        ("../pyproject.toml", None),
        ("{a: ", None),
    ],
)
def test_a_config_that_is_nowhere_is_one_error_with_the_places_and_the_nearest_name(elsewhere, capfd, verb, name, near):
    message = failure(capfd, verb, "-c", name)
    assert f"there is no config {name!r}" in message
    assert f"in the current folder ({elsewhere}), then among the packaged configs ({CONFIGS})" in message
    assert (f"Did you mean {near}?" in message) if near else ("Did you mean" not in message)
    assert "`vgp configs`" in message
    assert len(message.strip().splitlines()) == 1


def test_configs_lists_every_packaged_config_with_the_first_line_of_its_comment(capsys):
    main(["configs"])
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert listed.keys() == {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")}
    for name, comment in listed.items():
        assert (CONFIGS / name).read_text().startswith(f"# {comment}\n")


def test_configs_prints_a_packaged_config_even_if_the_current_folder_has_its_name(elsewhere, capsys):
    # The shell empties the file first in `vgp configs planner.yaml > planner.yaml`.
    (elsewhere / "planner.yaml").touch()
    main(["configs", "planner.yaml"])
    assert capsys.readouterr().out == (CONFIGS / "planner.yaml").read_text()


def test_configs_refuses_an_unknown_name_with_the_nearest_one(elsewhere, capfd):
    message = failure(capfd, "configs", "data/hoper-medium.yaml")
    assert "there is no config 'data/hoper-medium.yaml'" in message
    assert "Did you mean data/hopper-medium.yaml?" in message
    assert "Did you mean" not in failure(capfd, "configs", "../pyproject.toml")
    assert "unexpected argument 'other.yaml'" in failure(capfd, "configs", "planner.yaml", "other.yaml")


# ---------------------------------------------------------------- what is wrong is said in one message


def test_a_misspelt_option_is_named(in_world, tmp_path, capfd):
    message = failure(capfd, "fit", *files(in_world, runs=tmp_path / "runs"), "--data.horizont", "8")
    assert "data.horizont" in message
    (tmp_path / "wrong.yaml").write_text("model:\n  init_args:\n    lerning_rate: 0.1\n")
    message = failure(capfd, "fit", *files(in_world, runs=tmp_path / "runs"), "-c", str(tmp_path / "wrong.yaml"))
    assert "lerning_rate" in message
    assert not (tmp_path / "runs").exists()


def test_a_missing_dataset_is_named_with_the_command_that_fetches_it(in_world, elsewhere, capfd):
    options = ["--data.dataset_id", "nobody/nothing-v0"]
    message = failure(capfd, "fit", *files(in_world, runs=elsewhere / "runs"), *options)
    assert "nobody/nothing-v0" in message
    assert "minari download nobody/nothing-v0" in message
    assert len(message.strip().splitlines()) == 1
    assert snapshot(elsewhere) == []


def test_a_horizon_that_does_not_fit_is_refused_with_one_that_does(in_world, elsewhere, capfd):
    message = failure(capfd, "fit", *files(in_world, runs=elsewhere / "runs"), "--data.horizon", "12")
    assert "horizon 12" in message
    assert "multiple of 8" in message
    options = [*files(in_world, "value", elsewhere / "runs"), "--data.horizon", "65"]
    message = failure(capfd, "fit", *options)
    assert "between 1 and 64" in message
    assert snapshot(elsewhere) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--denoiser", "VALUE", "--output", "OUT"], "holds a ValueModule: give it as --value"),
        (["--denoiser", "DENOISER", "--value", "DENOISER", "--output", "OUT"], "give it as --denoiser"),
        (["--denoiser", "nothing.ckpt", "--output", "OUT"], "nothing.ckpt does not exist: train one with vgp fit"),
        (["--output", "OUT"], "denoiser"),
        (["--denoiser", "DENOISER"], "output"),
        (["--denoiser", "DENOISER", "--output", "OUT", "--batch_size", "many"], "batch_size"),
        (["--denoiser", "DENOISER", "--output", "OUT", "--n_guidesteps", "2"], "n_guidesteps"),
    ],
)
def test_an_export_that_cannot_be_is_refused(in_world, elsewhere, capfd, arguments, words):
    names = {"VALUE": last(in_world, "value"), "DENOISER": last(in_world), "OUT": elsewhere / "planner"}
    message = failure(capfd, "export", *(str(names.get(word, word)) for word in arguments))
    assert words in message
    assert snapshot(elsewhere) == []


@pytest.mark.parametrize(
    "arguments", [["evaluate", "FOLDER"], ["export", "--denoiser", "a.ckpt", "--output", "FOLDER"]]
)
def test_a_misspelt_setting_is_refused_in_one_line(tmp_path, capfd, arguments):
    names = {"FOLDER": str(tmp_path / "planner")}
    message = failure(capfd, *(names.get(word, word) for word in arguments), "--n_guidesteps", "2")
    assert "n_guidesteps" in message
    assert len(message.strip().splitlines()) == 1


def test_a_checkpoint_of_the_other_network_is_not_validated(in_world, tmp_path, capfd):
    options = [*files(in_world, "denoiser", tmp_path / "runs"), "--ckpt_path", str(last(in_world, "value"))]
    message = failure(capfd, "validate", *options)
    assert "ValueModule" in message
    assert len(message.strip().splitlines()) == 1


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_checkpoint_that_holds_code_is_not_executed(in_world, tmp_path, capfd, verb):
    checkpoint = torch.load(last(in_world), weights_only=True)
    torch.save(checkpoint | {"trap": Trap(tmp_path / "sprung")}, tmp_path / "trap.ckpt")
    options = [*files(in_world, runs=tmp_path / "runs"), "--trainer.max_steps", "21"]
    with pytest.raises((SystemExit, pickle.UnpicklingError)):
        main([verb, *options, "--ckpt_path", str(tmp_path / "trap.ckpt")])
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_folder_that_is_no_pipeline_is_refused_with_the_command_that_makes_one(elsewhere, capfd):
    message = failure(capfd, "evaluate", str(elsewhere), "--output_dir", str(elsewhere / "results"))
    assert "is not a pipeline folder" in message
    assert "vgp export" in message
    assert snapshot(elsewhere) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate"], "pipeline_folder"),
        (["collect", "--behaviour", "random"], "env_id"),
        (
            ["collect", "--env_id", "Nobody-v0", "--behaviour", "random", "--steps", "1", "--dataset_id", "a-v0"],
            "Nobody",
        ),
        (["fit"], "data"),
    ],
)
def test_what_is_missing_is_named(capfd, arguments, words):
    assert words in failure(capfd, *arguments)


def test_an_unknown_verb_is_refused_with_the_nearest_one(capfd):
    message = failure(capfd, "evalute")
    assert "unknown verb 'evalute'" in message
    assert "Did you mean evaluate?" in message
    message = failure(capfd, "xyzzy")
    assert f"choose from {', '.join(VERBS)}" in message
    assert "Did you mean" not in message


def test_a_fault_shows_where_it_is_if_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("VGP_TRACEBACK", "1")
    with pytest.raises(ValueError, match="is not a pipeline folder"):
        main(["evaluate", str(tmp_path)])


# ---------------------------------------------------------------- help


def test_help_answers_at_once_and_names_every_verb():
    code = (
        "import sys; from vgp_lightning.cli import main; main(['--help']); "
        "print([name for name in ('torch', 'lightning', 'diffusers', 'minari') if name in sys.modules])"
    )
    seconds = []
    for _ in range(3):  # the quickest of three, for the machine may be busy
        start = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        seconds.append(time.perf_counter() - start)
    assert result.stdout.splitlines()[-1] == "[]"
    for verb in VERBS:
        assert re.search(rf"^  {verb} +\w+", result.stdout, re.MULTILINE)
    assert min(seconds) < 1


@pytest.mark.parametrize("verb", ["describe", "import-data"])
def test_verbs_about_data_wait_for_no_network_library(verb):
    code = (
        f"import atexit, sys; from vgp_lightning.cli import main; "
        f"atexit.register(lambda: print([name for name in ('torch', 'diffusers') if name in sys.modules])); "
        f"main(['{verb}', '--help'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_is_what_one_gets_without_a_verb(arguments, capsys):
    main(arguments)
    assert "usage: vgp VERB" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["collect", "export", "import", "evaluate", "demo", "configs"])
def test_the_help_of_a_verb_explains_its_options(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    options = {"collect": "--dataset_id", "export": "--denoiser", "import": "--statistics"}
    options |= {"evaluate": "--n_guide_steps", "demo": "--seed", "configs": "name"}
    assert options[verb] in shown


@pytest.mark.parametrize("verb", ["evaluate", "export", "import"])
def test_the_help_names_and_explains_every_setting(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, meaning in read_meanings().items():
        assert f" --{name} {name.upper()} {meaning} (type:" in shown or f" --{name} {{" in shown
        assert f" {meaning} (type:" in shown
    assert "``" not in shown
    assert "null stands for None" in shown


def test_the_help_of_a_verb_without_settings_says_nothing_of_them(capsys):
    with pytest.raises(SystemExit):
        main(["collect", "--help"])
    assert "null stands for None" not in " ".join(capsys.readouterr().out.split())


def test_the_versions_are_those_of_the_package_and_of_the_libraries_that_decide_its_results(capsys):
    main(["--version"])
    shown = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    for name in ("vgp_lightning", "torch", "lightning", "diffusers", "minari", "gymnasium", "mujoco", "numpy"):
        assert shown[name] == version(name)
    assert shown["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_an_example_of_its_use_and_a_page(verb):
    assert VERBS[verb].example.startswith(f"vgp {verb} ")
    assert (CONFIGS.parent / VERBS[verb].page).is_file()


def test_the_help_of_collect_lists_the_behaviours_with_an_example_and_the_page(capsys):
    with pytest.raises(SystemExit):
        main(["collect", "--help"])
    shown = capsys.readouterr().out
    for name in ("random", "waypoint", *(path.stem for path in ASSETS.glob("*.json"))):
        assert re.search(rf"^  {name} +\w", shown, re.MULTILINE)
    assert "\nexample:\n  vgp collect --env_id" in shown
    assert "docs/training.md" in shown
    assert shown.startswith("usage: vgp collect [options]\n")


def test_the_short_help_of_fit_names_options_that_are_there_with_their_defaults():
    code = "import sys; from vgp_lightning.cli import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "fit", "--help_all"], capture_output=True, text=True, check=True)
    all_options = " ".join(done.stdout.split())
    parser = ArgumentParser()
    parser.add_class_arguments(DenoiserModule, "model")
    for name, _, meaning in FIT_OPTIONS:
        if name.startswith("model.init_args."):
            assert f"model.{name.rpartition('.')[2]}" in parser.get_defaults()
            continue
        # The list of options names it last, after the usage.
        *_, listed = re.split(rf" --{name}\+? ", all_options)
        assert listed != all_options, name
        if default := re.search(r"default: (\S+)$", meaning):
            written = {"32-true": "null"}.get(default[1], default[1])  # what Lightning's null means
            assert re.search(rf"default: {written}[,)]", listed.split(" --")[0]), name


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_the_help_of_fit_fits_a_screen_and_says_where_the_rest_is(verb, capsys):
    main([verb, "--help"])
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 50
    assert max(map(len, shown.splitlines())) < 120
    for word in ("--help_all", "--output_dir", "vgp configs", f"vgp {verb} -c planner.yaml", "docs/training.md"):
        assert word in shown


# ---------------------------------------------------------------- names of options, and where output goes


def test_hyphens_and_underscores_are_alike_in_names_and_not_in_values(tmp_path, capfd):
    folder = tmp_path / "a-b_c"
    message = failure(capfd, "evaluate", str(folder), "--output-dir", str(tmp_path), "--n-guide-steps=1")
    assert f"{folder} is not a pipeline folder" in message
    message = failure(capfd, "evaluate", str(folder), "--n_guide-stepz", "1")
    assert "unknown option --n_guide_stepz: did you mean --n_guide_steps?" in message
    assert "--n_guide-stepz" not in message


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_gets_a_script_that_completes_verbs_options_and_configs(shell, capsys):
    main(["--print-completion", shell])
    script = capsys.readouterr().out
    for word in ("evaluate", "n_guide_steps", "data.horizon", "guide_on"):
        assert word in script


def test_bash_completes_a_verb_an_option_and_a_config(tmp_path, capsys):
    main(["--print-completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    tries = {
        "vgp eva": "evaluate",
        "vgp evaluate x --n_gui": "--n_guide_steps",
        "vgp fit -c data/hopper-medium.": "data/hopper-medium.yaml",
        "vgp evaluate x --guide_on c": "clean",
        "vgp evaluate x --sampler un": "unipc",  # which may be null
        "vgp evaluate x --sampler n": "null",
        "vgp export --program o": "onnx",
        "vgp evaluate x --video f": "false",
        "vgp tune x --dry": "--dry_run",
        "vgp fit --dry_run --output": "--output_dir",
    }
    for line, completed in tries.items():
        words = line.split(" ")
        code = f"source ./script; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _shtab_vgp; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.split()[:1] == [completed], (line, done.stderr)


def test_an_unknown_shell_is_refused_with_those_that_are_known(capfd):
    assert "--print_completion is 'dos': one of bash, zsh, " in failure(capfd, "--print-completion", "dos")


def test_the_report_alone_is_on_standard_output_if_it_is_asked_for(in_world, tmp_path, capfd):
    reports = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        episodes = [{"seed": i, "return": float(i), "length": 3} for i in range(3)]
        report = {
            "env_id": "Pendulum-v1",
            "env_spec": {"id": "Pendulum-v1"},
            "episodes": episodes,
            "settings": {},
            "pipeline": "x",
        }
        (tmp_path / name / "evaluation.json").write_text(json.dumps(report))
    arguments = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    main([*arguments, "--json", "-"])
    printed = capfd.readouterr()
    reports.append(json.loads(printed.out))
    assert "Pendulum" in printed.err or "difference" in printed.err
    main([*arguments, "--json=-", "--quiet"])
    printed = capfd.readouterr()
    reports.append(json.loads(printed.out))
    assert printed.err == ""
    main([*arguments, "--quiet", "--json", str(tmp_path / "c.json")])
    assert capfd.readouterr() == ("", "")
    reports.append(json.loads((tmp_path / "c.json").read_text()))
    assert reports[0] == reports[1] == reports[2]


def test_a_quiet_command_still_says_what_is_wrong(tmp_path, capfd):
    assert "is not a pipeline folder" in failure(capfd, "evaluate", str(tmp_path), "--quiet")
    assert "unknown option --horizont" in failure(capfd, "fit", "-c", "planner.yaml", "--horizont", "3", "--quiet")


def test_a_quiet_training_prints_nothing_and_its_folder_is_the_output_folder(in_world, tmp_path, capfd):
    options = ["--output_dir", str(tmp_path / "mine"), "--quiet", "--trainer.max_steps", "1"]
    main(["fit", *files(in_world), *options])
    assert capfd.readouterr() == ("", "")
    run = tmp_path / "mine/denoiser/version_0"
    assert (run / "checkpoints/last.ckpt").is_file()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["logger"]["init_args"]["save_dir"] == str(tmp_path / "mine")
    assert config["output_dir"] is None


def test_export_takes_output_dir_for_its_output(in_world, tmp_path):
    main(["export", "--denoiser", str(last(in_world)), "--output-dir", str(tmp_path / "planner")])
    assert (tmp_path / "planner/model_index.json").is_file()


# ---------------------------------------------------------------- dry runs


def test_a_dry_run_of_a_training_says_what_it_would_take_and_leaves_nothing(in_world, elsewhere, monkeypatch, capfd):
    monkeypatch.setattr("vgp_lightning.training.rehearsal._SECONDS", 0.1)
    options = ["--trainer.max_steps", "5000", "--trainer.val_check_interval", "100"]
    main(["fit", *files(in_world, runs="runs"), *options, "--dry-run"])
    shown, errors = capfd.readouterr()
    assert errors == ""
    said, what, duration, memory = shown.splitlines()
    assert said == "dry run: nothing is kept"
    assert re.fullmatch(
        r"would train DenoiserModule, 0\.\d+ million weights, for 5000 steps of 16 windows of "
        r"test/pendulum-v0 on cpu, with 50 validations",
        what,
    )
    hours, minutes, seconds, each, validation = map(
        float,
        re.fullmatch(
            r"time:    about (\d+):(\d+):(\d+) .*; (\S+) ms a step, measured on 25, and (\S+) s a validation", duration
        ).groups(),
    )
    assert 3600 * hours + 60 * minutes + seconds == pytest.approx(5 * each + 50 * validation, rel=0.1, abs=2)
    assert float(re.fullmatch(r"memory:  (\S+) GiB of this process", memory)[1]) > 0.1
    assert snapshot(elsewhere) == []


def test_a_dry_run_of_a_collection_makes_no_dataset(in_world, monkeypatch, capfd):
    monkeypatch.setattr("vgp_lightning.report.estimates._ENOUGH", 0.0)
    before = snapshot(in_world / "minari")
    options = ["--env_id", "Pendulum-v1", "--behaviour", "random", "--steps", "1000", "--dataset_id", "test/new-v0"]
    main(["collect", *options, "--dry_run"])
    shown = capfd.readouterr().out
    assert "would collect 1000 steps of Pendulum-v1 by random as test/new-v0\n" in shown
    assert re.search(r"measured on 10 of 125 steps of 8 environments", shown)
    assert snapshot(in_world / "minari") == before
    assert os.environ["MINARI_DATASETS_PATH"] == str(in_world / "minari")


def test_a_dry_run_of_an_evaluation_counts_every_episode_to_its_limit(track, elsewhere, monkeypatch, capfd):
    monkeypatch.setattr("vgp_lightning.report.estimates._ENOUGH", 0.0)
    write_tiny(elsewhere / "pipe", task={"env_id": "Track-v0"})
    before = snapshot(elsewhere)
    main(["evaluate", "pipe", "--episodes", "40", "--environments", "20", "--max_episode_steps", "30", "--dry_run"])
    shown = capfd.readouterr().out
    assert "would play 40 episodes, 20 at a time, in Track-v0\n" in shown
    assert "measured on 8 of 60 steps, if no episode ends before its time limit" in shown
    main(["tune", "pipe", "--max_episode_steps", "30", "--dry_run"])
    shown = capfd.readouterr().out
    assert "would play at most 300 episodes with 27 configurations, and 3 x 50 on held-out seeds, in Track-v0" in shown
    assert "measured on 8 of 870 steps, if all configurations take as long" in shown  # 450 episodes, 16 at a time: 29
    assert snapshot(elsewhere) == before


def test_a_dry_run_of_an_evaluation_takes_the_planner_that_ships_and_refuses_what_the_verb_refuses(elsewhere, capfd):
    few = ["evaluate", "hopper-example", "--max_episode_steps", "2", "--dry_run"]
    main([*few, "--episodes", "2"])
    assert "would play 2 episodes, 2 at a time, in Hopper-v5\n" in capfd.readouterr().out
    for option in ("episodes", "environments"):
        with pytest.raises(SystemExit) as ended:
            main([*few, f"--{option}", "0"])
        assert ended.value.code == 2
        assert f"{option} is 0: at least 1 is needed" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        main(["tune", "hopper-example", "--max_episode_steps", "2", "--environments", "0", "--dry_run"])
    assert "environments is 0: at least 1 is needed" in capfd.readouterr().err


def test_a_collection_goes_into_the_folder_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "other"))
    options = ["--env_id", "Pendulum-v1", "--behaviour", "random", "--steps", "20", "--dataset_id", "test/new-v0"]
    main(["collect", *options, "--output_dir", str(tmp_path / "mine"), "--quiet"])
    assert (tmp_path / "mine/test/new-v0/data/main_data.hdf5").is_file()
    assert not (tmp_path / "other").exists()
