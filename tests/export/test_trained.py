"""Two checkpoints become one folder, which is loaded with this package, without it, and by the stock class."""

import json
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from fakes import run_elsewhere
from huggingface_hub import ModelCard

from vgp_lightning.agent.collection import collect
from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.export import trained as export_file
from vgp_lightning.export.trained import export
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.pipeline.stock import StockEnvironment
from vgp_lightning.training.callbacks import EMA
from vgp_lightning.training.checkpoints import LastCheckpoint
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.planner import PlannerModule
from vgp_lightning.training.value import ValueModule

OBSERVATION = [0.6, -0.8, 1.5]  # of a pendulum: cosine, sine, speed


def trainer(folder, steps=2):
    return pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        callbacks=[EMA(decay=0.5), LastCheckpoint()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        log_every_n_steps=1,
        default_root_dir=folder,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The checkpoints of two steps of training on a pendulum, and the data module of both."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        collect("Pendulum-v1", "random", 120, "test/pendulum-v0", max_episode_steps=30, environments=4)
        data = MinariDataModule("test/pendulum-v0", horizon=8, discount=0.9, cache_dir=str(folder / "cache"))
        paths = {}
        for name, kind in (("denoiser", DenoiserModule), ("value", ValueModule)):
            torch.manual_seed(0)
            trainer(folder / name).fit(make(kind, data), data)
            paths[name] = str(folder / name / "checkpoints" / "last.ckpt")
    return paths, data


def make(kind, data, **options):
    options = {
        "transition_dim": data.transition_dim,
        "action_dim": data.action_dim,
        "horizon": 8,
        "task": data.task,
        "widths": [16, 64],
        "num_train_timesteps": 10,
        "warmup_steps": 0,
        "learning_rate": 1e-2,
    } | options
    return kind(**options)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    paths, _ = trained
    return export(paths["denoiser"], str(tmp_path_factory.mktemp("exported") / "planner"), paths["value"])


def save(module, path):
    """Write a checkpoint of a module that was not trained."""
    writer = trainer(path.parent)
    writer.strategy.connect(module)
    writer.save_checkpoint(path)
    return str(path)


def joined(plan):
    return torch.cat([plan.actions, plan.observations], dim=-1)


# ---------------------------------------------------------------- what is written


def test_the_folder_holds_what_every_consumer_needs_and_nothing_else(folder):
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "model_index.json",
        "pipeline.py",
        "README.md",
        "scheduler/scheduler_config.json",
        "training/denoiser.yaml",
        "training/value.yaml",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "value_function/config.json",
        "value_function/diffusion_pytorch_model.safetensors",
    }
    assert folder.stat().st_mode & 0o777 == 0o755


def test_the_index_names_diffusers_classes_and_holds_statistics_and_settings(folder, trained):
    _, data = trained
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "ValueGuidedPlannerPipeline"
    assert index["unet"] == index["value_function"] == ["diffusers", "UNet1DModel"]
    assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
    statistics = {name: pytest.approx(value, rel=1e-6) for name, value in data.normalization.items()}
    assert index["normalization"] == {"stride": 1, **statistics}
    assert index["normalization"]["action_low"] == [-2.0]  # the pendulum's torque
    assert index["planner"]["planning_horizon"] == 8
    assert index["planner"]["sampler"] == "ddim"
    assert index["task"]["env_id"] == "Pendulum-v1"
    assert index["task"]["dataset_id"] == ["test/pendulum-v0"]
    assert index["task"]["discount"] == 0.9
    assert index["task"]["checkpoints"] == {
        "denoiser": {"file": "last.ckpt", "step": 2},
        "value": {"file": "last.ckpt", "step": 2},
    }


def test_the_statistics_are_those_of_the_episodes(folder, trained):
    _, data = trained
    statistics = json.loads((folder / "model_index.json").read_text())["normalization"]
    observations = np.concatenate([episode.observations for episode in data._datasets[0].iterate_episodes()])
    np.testing.assert_allclose(statistics["shift"][1:], observations.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(statistics["scale"][1:], observations.std(axis=0), rtol=1e-4)


def test_the_weights_are_the_averages_of_the_checkpoint(folder, trained):
    paths, _ = trained
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    for name, network in (("denoiser", pipeline.unet), ("value", pipeline.value_function)):
        checkpoint = torch.load(paths[name], weights_only=True)
        prefix = "network."
        averages = {key.removeprefix(prefix): t for key, t in checkpoint["state_dict"].items() if prefix in key}
        weights = network.state_dict()
        assert averages.keys() == weights.keys()
        assert all(torch.equal(averages[key], weights[key]) for key in weights)
        raw = checkpoint["current_model_state"]
        assert any(not torch.equal(raw[prefix + key], weights[key]) for key in weights)


def test_the_card_is_a_model_card_that_says_what_was_trained_on_what(folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "diffusers"
    assert "diffusion-planning" in card.data.tags
    for words in ("Pendulum-v1", "test/pendulum-v0", "8 steps of 1 actions and 3 observations", "discount 0.9"):
        assert words in card.text
    assert "Checkpoints: denoiser `last.ckpt` of step 2, value `last.ckpt` of step 2." in card.text


def test_the_training_configs_are_yaml(folder):
    for name, kind in (("denoiser", DenoiserModule), ("value", ValueModule)):
        model = yaml.safe_load((folder / "training" / f"{name}.yaml").read_text())["model"]
        assert model["widths"] == [16, 64], kind
        assert model["learning_rate"] == 1e-2


def test_the_training_config_has_names_in_place_of_the_machines_paths(trained, tmp_path):
    checkpoint = torch.load(trained[0]["denoiser"], weights_only=True)
    config = {
        "trainer": {"default_root_dir": None, "logger": {"init_args": {"save_dir": "/home/alice/secret/runs"}}},
        "data": {"cache_dir": "cache", "weights": "/home/alice/weights.npz", "dataset_id": ["me/a-v0", "me/b-v0"]},
        "ckpt_path": ["/home/alice/secret/last.ckpt", 1],
    }
    checkpoint["vgp_config"] = f"# lightning.pytorch==2.6.6\n{yaml.safe_dump(config)}"
    torch.save(checkpoint, tmp_path / "last.ckpt")
    folder = export(str(tmp_path / "last.ckpt"), str(tmp_path / "planner"))
    text = (folder / "training" / "denoiser.yaml").read_text()
    assert text.startswith("# lightning.pytorch==2.6.6\n")
    config["trainer"]["logger"]["init_args"]["save_dir"] = "runs"
    config["data"]["weights"] = "weights.npz"
    config["ckpt_path"][0] = "last.ckpt"
    assert yaml.safe_load(text) == config


# ---------------------------------------------------------------- who can load it


WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["vgp_lightning"] = None
try:
    import vgp_lightning
except ImportError:
    pass
else:
    raise SystemExit("the package is there")
import torch
from diffusers import DiffusionPipeline
folder = sys.argv[1]
pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
plan = pipeline(json.loads(sys.argv[2]), generator=torch.Generator().manual_seed(7))
print(json.dumps({"actions": plan.actions.tolist(), "values": plan.values.tolist()}))
"""


def test_a_process_without_the_package_plans_the_same(folder, tmp_path):
    theirs = run_elsewhere(tmp_path, WITHOUT_THE_PACKAGE, folder, json.dumps(OBSERVATION))
    ours = ValueGuidedPlannerPipeline.from_pretrained(folder)(
        np.array(OBSERVATION), generator=torch.Generator().manual_seed(7)
    )
    torch.testing.assert_close(torch.tensor(theirs["actions"]), ours.actions, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tensor(theirs["values"]), ours.values, rtol=1e-5, atol=1e-5)
    assert ours.actions.shape == (1, 8, 1)


def test_the_stock_class_plans_with_the_statistics_of_each_dimension(folder):
    from diffusers.experimental import ValueGuidedRLPipeline

    stock = ValueGuidedRLPipeline.from_pretrained(folder, env=StockEnvironment(folder), low_cpu_mem_usage=False)
    statistics = json.loads((folder / "model_index.json").read_text())["normalization"]
    shift, scale = np.array(statistics["shift"]), np.array(statistics["scale"])
    np.testing.assert_allclose(stock.normalize(shift[1:] + 2 * scale[1:], "observations"), [2.0] * 3, rtol=1e-5)
    np.testing.assert_allclose(stock.de_normalize(np.array([3.0]), "actions"), shift[:1] + 3 * scale[:1], rtol=1e-5)
    action = stock(np.array(OBSERVATION, dtype=np.float32), batch_size=3, planning_horizon=8, n_guide_steps=1)
    assert action.shape == (1,)
    assert np.isfinite(action).all()


def test_without_a_value_function_the_folder_plans_unguided(trained, tmp_path):
    paths, _ = trained
    folder = export(paths["denoiser"], str(tmp_path / "deep" / "planner"))
    assert not (folder / "value_function").exists()
    assert not (folder / "training" / "value.yaml").exists()
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    assert pipeline.value_function is None
    assert pipeline.resolve_settings()["n_guide_steps"] == 0
    plan = pipeline(np.array(OBSERVATION))
    assert joined(plan).isfinite().all()
    assert plan.values.isnan().all()


def test_an_export_can_be_uploaded_at_once(trained, tmp_path, monkeypatch, capfd):
    paths, _ = trained
    uploads = []
    monkeypatch.setattr(export_file, "upload_folder", lambda *given: uploads.append(given) or "the commit")
    folder = export(paths["denoiser"], str(tmp_path / "planner"), push_to_hub="me/planner")
    assert uploads == [(folder, "me/planner")]
    assert "uploaded: the commit" in capfd.readouterr().out


def test_defaults_given_to_the_export_are_the_folders(trained, tmp_path):
    paths, _ = trained
    given = {
        "batch_size": 5,
        "n_guide_steps": 3,
        "scale": 0.25,
        "guide_scaling": "std",
        "guide_on": "clean",
        "t_stopgrad": 1,
        "max_grad_norm": 2.0,
        "rank_by": "critic",
        "choice_temperature": 1.5,
        "sampler": "ddpm",
        "num_inference_steps": 4,
        "temperature": 0.5,
        "warm_start_strength": 0.7,
        "replan_every": 3,
    }
    folder = export(paths["denoiser"], str(tmp_path / "planner"), paths["value"], **given)
    settings = ValueGuidedPlannerPipeline.from_pretrained(folder).resolve_settings()
    assert settings == given | {"planning_horizon": 8}


@pytest.fixture(scope="module")
def both(trained, tmp_path_factory):
    """The checkpoint of the same training in one run."""
    _, data = trained
    folder = tmp_path_factory.mktemp("both")
    torch.manual_seed(0)
    trainer(folder).fit(make(PlannerModule, data), data)
    return str(folder / "checkpoints" / "last.ckpt")


def test_one_checkpoint_of_both_networks_is_exported_as_the_two_are(both, folder, tmp_path):
    exported = export(both, str(tmp_path / "planner"))
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    of_two_runs = {Path("training/denoiser.yaml"), Path("training/value.yaml")}
    found = {path.relative_to(exported) for path in exported.rglob("*") if path.is_file()}
    assert found - of_two_runs == files - of_two_runs
    # Which checkpoints they are of stands in two files.
    told = {Path("model_index.json"), Path("README.md")}
    for path in files - of_two_runs - told:
        assert (exported / path).read_bytes() == (folder / path).read_bytes(), path
    ours, theirs = (json.loads((one / "model_index.json").read_text()) for one in (exported, folder))
    assert ours["task"].pop("checkpoints") == {"planner": {"file": "last.ckpt", "step": 2}}
    del theirs["task"]["checkpoints"]
    assert ours == theirs
    assert "Checkpoints: planner `last.ckpt` of step 2." in (exported / "README.md").read_text()
    settings = yaml.safe_load((exported / "training/denoiser.yaml").read_text())["model"]
    assert (settings["widths"], settings["learning_rate"]) == ([16, 64], 1e-2)


def test_a_value_function_beside_a_checkpoint_of_both_is_refused(both, trained, tmp_path):
    paths, _ = trained
    for value in (paths["value"], both):
        refused(tmp_path, "holds both networks: leave --value away", both, str(tmp_path / "planner"), value)
    refused(tmp_path, "--value .* holds a PlannerModule", paths["denoiser"], str(tmp_path / "planner"), both)


# ---------------------------------------------------------------- what is refused, and nothing is written then


def refused(tmp_path, words, *arguments, **options):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=words):
        export(*arguments, **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_existing_output_is_refused(trained, tmp_path):
    paths, _ = trained
    (tmp_path / "planner").mkdir()
    (tmp_path / "planner" / "mine").write_text("kept")
    refused(tmp_path, "planner exists already: choose another --output", paths["denoiser"], str(tmp_path / "planner"))


def test_checkpoints_in_each_others_place_are_refused(trained, tmp_path):
    paths, _ = trained
    output = str(tmp_path / "planner")
    refused(tmp_path, "holds a ValueModule: give it as --value", paths["value"], output)
    words = "holds a DenoiserModule: give it as --denoiser"
    refused(tmp_path, words, paths["denoiser"], output, paths["denoiser"])


@pytest.mark.parametrize("role", ["denoiser", "value"])
def test_a_missing_or_foreign_checkpoint_is_refused_by_its_name(trained, tmp_path, role):
    paths, _ = trained
    foreign = {"nothing.ckpt": None, "text.ckpt": b"hello", "other.ckpt": {"state_dict": {}}, "list.ckpt": [1]}
    for name, content in foreign.items():
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        arguments = paths | {role: str(path)}
        refused(tmp_path, name, arguments["denoiser"], str(tmp_path / "planner"), arguments["value"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"horizon": 16}, "horizon is 8 and 16"),
        ({"num_train_timesteps": 12}, "num_train_timesteps is 10 and 12"),
        ({"beta_schedule": "linear"}, "beta_schedule is squaredcos_cap_v2 and linear"),
        ({"transition_dim": 5}, "transition_dim is 4 and 5"),
        ({"action_dim": 2}, "action_dim is 1 and 2"),
    ],
)
def test_networks_of_different_training_are_refused_with_both_numbers(trained, tmp_path, options, words):
    paths, data = trained
    value = save(make(ValueModule, data, **options), tmp_path / "value.ckpt")
    refused(tmp_path, f"do not belong together: {words}", paths["denoiser"], str(tmp_path / "planner"), value)


@pytest.mark.parametrize("name", ["shift", "scale", "action_low", "action_high"])
def test_networks_of_different_statistics_are_refused(trained, tmp_path, name):
    paths, _ = trained
    checkpoint = torch.load(paths["value"], weights_only=True)
    checkpoint["state_dict"][name] += 0.5
    torch.save(checkpoint, tmp_path / "value.ckpt")
    words = f"the normaliser's {name} is .* and .*same normaliser"
    refused(tmp_path, words, paths["denoiser"], str(tmp_path / "planner"), str(tmp_path / "value.ckpt"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"discount": None}, "names no discount"),
        ({"env_spec": {"id": "Other-v0"}}, "their environments are .*Other-v0"),
    ],
)
def test_a_value_function_of_an_unknown_or_other_task_is_refused(trained, tmp_path, change, words):
    paths, _ = trained
    checkpoint = torch.load(paths["value"], weights_only=True)
    checkpoint["hyper_parameters"]["task"] |= change
    torch.save(checkpoint, tmp_path / "value.ckpt")
    refused(tmp_path, words, paths["denoiser"], str(tmp_path / "planner"), str(tmp_path / "value.ckpt"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "euler"}, "sampler 'euler' is unknown"),
        ({"guide_scaling": "big"}, "guide_scaling 'big' is unknown"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_inference_steps": -1}, "num_inference_steps is -1"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
    ],
)
def test_a_default_that_cannot_work_is_refused(trained, tmp_path, options, words):
    paths, _ = trained
    refused(tmp_path, words, paths["denoiser"], str(tmp_path / "planner"), paths["value"], **options)


def test_a_planner_that_cannot_be_a_program_is_refused_where_one_is_wanted(trained, tmp_path, monkeypatch):
    paths, _ = trained
    monkeypatch.setattr("vgp_lightning.export.trained.check_format", lambda kind: None)
    output = str(tmp_path / "planner")
    words = "a program cannot have the sampler unipc"
    refused(tmp_path, words, paths["denoiser"], output, paths["value"], "onnx", sampler="unipc")


def test_a_program_is_written_with_the_folder(trained, tmp_path, monkeypatch):
    paths, _ = trained

    def write(pipeline, folder, kind, weights):
        assert (weights / "unet" / "diffusion_pytorch_model.safetensors").is_file()
        (folder / f"plan.{kind}").write_text(f"plans {pipeline.action_dim} action")

    monkeypatch.setattr("vgp_lightning.export.trained.check_format", lambda kind: None)
    monkeypatch.setattr("vgp_lightning.export.trained.write_programs", write)
    folder = export(paths["denoiser"], str(tmp_path / "planner"), paths["value"], "onnx")
    assert (folder / "program" / "plan.onnx").read_text() == "plans 1 action"


@pytest.mark.parametrize("where", ["huggingface_hub.ModelCard.save", "pathlib.Path.write_text"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_an_interruption_leaves_nothing(trained, tmp_path, monkeypatch, where, error):
    paths, _ = trained

    def interrupted(*arguments, **options):
        raise error

    monkeypatch.setattr(where, interrupted)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        export(paths["denoiser"], str(tmp_path / "planner"), paths["value"])
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert export(paths["denoiser"], str(tmp_path / "planner"), paths["value"]).is_dir()
