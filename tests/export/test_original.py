"""The original code's checkpoints become a folder that computes and plans the same."""

import json
import math
import os
import pickle
import sys
import types

import h5py
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from torch import nn

from vgp_lightning.cli import main
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

A, O, H, STEPS, DIM = 1, 3, 8, 10, 16  # noqa: E741 (the package's letters); a pendulum's
T = A + O
MULTIPLES = (1, 2, 4)
NUMBERS = {
    "actions": {"means": [0.5], "stds": [2.0], "mins": [-1.5], "maxs": [2.5]},
    "observations": {
        "means": [0.1, -0.2, 3.0],
        "stds": [0.5, 0.25, 4.0],
        "mins": [-1.0, -1.0, -8.0],
        "maxs": [1.0, 3.0, 6.0],
    },
    "values": {"mins": [-100.0], "maxs": [300.0]},
}
CONFIGS = {
    "dataset": {
        "env": "pendulum-medium-v2",
        "horizon": H,
        "normalizer": "GaussianNormalizer",
        "preprocess_fns": [],
        "use_padding": True,
    },
    "model": {"horizon": H, "transition_dim": T, "cond_dim": O, "dim_mults": MULTIPLES},
    "diffusion": {"horizon": H, "action_dim": A, "observation_dim": O, "n_timesteps": STEPS, "loss_weights": None}
    | {"clip_denoised": False, "predict_epsilon": False},
}
VALUE_DATASET = {"discount": 0.99, "termination_penalty": -100, "normed": False}


# ---------------------------------------------------------------- the original's networks, from their description


class Convolved(nn.Module):
    """Convolution, group normalisation, Mish; with something weightless between the first two, or not."""

    def __init__(self, channels, width, gap):
        super().__init__()
        layers = [nn.Conv1d(channels, width, 5, padding=2), nn.GroupNorm(8, width), nn.Mish()]
        self.block = nn.Sequential(*(layers[:1] + [nn.Identity()] * gap + layers[1:]))

    def forward(self, x):
        return self.block(x)


class Residual(nn.Module):
    def __init__(self, channels, width, gap):
        super().__init__()
        self.blocks = nn.ModuleList([Convolved(channels, width, gap), Convolved(width, width, gap)])
        self.time_mlp = nn.Sequential(nn.Mish(), nn.Linear(DIM, width))
        self.residual_conv = nn.Identity() if channels == width else nn.Conv1d(channels, width, 1)

    def forward(self, x, time):
        inner = self.blocks[0](x) + self.time_mlp(time)[:, :, None]
        return self.blocks[1](inner) + self.residual_conv(x)


class Resampled(nn.Module):
    def __init__(self, convolution):
        super().__init__()
        self.conv = convolution

    def forward(self, x):
        return self.conv(x)


def halved(width):
    return Resampled(nn.Conv1d(width, width, 3, stride=2, padding=1))


class Positions(nn.Module):
    def forward(self, steps):
        rates = 10000.0 ** -torch.linspace(0, 1, DIM // 2)
        angles = steps[:, None].float() * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def time_network():
    return nn.Sequential(Positions(), nn.Linear(DIM, 4 * DIM), nn.Mish(), nn.Linear(4 * DIM, DIM))


class TemporalUnet(nn.Module):
    def __init__(self, place=3, gap=1):
        super().__init__()
        widths = [DIM * multiple for multiple in MULTIPLES]
        hole = [nn.Identity()] * (place - 2)  # where attention would be
        self.time_mlp = time_network()
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            blocks = [Residual(([T, *widths])[i], width, gap), Residual(width, width, gap)]
            last = width == widths[-1]
            self.downs.append(nn.ModuleList([*blocks, *hole, nn.Identity() if last else halved(width)]))
        self.mid_block1, self.mid_block2 = (Residual(widths[-1], widths[-1], gap) for _ in range(2))
        for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            blocks = [Residual(2 * below, width, gap), Residual(width, width, gap)]
            doubled = Resampled(nn.ConvTranspose1d(width, width, 4, stride=2, padding=1))
            self.ups.append(nn.ModuleList([*blocks, *hole, doubled]))
        self.final_conv = nn.Sequential(Convolved(DIM, DIM, gap), nn.Conv1d(DIM, T, 1))

    def forward(self, trajectories, steps):
        x, time, kept = trajectories.transpose(1, 2), self.time_mlp(steps), []
        for first, second, *_, down in self.downs:
            kept.append(second(first(x, time), time))
            x = down(kept[-1])
        x = self.mid_block2(self.mid_block1(x, time), time)
        for first, second, *_, up in self.ups:
            x = up(second(first(torch.cat([x, kept.pop()], dim=1), time), time))
        return self.final_conv(x).transpose(1, 2)


class ValueFunction(nn.Module):
    def __init__(self, gap=1):
        super().__init__()
        widths = [DIM * multiple for multiple in MULTIPLES]
        self.time_mlp = time_network()
        self.blocks = nn.ModuleList(
            nn.ModuleList([Residual(channels, width, gap), Residual(width, width, gap), halved(width)])
            for channels, width in zip([T, *widths[:-1]], widths, strict=True)
        )
        half, quarter = widths[-1] // 2, widths[-1] // 4
        self.mid_block1, self.mid_down1 = Residual(widths[-1], half, gap), halved(half)
        self.mid_block2, self.mid_down2 = Residual(half, quarter, gap), halved(quarter)
        self.final_block = nn.Sequential(nn.Linear(quarter + DIM, quarter // 2), nn.Mish(), nn.Linear(quarter // 2, 1))

    def forward(self, trajectories, steps):
        x, time = trajectories.transpose(1, 2), self.time_mlp(steps)
        for first, second, down in self.blocks:
            x = down(second(first(x, time), time))
        x = self.mid_down1(self.mid_block1(x, time))
        x = self.mid_down2(self.mid_block2(x, time))
        return self.final_block(torch.cat([x.flatten(1), time], dim=1))[:, 0]


def constants():
    """What GaussianDiffusion stores beside its network, by the cosine schedule of Nichol and Dhariwal 2021."""
    signal = np.cos((np.arange(STEPS + 1) / STEPS + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.clip(1 - signal[1:] / signal[:-1], 0, 0.999)
    total = np.cumprod(1 - betas)
    before = np.concatenate([[1.0], total[:-1]])
    variance = betas * (1 - before) / (1 - total)
    numbers = {
        "betas": betas,
        "alphas_cumprod": total,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(total),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - total),
        "log_one_minus_alphas_cumprod": np.log(1 - total),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / total),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / total - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - total),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - total),
    }
    return {name: torch.tensor(array, dtype=torch.float32) for name, array in numbers.items()}


# ---------------------------------------------------------------- the original's files


def state(network):
    """A state dictionary of the network as GaussianDiffusion or ValueDiffusion wraps it."""
    tensors = constants() | {f"model.{key}": tensor for key, tensor in network.state_dict().items()}
    if isinstance(network, TemporalUnet):
        tensors["loss_fn.weights"] = torch.ones(H, T)
    return tensors


def save(folder, network, configs, change=lambda tensors: None):
    """Write a run of the original: the averages are the network, the last step's weights are zero."""
    folder.mkdir(exist_ok=True)
    tensors = state(network)
    change(tensors)
    last = {key: torch.zeros_like(tensor) if key.startswith("model.") else tensor for key, tensor in tensors.items()}
    torch.save({"step": 7000, "model": last, "ema": tensors}, folder / "state_5000.pt")
    for name, arguments in configs.items():
        write_config(folder / f"{name}_config.pkl", arguments)
    return folder / "state_5000.pt"


def write_config(path, arguments):
    """Pickle arguments in the original's Config, whose module exists only meanwhile."""
    module = types.ModuleType("diffuser.utils.config")
    config = type("Config", (), {"__module__": module.__name__})
    dataset = type("SequenceDataset", (), {"__module__": module.__name__})
    module.Config, module.SequenceDataset = config, dataset
    packages = {"diffuser": types.ModuleType("diffuser"), "diffuser.utils": types.ModuleType("diffuser.utils")}
    with pytest.MonkeyPatch.context() as patch:
        for name, package in (packages | {module.__name__: module}).items():
            patch.setitem(sys.modules, name, package)
        thing = config()
        thing.__dict__ |= {"_class": dataset, "_device": "cuda", "_dict": arguments}
        path.write_bytes(pickle.dumps(thing))


def changed(**changes):
    """The denoiser's configs, some arguments changed; a config that is None is left out, an argument too."""
    configs = {}
    for name, arguments in CONFIGS.items():
        change = changes.get(name, {})
        if change is not None:
            configs[name] = {key: x for key, x in (arguments | change).items() if x is not None or key not in change}
    return configs


def of_values(**changes):
    return changed(**changes | {"dataset": VALUE_DATASET | changes.get("dataset", {})})


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(3)
    return TemporalUnet().eval(), ValueFunction().eval()


@pytest.fixture
def run(tmp_path, nets):
    """Import the two networks, some things changed, and return the folder's path."""

    def run(*options, configs=None, value_configs=None, networks=nets, numbers=NUMBERS, change=None, value_change=None):
        (tmp_path / "statistics.json").write_text(json.dumps(numbers))
        denoiser = save(tmp_path / "diffusion", networks[0], configs or CONFIGS, change or (lambda tensors: None))
        arguments = [str(denoiser), "--statistics", str(tmp_path / "statistics.json")]
        if networks[1] is not None:
            none = lambda tensors: None  # noqa: E731
            value = save(tmp_path / "values", networks[1], value_configs or of_values(), value_change or none)
            arguments += ["--value", str(value)]
        main(["import", *arguments, "--output", str(tmp_path / "planner"), *options])
        return tmp_path / "planner"

    return run


# ---------------------------------------------------------------- the same networks, schedule and plans


@pytest.mark.parametrize(("place", "gap"), [(3, 1), (2, 1), (3, 0)])
def test_the_imported_networks_compute_what_the_originals_do(run, place, gap):
    networks = TemporalUnet(place, gap).eval(), ValueFunction(gap).eval()
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(run(networks=networks))
    for steps in (torch.arange(5), torch.full((5,), STEPS - 1)):
        x = torch.randn(5, H, T)
        with torch.no_grad():
            ours = pipeline.unet(x.transpose(1, 2), steps).sample.transpose(1, 2)
            values = pipeline.value_function(x.transpose(1, 2), steps).sample[:, 0]
            torch.testing.assert_close(ours, networks[0](x, steps), rtol=0, atol=1e-5)
            torch.testing.assert_close(values, networks[1](x, steps), rtol=0, atol=1e-5)


def test_the_last_steps_weights_are_taken_if_they_are_asked_for(run):
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(run("--weights", "model"))
    assert all(not tensor.any() for tensor in pipeline.unet.state_dict().values())
    assert all(not tensor.any() for tensor in pipeline.value_function.state_dict().values())


def test_the_schedule_has_the_constants_of_the_checkpoint(run):
    scheduler = ValueGuidedPlannerPipeline.from_pretrained(run()).scheduler
    for name in ("betas", "alphas_cumprod"):
        torch.testing.assert_close(getattr(scheduler, name), constants()[name], rtol=0, atol=1e-6)
    assert scheduler.config["num_train_timesteps"] == STEPS
    assert scheduler.config["prediction_type"] == "sample"
    assert not scheduler.config["clip_sample"]


@pytest.mark.parametrize(
    ("options", "normed", "scale", "shift_and_scale"),
    [
        (["--scale", "0.3"], False, 0.3, (0, 1)),
        ([], True, 0.1, (100, 200)),  # the original's own scale, on values of -1..1 that stand for -100..300
    ],
)
def test_plans_are_the_originals_own(run, nets, options, normed, scale, shift_and_scale):
    """Guided sampling as the original does it, without noise, so that there is one answer."""
    folder = run(*options, value_configs=of_values(dataset={"normed": normed}))
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    observation = np.array([0.6, -0.7, 5.0])
    plan = pipeline(observation, batch_size=1, temperature=0.0)

    means = torch.tensor(NUMBERS["actions"]["means"] + NUMBERS["observations"]["means"])
    stds = torch.tensor(NUMBERS["actions"]["stds"] + NUMBERS["observations"]["stds"])
    present = (torch.tensor(observation).float() - means[A:]) / stds[A:]
    buffers, (denoiser, value) = constants(), nets
    x = torch.zeros(1, H, T)
    x[:, 0, A:] = present
    for step in reversed(range(STEPS)):
        steps = torch.tensor([step])
        for _ in range(2):
            y = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(value(y, steps).sum(), y)
            x = x + scale * buffers["posterior_variance"][step] * gradient * (step >= 2)
            x[:, 0, A:] = present
        with torch.no_grad():
            clean = denoiser(x, steps)
        x = buffers["posterior_mean_coef1"][step] * clean + buffers["posterior_mean_coef2"][step] * x
        x[:, 0, A:] = present
    expected = x[0] * stds + means
    torch.testing.assert_close(plan.actions[0], expected[:, :A], rtol=0, atol=1e-4)
    torch.testing.assert_close(plan.observations[0], expected[:, A:], rtol=0, atol=1e-4)
    with torch.no_grad():
        values = shift_and_scale[0] + shift_and_scale[1] * value(x, torch.tensor([0]))
    torch.testing.assert_close(plan.values, values, rtol=0, atol=1e-4 * shift_and_scale[1])


def test_a_denoiser_of_noise_stays_one(run):
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(run(configs=changed(diffusion={"predict_epsilon": True})))
    assert pipeline.scheduler.config["prediction_type"] == "epsilon"


def test_clipped_predictions_stay_clipped(run):
    denoiser = TemporalUnet()
    with torch.no_grad():
        denoiser.final_conv[1].weight *= 100  # far out of -1..1, if nothing holds it
    configs = changed(dataset={"normalizer": "LimitsNormalizer"}, diffusion={"clip_denoised": True})
    folder = run(configs=configs, networks=(denoiser, None))
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    seen = []
    pipeline(
        np.array([0.5, 0.5, 0.5]), callback_on_step_end=lambda pipe, i, step, x: seen.append(x["trajectories"].clone())
    )
    assert len(seen) == STEPS
    assert seen[-1].abs().max() == 1.0
    # With fewer steps sampling begins at the noisiest level, for it begins with noise.
    levels = []
    pipeline(np.array([0.5, 0.5, 0.5]), num_inference_steps=3, callback_on_step_end=lambda p, i, t, x: levels.append(t))
    assert (len(levels), levels[0]) == (3, STEPS - 1)


# ---------------------------------------------------------------- from normalised to physical, by hand


@pytest.mark.parametrize(
    ("kind", "observations", "shift", "scale", "low", "high"),
    [
        ("GaussianNormalizer", {}, [0.5, 0.1, -0.2, 3], [2, 0.5, 0.25, 4], [None], [None]),
        ("LimitsNormalizer", {}, [0.5, 0, 1, -1], [2, 1, 2, 7], [-1.5], [2.5]),
        ("SafeLimitsNormalizer", {}, [0.5, 0, 1, -1], [2, 1, 2, 7], [-1.5], [2.5]),
        # A constant widens all observations by 1 either way, and no action.
        ("SafeLimitsNormalizer", {"mins": [1, 1, 1], "maxs": [1, 3, 5]}, [0.5, 1, 2, 3], [2, 1, 2, 3], [-1.5], [2.5]),
    ],
)
def test_the_normaliser_is_the_originals(run, kind, observations, shift, scale, low, high):
    numbers = NUMBERS | {"observations": NUMBERS["observations"] | observations}
    configs = {"configs": changed(dataset={"normalizer": kind}), "numbers": numbers}
    folder = run(**configs, value_configs=of_values(dataset={"normalizer": kind}))
    statistics = json.loads((folder / "model_index.json").read_text())["normalization"]
    assert statistics == {
        "action_dim": A,
        "shift": pytest.approx(shift),
        "scale": pytest.approx(scale),
        "return_shift": 0,
        "return_scale": 1,
        "action_low": low,
        "action_high": high,
    }


def test_a_normalised_value_is_brought_to_the_environments_units(run, nets):
    folder = run(value_configs=of_values(dataset={"normed": True}))
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    # -1..1 stands for -100..300.
    assert (pipeline.normalization["return_shift"], pipeline.normalization["return_scale"]) == (100.0, 200.0)
    plan = pipeline(np.zeros(O), batch_size=2, n_guide_steps=0)
    x = torch.cat([plan.actions, plan.observations], dim=-1)
    shift, scale = (torch.tensor(pipeline.normalization[name]) for name in ("shift", "scale"))
    with torch.no_grad():
        values = 100 + 200 * nets[1]((x - shift) / scale, torch.tensor([0]))
    torch.testing.assert_close(plan.values, values, rtol=1e-4, atol=1e-3)


def write_d4rl(path, **replaced):
    """A D4RL file of three episodes; the third does not end, so the original leaves it out."""
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(30, O)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (30, A)).astype(np.float32),
        "terminals": np.arange(30) == 9,
        "timeouts": np.arange(30) == 24,
    } | replaced
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return arrays


def test_statistics_can_be_measured_on_the_d4rl_file(run, tmp_path):
    arrays = write_d4rl(tmp_path / "pendulum_medium-v2.hdf5")
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(
        run("--statistics", str(tmp_path / "pendulum_medium-v2.hdf5"))
    )
    rows = np.concatenate([arrays["actions"], arrays["observations"]], axis=1)[:25]
    np.testing.assert_allclose(pipeline.normalization["shift"], rows.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pipeline.normalization["scale"], rows.std(axis=0), rtol=1e-5)


# ---------------------------------------------------------------- the folder


def test_the_folder_is_that_of_an_export_and_tells_where_it_is_from(run, capfd):
    folder = run("--env_id", "Pendulum-v1", "--t_stopgrad", "4")
    assert f"imported to {folder}" in capfd.readouterr().out
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "model_index.json",
        "pipeline.py",
        "README.md",
        "scheduler/scheduler_config.json",
        "training/denoiser.yaml",
        "training/value.yaml",
        "unet/diffusion_pytorch_model.safetensors",
        "value_function/diffusion_pytorch_model.safetensors",
    } <= files
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    assert pipeline.task == {
        "env_id": "Pendulum-v1",
        "env_spec": None,
        "dataset_id": ["pendulum-medium-v2"],
        "discount": 0.99,
        "termination_penalty": -100,
        "reference_scores": None,
        "checkpoints": {name: {"file": "state_5000.pt", "step": 7000} for name in ("denoiser", "value")},
    }
    settings = pipeline.resolve_settings()
    expected = {"planning_horizon": H, "batch_size": 64, "n_guide_steps": 2, "scale": 0.1, "guide_scaling": "variance"}
    expected |= {"t_stopgrad": 4, "sampler": "ddpm", "num_inference_steps": STEPS, "temperature": 1.0}
    assert settings | expected == settings
    known = yaml.safe_load((folder / "training" / "value.yaml").read_text())["github.com/jannerm/diffuser"]
    assert (known["checkpoint"], known["weights"], known["step"]) == ("state_5000.pt", "ema", 7000)
    assert known["dataset"]["discount"] == 0.99
    assert known["model"]["dim_mults"] == list(MULTIPLES)
    for words in ("Pendulum-v1", "pendulum-medium-v2", "discount 0.99"):
        assert words in ModelCard.load(folder / "README.md").text


def test_the_folder_acts_in_its_environment(run, tmp_path):
    folder = run("--env_id", "Pendulum-v1")
    options = ["--episodes", "1", "--batch_size", "2", "--num_inference_steps", "1", "--replan_every", "8"]
    main(["evaluate", str(folder), *options, "--output_dir", str(tmp_path / "results"), "--video", "false"])
    report = json.loads((tmp_path / "results" / "evaluation.json").read_text())
    assert -17 * 200 < report["return_mean"] < 0


def test_a_denoiser_alone_plans_unguided(run, nets):
    folder = run(networks=(nets[0], None))
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    assert pipeline.value_function is None
    assert pipeline.task["dataset_id"] == ["pendulum-medium-v2"]
    assert not (folder / "training" / "value.yaml").exists()
    assert pipeline(np.zeros(O), batch_size=2).actions.isfinite().all()


OPTIONS = {"normalizer": "GaussianNormalizer", "predict_epsilon": "false", "clip_denoised": "false"} | {
    "discount": "0.99",
    "normed": "false",
}


def test_what_no_config_says_the_options_say(run):
    options = [word for name, given in OPTIONS.items() for word in (f"--{name}", given)]
    nothing = changed(dataset=None, model=None, diffusion=None) or {"render": {}}
    folder = run(*options, configs=nothing, value_configs=nothing)
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    assert pipeline.task["discount"] == 0.99
    assert pipeline.task["dataset_id"] == []
    assert pipeline.resolve_settings()["planning_horizon"] == H


# ---------------------------------------------------------------- what is refused, and nothing is written then


@pytest.fixture
def refused(run, tmp_path, capfd):
    """Import in vain, and return the message."""

    def refused(words, *options, **changes):
        with pytest.raises(SystemExit) as ended:
            run(*options, **changes)
        message = capfd.readouterr().err
        assert ended.value.code == 2
        assert words in message
        assert message.startswith("vgp: ")
        assert len(message.strip().splitlines()) == 1
        assert sorted(path.name for path in tmp_path.iterdir() if "planner" in path.name) == []

    return refused


@pytest.mark.parametrize("missing", OPTIONS)
def test_what_nothing_says_is_asked_for(refused, missing):
    options = [word for name, given in OPTIONS.items() if name != missing for word in (f"--{name}", given)]
    nothing = {"render": {}}  # a file that is not asked
    refused(f"give --{missing}", *options, configs=nothing, value_configs=nothing)


def test_an_option_that_contradicts_a_config_is_refused(refused):
    refused("--discount is 0.997", "--discount", "0.997")
    refused("--clip_denoised is True", "--clip_denoised", "true")


def put(key, tensor):
    return lambda tensors: tensors.update({key: tensor})


def drop(key):
    return lambda tensors: tensors.pop(key)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("model.downs.0.2.fn.fn.to_qkv.weight", torch.zeros(384, 16, 1)), "to_qkv.weight are linear attention"),
        (put("model.mid_attn.fn.norm.g", torch.zeros(1, 64, 1)), "mid_attn.fn.norm.g are linear attention"),
        (put("model.cond_mlp.0.weight", torch.zeros(64, 3)), "model.cond_mlp.0.weight are a condition"),
        (put("model.returns_mlp.0.weight", torch.zeros(64, 1)), "model.returns_mlp.0.weight are no part"),
        (put("inv_model.0.weight", torch.zeros(64, 1)), "inv_model.0.weight are no part"),
        (put("model.ups.0.0.blocks.0.block.1.weight", torch.zeros(32)), "block.2.weight are no part"),
        (drop("model.mid_block2.blocks.1.block.2.bias"), "lacks 1 tensors, such as mid_block.resnets.1"),
        (drop("model.downs.0.0.blocks.0.block.0.weight"), "holds no TemporalUnet"),
        (put("model.final_conv.1.bias", torch.zeros(T + 1)), "model.final_conv.1.bias is (5,), where"),
        (put("model.downs.1.0.blocks.0.block.0.weight", torch.zeros(32, 16, 3)), "is (32, 16, 3), where"),
        (drop("loss_fn.weights"), "lacks loss_fn.weights"),
        (drop("betas"), "lacks betas"),
        (put("betas", torch.linspace(1e-4, 0.02, STEPS)), "off the cosine schedule of 10 steps"),
        (put("betas", torch.full((STEPS,), math.nan)), "betas up to nan off the cosine"),
        (
            put("model.time_mlp.1.bias", torch.full((4 * DIM,), math.nan)),
            "of unet is not finite",
        ),
    ],
)
def test_weights_that_the_folder_cannot_hold_are_refused_by_name(refused, nets, change, words):
    refused(words, change=change, networks=(nets[0], None))


def test_a_value_function_is_refused_in_the_same_way(refused):
    change = drop("model.final_block.0.weight")
    refused("lacks 1 tensors, such as out_block.final_block.0.weight", value_change=change)
    refused("off the cosine", value_change=put("betas", torch.linspace(1e-4, 0.02, STEPS)))


def test_networks_in_each_others_place_are_refused(refused, nets):
    refused("holds a ValueFunction: give it as --value", networks=(nets[1], nets[1]))
    refused("holds a TemporalUnet: give it as the denoiser", networks=(nets[0], nets[0]))


def test_networks_of_different_dimensions_are_refused(refused, nets, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "T", T + 1)
    wider = ValueFunction()
    monkeypatch.undo()
    refused("do not belong together: the number of dimensions is 4 and 5", networks=(nets[0], wider))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"diffusion": {"horizon": 16}}, "the horizon is 8 and 16"),
        ({"dataset": {"env": "hopper-medium-v2"}}, "env is pendulum-medium-v2 and hopper-medium-v2"),
        ({"dataset": {"normalizer": "LimitsNormalizer"}}, "normalizer is GaussianNormalizer and LimitsNormalizer"),
    ],
)
def test_networks_of_different_training_are_refused(refused, changes, words):
    refused(f"do not belong together: {words}", value_configs=of_values(**changes))


def test_networks_of_different_steps_are_refused(refused, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "STEPS", 12)
    longer = constants()
    monkeypatch.undo()
    refused("the number of diffusion steps is 10 and 12", value_change=lambda tensors: tensors.update(longer))


@pytest.mark.parametrize("kind", ["CDFNormalizer", "DebugNormalizer"])
def test_a_normaliser_that_is_no_affine_map_is_refused(refused, nets, kind):
    configs = changed(dataset={"normalizer": kind})
    refused(f"{kind} cannot be imported", configs=configs, networks=(nets[0], None))


def test_preprocessed_data_are_refused(refused, nets):
    configs = changed(dataset={"preprocess_fns": ["add_deltas", "arctanh_actions"]})
    refused("trained on data changed by arctanh_actions", configs=configs, networks=(nets[0], None))


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("actions", None, "lacks means and stds of the actions"),
        ("observations", {"means": [0.0] * O}, "lacks means and stds of the observations"),
        ("observations", {"means": [0.0] * O, "stds": [1.0]}, "lacks means and stds of the observations"),
        ("observations", {"means": [0.0] * O, "stds": [1.0, 0.0, 1.0]}, "a constant or an impossible dimension"),
        ("observations", {"means": [0.0, math.nan, 0.0], "stds": [1.0] * O}, "a constant or an impossible dimension"),
        ("actions", {"means": [0.0] * 2, "stds": [1.0] * 2}, "2 actions and 3 observations"),
        ("values", None, "lacks mins and maxs of the values"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(refused, key, change, words):
    value_configs = of_values(dataset={"normed": key == "values"})
    refused(words, numbers=NUMBERS | {key: change}, value_configs=value_configs)


def test_statistics_that_cannot_be_read_are_refused(refused, nets, tmp_path):
    def check(name, words):
        refused(words, "--statistics", str(tmp_path / name), networks=(nets[0], None))

    check("nothing.json", "nothing.json cannot be read")
    (tmp_path / "text.hdf5").write_text("text")
    check("text.hdf5", "text.hdf5 cannot be read")
    write_d4rl(tmp_path / "endless.hdf5", terminals=np.zeros(30, bool), timeouts=np.zeros(30, bool))
    check("endless.hdf5", "endless.hdf5 cannot be read")
    write_d4rl(tmp_path / "maze2d-umaze-v1.hdf5")
    check("maze2d-umaze-v1.hdf5", "give the numbers as JSON")


def test_an_existing_output_is_kept(run, tmp_path, capfd):
    (tmp_path / "planner").mkdir()
    (tmp_path / "planner" / "mine").write_text("kept")
    with pytest.raises(SystemExit):
        run()
    assert "exists already: choose another --output" in capfd.readouterr().err
    assert [path.name for path in (tmp_path / "planner").iterdir()] == ["mine"]


@pytest.mark.parametrize("content", [None, b"text", [1], {"step": 1}, {"ema": [1]}, {"ema": {"betas": 1}}])
def test_a_file_that_is_no_checkpoint_is_refused(refused, tmp_path, content):
    path = tmp_path / "other.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    refused("other.pt", "--value", str(path))


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_not_executed(refused, tmp_path):
    torch.save({"step": 1, "ema": {}, "trap": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    refused("trap.pt cannot be read as a checkpoint", "--value", str(tmp_path / "trap.pt"))
    assert not (tmp_path / "sprung").exists()


def test_code_in_a_config_is_not_executed(refused, nets, tmp_path):
    trapped = changed(dataset={"preprocess_fns": [Trap(tmp_path / "sprung")]})
    refused(f"dataset_config.pkl is not read: it names {os.name}.mkdir", configs=trapped, networks=(nets[0], None))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "content", [b"", b"text", pickle.dumps({"a": 1}), pickle.dumps([]), b"cdiffuser\nx\n(I1\ntR.", b"cdiffuser\nx\n."]
)
def test_a_config_that_is_none_is_refused(refused, nets, tmp_path, content):
    (tmp_path / "diffusion").mkdir()
    (tmp_path / "diffusion" / "render_config.pkl").write_bytes(content)  # nobody reads this one
    (tmp_path / "diffusion" / "model_config.pkl").write_bytes(content)
    configs = {name: CONFIGS[name] for name in ("dataset", "diffusion")}
    refused("model_config.pkl is not read", configs=configs, networks=(nets[0], None))
