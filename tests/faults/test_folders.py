"""Damaged pipeline folders: a refusal that says where, or a plan.

Each mutation of an exported folder is loaded and plans once. Either a ValueError or an OSError names the folder, the
file, the component or the key; or the plan is finite, within the bounds and begins at the observation, and is the
undamaged folder's to the bit unless the mutated key decides how to plan.
"""

import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.utils import logging
from fakes import NUMPY_2, contents, run_elsewhere, write_tiny
from safetensors.torch import load_file, save_file
from tally import case

from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

pytestmark = NUMPY_2
GROUP = "damaged folders"
OBSERVATION = np.array([0.3, -0.2])
INDEX, SCHEDULE = "model_index.json", "scheduler/scheduler_config.json"
NETWORKS = {name: f"{name}/config.json" for name in ("unet", "value_function")}
WEIGHTS = {name: f"{name}/diffusion_pytorch_model.safetensors" for name in NETWORKS}
# What a JSON entry is replaced by.
JUNK = [None, "text", [], {}, -1, 0, 1e300, math.nan, math.inf, True, 10**12]
# Keys that decide how to plan: another value is another plan, not a damage that could be seen.
MEANINGFUL = {
    *(
        "planner",
        "act_fn",
        "freq_shift",
        "flip_sin_to_cos",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "prediction_type",
    ),
    *("num_train_timesteps", "trained_betas", "rescale_betas_zero_snr", "shift", "scale", "return_shift"),
    *("return_scale", "action_low", "action_high", "value_function", "norm_num_groups", "time_embedding_type"),
    *("extra_in_channels", "downsample_each_block", "other finite weights"),
}


# ---------------------------------------------------------------- the mutations: name -> (function of a folder, key)


def edit(file, change):
    def mutate(folder):
        path = folder / file
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return mutate


def entries(content, above=()):
    """Return the paths to all entries of a JSON object, but for those of lists beyond their first."""
    for key, value in content.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from entries(value, (*above, key))
        if isinstance(value, list) and value and not above:
            yield (*above, key, 0)
        if isinstance(value, list) and value and above == ("normalization",):
            yield (*above, key, 0)


def put(place, value):
    def change(content):
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = value

    return change


def drop(place):
    def change(content):
        for key in place[:-1]:
            content = content[key]
        del content[place[-1]]

    return change


def mutate_json(folder):
    for file in (INDEX, SCHEDULE, *NETWORKS.values()):
        for place in entries(json.loads((folder / file).read_text())):
            name = f"{file}: {'.'.join(map(str, place))}"
            key = next((part for part in reversed(place) if isinstance(part, str)), "")
            key = "planner" if "planner" in place else key
            yield f"{name} deleted", edit(file, drop(place)), key
            for value in JUNK:
                yield f"{name} = {value!r}", edit(file, put(place, value)), key


def replace(file, content):
    def mutate(folder):
        (folder / file).write_bytes(content((folder / file).read_bytes()))

    return mutate


def into_a_folder(file):
    def mutate(folder):
        (folder / file).unlink()
        (folder / file).mkdir()

    return mutate


FILES = {
    "emptied": lambda old: b"",
    "cut in half": lambda old: old[: len(old) // 2],
    "cut by a byte": lambda old: old[:-1],
    "of random bytes": lambda old: np.random.default_rng(0).bytes(len(old)),
    "of zeros": lambda old: bytes(len(old)),
    "a list": lambda old: b"[]",
    "a word": lambda old: b'"planner"',
    "null": lambda old: b"null",
    "nested deeply": lambda old: b"[" * 100_000,
}


def mutate_files(folder):
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    for file in files:
        yield f"{file} deleted", lambda folder, file=file: (folder / file).unlink(), file
        yield f"{file} a folder", into_a_folder(file), file
        for name, content in FILES.items():
            yield f"{file} {name}", replace(file, content), file
    for name in ("unet", "value_function", "scheduler"):
        yield f"{name} deleted", lambda folder, name=name: shutil.rmtree(folder / name), name
        yield f"{name} emptied", lambda folder, name=name: (shutil.rmtree(folder / name), (folder / name).mkdir()), name


def change_weights(file, change):
    def mutate(folder):
        weights = load_file(folder / file)
        change(weights)
        save_file(weights, folder / file, metadata={"format": "pt"})

    return mutate


def mutate_weights(folder):
    for file in WEIGHTS.values():
        names = sorted(load_file(folder / file))
        for name in names[:: max(1, len(names) // 6)]:

            def fill(number, name=name):
                return lambda weights: weights[name].view(-1)[-1:].fill_(number)

            def turn(function, name=name):
                return lambda weights: weights.update({name: function(weights[name]).contiguous()})

            changes = {
                "missing": lambda weights, name=name: weights.pop(name),
                "renamed": lambda weights, name=name: weights.update({f"{name}_": weights.pop(name)}),
                "longer": turn(lambda weight: torch.cat([weight, weight])),
                "flat": turn(lambda weight: weight.flatten()[None]),
                "empty": turn(lambda weight: weight[:0]),
                "NaN": fill(math.nan),
                "inf": fill(math.inf),
                "1e38": lambda weights, name=name: weights[name].fill_(1e38),
                "whole numbers": turn(lambda weight: weight.to(torch.int64)),
                "booleans": turn(lambda weight: weight > 0),
                "float64": turn(lambda weight: weight.double()),
            }
            for words, change in changes.items():
                yield (
                    f"{file}: {name} {words}",
                    change_weights(file, change),
                    "other finite weights" if words == "1e38" else file,
                )
        yield f"{file}: one more", change_weights(file, lambda w: w.update(more=torch.zeros(1))), file
        yield f"{file}: none", change_weights(file, lambda w: w.clear()), file
        for length in (0, 7, 2**40, 2**63):
            yield (
                f"{file}: header of {length}",
                replace(file, lambda old, n=length: struct.pack("<Q", n) + old[8:]),
                file,
            )
    swapped = list(WEIGHTS.values())

    def swap(folder):
        first, second = ((folder / file).read_bytes() for file in swapped)
        (folder / swapped[0]).write_bytes(second)
        (folder / swapped[1]).write_bytes(first)

    yield "weights swapped", swap, swapped[0]


def mutations(folder):
    for maker in (mutate_json, mutate_files, mutate_weights):
        yield from maker(folder)


# ---------------------------------------------------------------- the oracle


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("whole") / "folder", task={"env_id": "Hopper-v5"}, n_guide_steps=1)


def plan_of(folder):
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    return pipeline(OBSERVATION, generator=torch.Generator().manual_seed(0))


def judge(folder, name, mutate, key, expected):
    """Mutate a folder, load it, plan; hold the outcome against the rules. Returns how the case ended."""
    mutate(folder)
    try:
        plan = plan_of(folder)
    except (ValueError, OSError) as error:
        words = str(error)
        known = {part for part in (str(folder), Path(key).name, Path(key).parent.name) if part}  # file, network
        if not any(part in words for part in known):
            raise AssertionError(f"{name}: {words}") from error
        return "clear"
    except Exception as error:
        raise AssertionError(f"{name}: a raw {type(error).__name__}: {error}") from error
    assert plan.trajectories.isfinite().all(), name
    assert torch.equal(plan.observations[0, 0], torch.tensor(OBSERVATION).float()), name
    bounded = plan.actions.clamp(-1, 1)
    if key not in MEANINGFUL:
        assert torch.equal(plan.trajectories, expected.trajectories), f"{name}: another plan, without a word"
        assert torch.equal(plan.actions, bounded), name
    return "right"


def try_all(whole, tmp_path, every):
    expected, before = plan_of(whole), contents(whole)
    chosen = list(mutations(whole))[::every]
    failures = []
    for name, mutate, key in chosen:
        folder = tmp_path / "folder"
        shutil.copytree(whole, folder)
        try:
            with case(GROUP, name) as verdict:
                verdict.outcome = judge(folder, name, mutate, key, expected)
        except AssertionError as error:
            failures.append(str(error)[:300])
        shutil.rmtree(folder)
    assert contents(whole) == before
    assert failures == []
    return len(chosen)


@pytest.fixture(autouse=True)
def quiet():
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(level)
    logging.enable_progress_bar()


def test_some_damaged_folders_are_refused_by_name_or_plan(whole, tmp_path):
    assert try_all(whole, tmp_path, every=17) > 50


@pytest.mark.slow
def test_all_damaged_folders_are_refused_by_name_or_plan(whole, tmp_path):
    assert try_all(whole, tmp_path, every=1) > 300


# ---------------------------------------------------------------- where the package is not installed

LOAD_ELSEWHERE = """
import json, sys
sys.modules["vgp_lightning"] = None
from diffusers import DiffusionPipeline
said = []
for folder in sys.argv[1:]:
    try:
        DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
        said.append("loaded")
    except ValueError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_the_code_of_a_folder_refuses_what_is_damaged_in_diffusers_own_loader(whole, tmp_path):
    weights = WEIGHTS["unet"]
    first = sorted(load_file(whole / weights))[0]
    damages = {
        "none": (lambda folder: None, "loaded"),
        "missing": (change_weights(weights, lambda w: w.pop(first)), f"1 are missing, the first is {first}"),
        "NaN": (change_weights(weights, lambda w: w[first].fill_(math.nan)), f"weight {first} of unet in"),
        "unexpected": (change_weights(weights, lambda w: w.update(more=torch.zeros(1))), "the first is more"),
        "layers": (edit(NETWORKS["unet"], put(["layers_per_block"], 5)), "are missing, the first is"),
        "scale": (edit(INDEX, put(["normalization", "scale", 0], 0)), "scale[0] of normalization is 0"),
        "prediction": (edit(SCHEDULE, put(["prediction_type"], "foo")), "prediction_type of DDPMScheduler is 'foo'"),
        "bounds": (edit(INDEX, put(["normalization", "action_low", 0], 2)), "action_low[0] of normalization is 2"),
    }
    folders = []
    for name, (mutate, _) in damages.items():
        folders.append(shutil.copytree(whole, tmp_path / name))
        mutate(folders[-1])
    said = run_elsewhere(tmp_path, LOAD_ELSEWHERE, *folders)
    for (name, (_, words)), answer in zip(damages.items(), said, strict=True):
        with case(GROUP, f"diffusers' loader: {name}") as verdict:
            assert words in answer
            verdict.outcome = "right" if name == "none" else "clear"


def test_a_component_of_the_users_goes_before_a_damaged_one_of_the_folder(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "folder")
    good = ValueGuidedPlannerPipeline.from_pretrained(whole)
    shutil.rmtree(folder / "value_function")
    (folder / SCHEDULE).write_text("{")
    with case(GROUP, "components of the user's"):
        pipeline = ValueGuidedPlannerPipeline.from_pretrained(
            folder, value_function=good.value_function, scheduler=good.scheduler
        )
        assert pipeline.value_function is good.value_function
        assert pipeline.resolve_settings()["sampler"] is None
        unguided = ValueGuidedPlannerPipeline.from_pretrained(
            whole, value_function=None, planner={"planning_horizon": 8}
        )
        assert unguided(OBSERVATION, batch_size=1, num_inference_steps=1, planning_horizon=8).values.isnan().all()


def test_a_value_function_that_the_index_does_not_name_is_not_left_out_in_silence(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "folder")
    edit(INDEX, drop(["value_function"]))(folder)
    with case(GROUP, "a value function that is not named") as verdict:
        with pytest.raises(ValueError, match=r"model_index.json lacks the key value_function"):
            ValueGuidedPlannerPipeline.from_pretrained(folder)
        verdict.outcome = "clear"
