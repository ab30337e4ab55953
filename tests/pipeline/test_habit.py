"""A habit: its arithmetic by hand, and what is refused when it is loaded from a planner's folder."""

import json

import numpy as np
import pytest
import torch
from fakes import UNITS, A, O, add_habit, run_elsewhere, write_tiny
from safetensors.torch import load_file, save_file

from vgp_lightning.pipeline.habit import Habit
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

STATE = np.array([0.5, -0.5])  # of the tiny folder


def load(folder):
    return ValueGuidedPlannerPipeline.from_pretrained(folder).load_habit()


def test_an_answer_is_the_network_s_output_in_the_environment_s_units_within_the_bounds():
    habit = Habit(UNITS | {"action_low": [None, -0.6], "action_high": [0.55, None]}, 3, [16])
    states = np.random.default_rng(0).normal(3, 5, (7, O))
    first, _, last = habit.layers
    hidden = (states - [1, 2, 3]) / [3, 0.5, 10] @ first.weight.detach().numpy().T + first.bias.detach().numpy()
    hidden = hidden * np.tanh(np.log1p(np.exp(hidden)))
    raw = (hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy()).reshape(7, 3, A)
    raw = np.clip(raw * [0.1, 2.0] + [0.5, -0.5], [-np.inf, -0.6], [0.55, np.inf])
    answers = habit.answer(states)
    assert (answers.shape, answers.dtype) == ((7, 3, A), torch.float32)
    np.testing.assert_allclose(answers.numpy(), raw, atol=1e-5)
    assert (raw[..., 0] == 0.55).any()
    assert (raw[..., 1] == -0.6).any()


def test_one_observation_is_answered_as_a_batch_of_one():
    habit = Habit(UNITS, 3, [16])
    state = np.array([1.0, 2.0, 3.0])
    assert torch.equal(habit.answer(state), habit.answer(torch.tensor(state[None])))


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        ([1.0, 2.0], r"observation has shape \(2,\): \(3,\) or \(N, 3\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((1, 1, 3)), r"shape \(1, 1, 3\)"),
        (3.0, r"shape \(\)"),
        (["a", "b", "c"], "array of real numbers"),
        ([1.0, np.nan, 3.0], "observation is not finite"),
        ([1.0, np.inf, 3.0], "observation is not finite"),
        ([1.0, 1e39, 3.0], "observation is not finite"),
        ([3e38, 3e38, -3e38], "too far from the training data"),
    ],
)
def test_an_observation_that_cannot_be_answered_is_refused(observation, words):
    with pytest.raises(ValueError, match=words):
        Habit(UNITS, 3, [16, 16]).answer(observation)


@pytest.mark.parametrize(
    ("chunk", "widths", "words"),
    [
        (0, [16], "chunk is 0"),
        (10**9, [16], "chunk is"),
        (2.5, [16], "chunk is 2.5"),
        (1, [], "widths are"),
        (1, [0], "widths are"),
        (1, [10**9], "widths are"),
        (1, [1] * 65, "widths are"),
        (1, 16, "widths are 16"),
    ],
)
def test_sizes_that_no_habit_has_are_refused(chunk, widths, words):
    with pytest.raises(ValueError, match=words):
        Habit(UNITS, chunk, widths)


# ---------------------------------------------------------------- in a folder


def test_a_loaded_habit_answers_as_the_saved_one_to_the_bit(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    saved = add_habit(folder)
    loaded = load(folder)
    assert torch.equal(loaded.answer(STATE), saved.answer(STATE))
    assert (loaded.teacher, loaded.chunk) == (saved.teacher, 4)
    assert not any(weight.requires_grad for weight in loaded.parameters())


ELSEWHERE = """
import json, sys
sys.modules["vgp_lightning"] = None
from diffusers import DiffusionPipeline
folder = sys.argv[1]
pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
print(json.dumps(pipeline.load_habit().answer([0.5, -0.5]).tolist()))
"""


def test_without_the_package_the_folder_s_own_code_loads_its_habit(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    saved = add_habit(folder)
    assert run_elsewhere(tmp_path, ELSEWHERE, folder) == saved.answer(STATE).tolist()


def test_a_folder_without_a_habit_is_refused_with_the_command_that_makes_one(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    with pytest.raises(ValueError, match=f"{folder} has no habit: make one by vgp distill {folder}"):
        load(folder)


def test_a_planner_that_no_folder_holds_has_no_habit(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    add_habit(folder)
    loaded = ValueGuidedPlannerPipeline.from_pretrained(folder)
    made = ValueGuidedPlannerPipeline(loaded.unet, loaded.scheduler, normalization=loaded.normalization)
    with pytest.raises(ValueError, match="not loaded from a folder"):
        made.load_habit()


@pytest.mark.parametrize("change", ["weights", "value", "statistics"])
def test_a_habit_of_another_teacher_is_refused(tmp_path, change):
    folder = write_tiny(tmp_path / "planner")
    add_habit(folder)
    if change == "statistics":
        index = json.loads((folder / "model_index.json").read_text())
        index["normalization"]["shift"][0] = 0.5
        (folder / "model_index.json").write_text(json.dumps(index))
    else:
        path = folder / ("unet" if change == "weights" else "value_function") / "diffusion_pytorch_model.safetensors"
        weights = load_file(path)
        next(iter(weights.values())).view(-1)[0] += 1e-3
        save_file(weights, path)
    with pytest.raises(ValueError, match=f"another planner .*: distill it anew, vgp distill {folder}"):
        load(folder)


def test_a_planner_in_half_precision_has_its_habit_in_single(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    saved = add_habit(folder)
    half = ValueGuidedPlannerPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    assert torch.equal(half.load_habit().answer(STATE), saved.answer(STATE))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", "1 are missing, the first is layers.0.bias"),
        ("surplus", "1 have no place in it, the first is more"),
        ("shape", r"layers.0.bias has shape \[3\], and \[16\] is needed"),
        ("nan", "weight layers.0.bias of the habit .* is not finite"),
        ("cut", "Unable to load weights"),
        ("nearly empty", "is smaller"),
        ("gone", "safetensors is missing"),
    ],
)
def test_damaged_weights_are_one_error_that_names_the_folder(tmp_path, damage, words):
    folder = write_tiny(tmp_path / "planner")
    add_habit(folder)
    path = folder / "habit" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    if damage == "missing":
        del weights["layers.0.bias"]
    elif damage == "surplus":
        weights["more"] = torch.zeros(1)
    elif damage == "shape":
        weights["layers.0.bias"] = torch.zeros(3)
    elif damage == "nan":
        weights["layers.0.bias"][3] = torch.nan
    save_file(weights, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "nearly empty":
        path.write_bytes(path.read_bytes()[:40])
    elif damage == "gone":
        path.unlink()
    with pytest.raises((ValueError, OSError), match=words) as refused:
        load(folder)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"widths": [10**7]}, "widths are"),
        ({"widths": [65536] * 64}, "describes a habit of 270[0-9]* weights, but"),
        ({"chunk": "4"}, "chunk is 4"),
        ({"normalization": {}}, "normalization lacks"),
        ({"normalization": None}, "normalization is None"),
        ({"chunk": 5}, "layers.4"),
        ({"teacher": 5}, "teacher is 5"),
    ],
)
def test_a_config_that_describes_another_habit_is_refused(tmp_path, change, words):
    folder = write_tiny(tmp_path / "planner")
    add_habit(folder)
    path = folder / "habit" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=words) as refused:
        load(folder)
    assert str(path) in str(refused.value)


def test_a_config_that_is_no_json_is_refused(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    add_habit(folder)
    (folder / "habit" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load(folder)
