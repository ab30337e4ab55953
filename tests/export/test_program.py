"""A planner, or a habit, as a program: it plans as the pipeline does on the same noise, or it is not written."""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet1DModel
from fakes import (
    UNITS,
    A,
    H,
    O,
    T,
    add_critic,
    add_habit,
    contents,
    denoiser,
    noise_schedule,
    planner,
    seeded,
    value_network,
    write_tiny,
)
from torch import nn

from vgp_lightning.agent.origin import hash_configs, hash_weights
from vgp_lightning.cli import main
from vgp_lightning.export import program_folder
from vgp_lightning.export.folder import update_defaults, write_critic, write_habit
from vgp_lightning.export.program import PlanProgram
from vgp_lightning.export.program_folder import make_program
from vgp_lightning.export.program_formats import PACKAGES, load, trace, write
from vgp_lightning.export.program_habit import HabitProgram
from vgp_lightning.export.program_layers import as_products
from vgp_lightning.pipeline.habit import Habit
from vgp_lightning.pipeline.networks import make_denoiser, make_value_function
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

BOUNDED = UNITS | {"action_low": [-0.2, None], "action_high": [0.6, 0.1]}
EXAMPLES = Path(__file__).parents[2] / "docs" / "deploy"


def made(prediction_type="sample", value=True, warm=False, **settings):
    pipeline = planner(
        denoiser(),
        value_network() if value is True else value or None,
        noise_schedule(prediction_type),
        BOUNDED,
        **({"sampler": "ddim", "num_inference_steps": 4, "n_guide_steps": 0, "batch_size": 3} | settings),
    )
    return pipeline, PlanProgram(pipeline, pipeline.resolve_settings(), warm).eval()


@torch.no_grad()
def check_same(pipeline, program, seed=3):
    inputs = program.draw_inputs(seed)
    plan = pipeline(
        inputs["observation"],
        warm_start=inputs["previous"][None] if "previous" in inputs else None,
        generator=seeded(seed),
        batch_size=program.inputs["noise"][1],
    )
    actions, observations, value = program(*inputs.values())
    torch.testing.assert_close(actions, plan.actions[0], rtol=0, atol=3e-4)  # 1.3e-4 on a processor without AVX-512
    torch.testing.assert_close(observations, plan.observations[0], rtol=0, atol=1e-3)  # of scales up to 10
    torch.testing.assert_close(value, plan.values, rtol=0, atol=1e-3, equal_nan=True)
    low = pipeline.normalization["action_low"][0]
    assert (actions[:, 0] >= low).all()
    return actions


# ---------------------------------------------------------------- what it computes


@pytest.mark.parametrize("candidates", [1, 5])
@pytest.mark.parametrize("value", [True, False])
def test_a_program_plans_as_the_pipeline_does_on_the_same_noise(candidates, value):
    pipeline, program = made(value=value, batch_size=candidates)
    assert program.inputs == {"observation": (O,), "noise": (1, candidates if value else 1, H, T)}
    assert program.outputs == {"actions": (H, A), "observations": (H, O), "value": (1,)}
    check_same(pipeline, program)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_what_the_denoiser_predicts_and_the_sampler_are_inside(prediction_type, sampler):
    pipeline, program = made(prediction_type, sampler=sampler, temperature=0.5)
    assert program.inputs["noise"][0] == (1 if sampler == "ddim" else 4)  # the last step of ddpm adds none
    check_same(pipeline, program)


GUIDED = {"n_guide_steps": 1, "scale": 0.05, "num_inference_steps": 2}
GUIDANCE = (
    {"guide_on": "noisy"},
    {"guide_on": "clean", "n_guide_steps": 2},
    {"max_grad_norm": 0.01, "guide_scaling": "std", "scale": 1.0},
    {"sampler": "ddpm", "t_stopgrad": 8},
)


@pytest.mark.parametrize("settings", GUIDANCE)
def test_guidance_is_inside(settings):
    pipeline, program = made(**GUIDED | settings)
    unguided = made(**GUIDED | settings | {"n_guide_steps": 0})[1]
    actions = check_same(pipeline, program)
    assert (actions - unguided(*program.draw_inputs(3).values())[0]).abs().max() > 1e-4


@pytest.mark.parametrize("warm", [False, True])
def test_a_stride_is_inside(warm):
    torch.manual_seed(0)
    networks = make_denoiser(2 * A + O, H // 2, [16, 64]), make_value_function(2 * A + O, H // 2, [16, 64])
    pipeline = planner(
        *networks,
        noise_schedule(),
        BOUNDED | {"stride": 2},
        **{"sampler": "ddim", "num_inference_steps": 2, "n_guide_steps": 1, "warm_start_strength": 0.5},
    )
    program = PlanProgram(pipeline, pipeline.resolve_settings(), warm).eval()
    assert program.inputs["noise"] == (1, 3, H // 2, 2 * A + O)
    assert program.outputs == {"actions": (H, A), "observations": (H, O), "value": (1,)}
    check_same(pipeline, program)
    check_traced(program, tuple(program.draw_inputs(0).values()))


def check_traced(module, inputs):
    """Trace a module, and look for what is not an operation of torch, and for time embeddings, evaluated beforehand."""
    traced = trace(module, inputs)
    assert {node.op for node in traced.graph.nodes} == {"placeholder", "call_function", "output"}
    operations = {str(node.target) for node in traced.graph.nodes}
    assert not operations & {"aten.sin.default", "aten.cos.default", "aten.exp.default"}
    assert "aten.addmm.default" in operations
    torch.testing.assert_close(traced.module()(*inputs), module(*inputs), rtol=0, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("choice", [{"rank_by": "critic"}, {"rank_by": "critic", "choice_temperature": 0.5}])
def test_a_critic_and_the_mean_that_it_weighs_are_inside(tmp_path, choice, value):
    folder = write_tiny(tmp_path / "planner", guided=value, batch_size=5, n_guide_steps=0, **choice)
    critic = add_critic(folder)
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    program = PlanProgram(pipeline, pipeline.resolve_settings()).eval()
    plan, actions = check_same(pipeline, program), program(*program.draw_inputs(3).values())[0]
    assert torch.equal(plan, actions)
    with torch.no_grad():  # else nothing would be inside
        for weight in critic.parameters():
            weight.mul_(-3)
    write_critic(critic, folder)
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    other = PlanProgram(pipeline, pipeline.resolve_settings()).eval()
    assert not torch.equal(check_same(pipeline, other), actions)


def test_the_mean_of_all_candidates_is_inside():
    actions = [check_same(*made(batch_size=5, choice_temperature=temperature)) for temperature in (0, 0.5, 1e6)]
    assert not torch.equal(actions[0], actions[1])
    assert not torch.equal(actions[1], actions[2])


def test_a_guide_step_is_traced_as_plain_operations_its_gradient_included():
    smaller = UNet1DModel.from_config(dict(value_network().config) | {"layers_per_block": 0})
    _, program = made(value=smaller, **GUIDED)

    class GuideStep(nn.Module):
        def forward(self, trajectories, conditions):
            return program.guidance.climb(trajectories, conditions, program.stepper.levels[0], "noisy")

    inputs = [torch.randn(1, 3, H, T, generator=seeded()), torch.full((1, 1, H, T), np.nan)]
    assert (GuideStep()(*inputs) - inputs[0]).abs().max() > 1e-4
    check_traced(GuideStep(), inputs)


@pytest.mark.slow
@pytest.mark.parametrize("settings", GUIDANCE)
def test_a_guided_program_is_traced_as_plain_operations(settings):
    _, program = made(**GUIDED | settings)
    with torch.no_grad():
        check_traced(program, list(program.draw_inputs(3).values()))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_warm_start_takes_the_last_plan_and_the_last_steps(sampler):
    pipeline, program = made(warm=True, warm_start_strength=0.5, sampler=sampler)
    assert program.inputs["previous"] == (H, T)
    assert len(program.stepper.levels) == 2
    check_same(pipeline, program)


@pytest.mark.parametrize("horizon", [4, 8, 24])
@pytest.mark.parametrize("make", [make_denoiser, make_value_function])
def test_products_compute_what_diffusers_layers_do(horizon, make):
    network = make(T, horizon, [16, 32, 64])
    x = torch.randn(3, T, horizon, generator=seeded())
    timesteps = torch.full((3,), 7)
    with torch.no_grad():
        expected, products = network(x, timesteps).sample, as_products(network, horizon)(x, timesteps).sample
    torch.testing.assert_close(products, expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- in a folder


@pytest.fixture
def untranslated(monkeypatch):
    """Programs are run as they are and stand as one word in their files: writing them takes seconds."""
    programs = {}

    def write(program, kind, path, inputs, outputs):
        path.write_bytes(b"a program")
        programs[path] = program

    def load(path, kind):
        def run(inputs):
            with torch.no_grad():
                return [output.numpy() for output in programs[path](*inputs.values())]

        return run

    monkeypatch.setattr(program_folder, "trace", lambda module, inputs: module)
    monkeypatch.setattr(program_folder, "write", write)
    monkeypatch.setattr(program_folder, "load", load)


def test_the_note_says_what_a_program_takes_and_was_made_from(tmp_path, untranslated):
    folder = write_tiny(tmp_path / "planner", guided=False, task={"env_id": "Hopper-v5"})
    assert make_program(str(folder), "onnx", num_inference_steps=1) == folder / "program" / "plan.onnx"
    note = json.loads((folder / "program" / "plan.onnx.json").read_text())
    assert note["inputs"] == {
        "observation": {"shape": [2], "dtype": "float32", "units": "the environment's"},
        "noise": {
            "shape": [1, 1, 8, 3],
            "dtype": "float32",
            "units": "standard normal: what sampling begins from, then what each step adds",
        },
    }
    assert {name: tensor["shape"] for name, tensor in note["outputs"].items()} == {
        "actions": [8, 1],
        "observations": [8, 2],
        "value": [1],
    }
    assert (note["program"], note["env_id"], note["difference_from_pipeline"] < 1e-4) == (
        "plan.onnx",
        "Hopper-v5",
        True,
    )
    assert note["settings"]["num_inference_steps"] == 1
    assert "replan_every" not in note["settings"]
    assert list(note["weights_sha256"]) == ["unet/diffusion_pytorch_model.safetensors"]
    assert all(len(digest) == 64 for digest in [*note["weights_sha256"].values(), note["program_sha256"]])
    assert {"vgp_lightning", "torch", *PACKAGES["onnx"]} <= set(note["versions"])


def test_a_planner_with_warm_starts_gets_a_program_for_them_too(tmp_path, untranslated):
    folder = write_tiny(tmp_path / "planner", warm_start_strength=0.5, n_guide_steps=0)
    make_program(str(folder), "onnx")
    names = ["plan.onnx", "plan.onnx.json", "warm.onnx", "warm.onnx.json"]
    assert sorted(path.name for path in (folder / "program").iterdir()) == names
    make_program(str(folder), "onnx", warm_start_strength=1)
    assert sorted(path.name for path in (folder / "program").iterdir()) == names[:2]


def test_a_folder_with_a_program_is_loaded_as_before(tmp_path, untranslated, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = write_tiny(tmp_path / "planner", n_guide_steps=0)

    def plan():
        options = {"custom_pipeline": str(folder), "trust_remote_code": True, "low_cpu_mem_usage": False}
        pipelines = (
            ValueGuidedPlannerPipeline.from_pretrained(folder),
            DiffusionPipeline.from_pretrained(folder, **options),
        )
        return [pipeline([0.5, -0.5], generator=seeded()).actions.tolist() for pipeline in pipelines]

    before, identity = plan(), (hash_weights(folder), hash_configs(folder))
    make_program(str(folder), "onnx")
    assert plan() == before
    assert (hash_weights(folder), hash_configs(folder)) == identity  # the planner's evaluations are still its own
    assert before[0] == before[1]


def test_new_defaults_leave_a_program_and_say_that_it_is_of_other_settings(tmp_path, untranslated, capfd):
    folder = write_tiny(tmp_path / "planner", n_guide_steps=0)
    make_program(str(folder), "onnx")
    before = contents(folder / "program")
    update_defaults(folder, {"replan_every": 2})
    assert "was made for" not in capfd.readouterr().err
    update_defaults(folder, {"batch_size": 4})
    assert contents(folder / "program") == before
    assert f"(batch_size 2, now 4) and stays as it is. To renew it: vgp program {folder} onnx" in capfd.readouterr().err


# ---------------------------------------------------------------- what is refused, and nothing is written then


def refused(folder, words, *options, capfd):
    before = contents(folder)
    with pytest.raises(SystemExit):
        main(["program", str(folder), *options])
    message = capfd.readouterr().err
    assert words in message
    assert contents(folder) == before


def test_a_program_that_does_not_agree_with_the_pipeline_is_not_written(tmp_path, untranslated, monkeypatch, capfd):
    folder = write_tiny(tmp_path / "planner", n_guide_steps=0)
    load = program_folder.load

    def load_wrong(path, kind):
        run = load(path, kind)
        return lambda inputs: [run(inputs)[0] + np.float32(3e-4), *run(inputs)[1:]]

    monkeypatch.setattr(program_folder, "load", load_wrong)
    refused(folder, "it differs by 0.0003 standard deviations", "onnx", capfd=capfd)
    monkeypatch.setattr(program_folder, "load", lambda *_: nan_plan)
    refused(folder, "it differs by inf", "onnx", capfd=capfd)


def nan_plan(inputs):
    return [np.full((8, dimensions), np.nan) for dimensions in (1, 2)] + [np.full(1, np.nan)]


@pytest.mark.parametrize("package", PACKAGES["onnx"])
@pytest.mark.parametrize("options", [(), ("--habit", "true")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, capfd, package, options):
    folder = write_tiny(tmp_path / "planner")
    for name in PACKAGES["onnx"]:
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    words = f'needs {package}, which is not installed: pip install "vgp_lightning[program]"'
    refused(folder, words, "onnx", *options, capfd=capfd)


def test_a_new_critic_leaves_a_program_of_the_old_one_and_says_so(tmp_path, untranslated, capfd):
    folder = write_tiny(tmp_path / "planner", guided=False, rank_by="critic")
    critic = add_critic(folder)
    make_program(str(folder), "onnx")
    assert "critic/" in " ".join(json.loads((folder / "program" / "plan.onnx.json").read_text())["weights_sha256"])
    write_critic(critic, folder)
    assert capfd.readouterr().err == ""
    with torch.no_grad():
        next(critic.parameters()).add_(1)
    write_critic(critic, folder)
    words = "plan.onnx was made from another critic than the folder's new one and stays as it is. To renew it: vgp"
    assert words in capfd.readouterr().err


def test_a_missing_compiler_is_named(tmp_path, monkeypatch, capfd):
    folder = write_tiny(tmp_path / "planner")
    monkeypatch.setenv("CXX", "no-such-compiler")
    refused(folder, "needs a C++ compiler, and there is no no-such-compiler: install one", "pt2", capfd=capfd)


@pytest.mark.parametrize("sampler", ["dpmsolver", "unipc", "null"])
def test_a_sampler_that_is_python_code_is_refused(tmp_path, untranslated, capfd, sampler):
    folder = write_tiny(tmp_path / "planner")
    words = "which is Python code of diffusers: choose one of ['ddim', 'ddpm'], such as --sampler ddim"
    refused(folder, words, "onnx", "--sampler", sampler, capfd=capfd)


def test_what_is_no_pipeline_folder_is_refused(tmp_path, capfd):
    refused(tmp_path, "is no pipeline folder, it has no model_index.json; make one: vgp export", "onnx", capfd=capfd)


# ---------------------------------------------------------------- the formats themselves


def example():
    spec = importlib.util.spec_from_file_location("plan", EXAMPLES / "plan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with ONNX programs, of few operations: of a planner that a critic weighs, and of its habit."""
    few = {"guided": False, "batch_size": 3, "rank_by": "critic", "choice_temperature": 0.5, "num_inference_steps": 1}
    folder = write_tiny(tmp_path_factory.mktemp("exported") / "planner", **few)
    add_critic(folder)
    add_habit(folder)
    make_program(str(folder), "onnx")
    make_program(str(folder), "onnx", habit=True)
    return folder


@pytest.fixture(scope="module")
def exported_warm(tmp_path_factory):
    """A folder with the ONNX programs of a planner with a value function and warm starts; it takes half a minute."""
    folder = write_tiny(tmp_path_factory.mktemp("exported") / "planner", n_guide_steps=0, warm_start_strength=0.5)
    make_program(str(folder), "onnx")
    return folder


def check_onnx(folder, name="plan"):
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    inputs = PlanProgram(pipeline, pipeline.resolve_settings(), name == "warm").draw_inputs(11)
    plan = pipeline(
        inputs["observation"],
        generator=seeded(11),
        warm_start=inputs["previous"][None] if name == "warm" else None,
    )
    outputs = example().Program(folder / "program" / f"{name}.onnx")(**inputs)
    np.testing.assert_allclose(outputs["actions"], plan.actions[0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(outputs["observations"], plan.observations[0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(outputs["value"], plan.values, rtol=0, atol=1e-4)


def test_onnxruntime_plans_as_the_pipeline_does(exported):
    check_onnx(exported)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plan", "warm"])
def test_onnxruntime_selects_the_best_plan_and_starts_warm_as_the_pipeline_does(exported_warm, name):
    check_onnx(exported_warm, name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"noise": np.zeros((1, 4, 8, 3))},
            r"noise has shape \(1, 4, 8, 3\), but plan.onnx was made for \(1, 3, 8, 3\)",
        ),
        ({"noise": np.zeros((1, 1, 16, 3))}, "vgp program FOLDER onnx --batch_size K --planning_horizon H"),
        ({"observation": np.zeros((5, 2))}, r"observation has shape \(5, 2\), but plan.onnx was made for \(2,\)$"),
        ({"observation": np.array([np.nan, 0])}, "observation is not finite"),
        ({"warm_start": np.zeros((8, 3))}, r"inputs \['observation', 'noise'\] are needed"),
    ],
)
def test_a_program_asked_for_what_it_was_not_made_for_says_what_makes_another(exported, change, words):
    program = example().Program(exported / "program" / "plan.onnx")
    inputs = {"observation": np.zeros(2), "noise": np.zeros((1, 3, 8, 3))}
    assert program(**inputs)["actions"].shape == (8, 1)
    with pytest.raises(ValueError, match=words):
        program(**inputs | change)


def test_a_program_beside_another_note_is_refused(exported, tmp_path):
    for path in (exported / "program").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "plan.onnx").write_bytes((exported / "program" / "habit.onnx").read_bytes())
    with pytest.raises(ValueError, match="is not the program that its note describes"):
        example().Program(tmp_path / "plan.onnx")


# ---------------------------------------------------------------- a habit


def test_onnxruntime_answers_as_a_habit_does_in_the_environment_s_units_within_the_bounds(tmp_path):
    torch.manual_seed(0)
    habit = Habit(UNITS | {"action_low": [0.45, None], "action_high": [None, -0.5]}, 3, [16, 16]).requires_grad_(False)
    program, path = HabitProgram(habit).eval(), tmp_path / "habit.onnx"
    write(trace(program, list(program.draw_inputs(0).values())), "onnx", path, program.inputs, list(program.outputs))
    run = load(path, "onnx")
    observations = torch.tensor([1.0, 2, 3]) + torch.tensor([3, 0.5, 10]) * 3 * torch.randn(20, O, generator=seeded())
    answers = np.stack([run({"observation": observation})[0] for observation in observations])
    assert answers.shape == (20, 3, A)
    np.testing.assert_allclose(answers, habit.answer(observations), rtol=0, atol=1e-5)
    assert (answers[..., 0].min(), answers[..., 1].max()) == (np.float32(0.45), np.float32(-0.5))


def test_the_example_runs_a_habit_s_program_by_the_note_beside_it(exported):
    program = example().Program(exported / "program" / "habit.onnx")
    answer = ValueGuidedPlannerPipeline.from_pretrained(exported).load_habit().answer(np.array([0.5, -0.5]))[0]
    np.testing.assert_allclose(program(observation=[0.5, -0.5])["actions"], answer, rtol=0, atol=1e-6)
    note = program.note
    assert note["inputs"] == {"observation": {"shape": [2], "dtype": "float32", "units": "the environment's"}}
    assert {name: tensor["shape"] for name, tensor in note["outputs"].items()} == {"actions": [4, 1]}
    assert 0 <= note["difference_from_habit"] < 1e-4
    weights = "habit/diffusion_pytorch_model.safetensors"
    assert note["weights_sha256"] == {weights: hashlib.sha256((exported / weights).read_bytes()).hexdigest()}
    assert note["settings"]["num_inference_steps"] == 1  # of its teacher
    with pytest.raises(ValueError, match=r"inputs \['observation'\] are needed"):
        program(observation=np.zeros(2), noise=np.zeros((1, 2, 8, 3)))


def test_a_habit_s_program_lies_beside_those_of_the_planner(tmp_path, untranslated, capfd):
    folder = write_tiny(tmp_path / "planner", n_guide_steps=0, warm_start_strength=0.5)
    add_habit(folder)
    make_program(str(folder), "onnx")
    before = contents(folder)
    main(["program", str(folder), "onnx", "--habit", "true"])
    assert capfd.readouterr().out == f"written to {folder / 'program' / 'habit.onnx'}\n"
    assert contents(folder).keys() - before.keys() == {"program/habit.onnx", "program/habit.onnx.json"}
    assert before.items() <= contents(folder).items()


def test_a_new_habit_leaves_the_program_of_the_old_one_and_says_so(tmp_path, untranslated, capfd):
    folder = write_tiny(tmp_path / "planner", n_guide_steps=0)
    habit = add_habit(folder)
    make_program(str(folder), "onnx", habit=True)
    before = contents(folder / "program")
    write_habit(habit, folder)
    assert "was made from" not in capfd.readouterr().err
    add_habit(folder)
    words = (
        f"was made from another habit than the folder's new one and stays as it is. To renew it: vgp program {folder}"
    )
    assert f"habit.onnx {words} onnx --habit true\n" in capfd.readouterr().err
    assert contents(folder / "program") == before


@pytest.mark.parametrize("off", [3e-4, np.nan])
def test_a_program_that_does_not_agree_with_the_habit_is_not_written(tmp_path, untranslated, monkeypatch, capfd, off):
    folder = write_tiny(tmp_path / "planner")
    add_habit(folder)
    right = program_folder.load
    monkeypatch.setattr(
        program_folder, "load", lambda *where: lambda inputs: [right(*where)(inputs)[0] + np.float32(off)]
    )
    words = f"does not agree with the habit: on the same inputs it differs by {off:.2g} standard deviations"
    refused(folder, words, "onnx", "--habit", "true", capfd=capfd)


def test_a_folder_without_a_habit_is_refused_with_the_command_that_makes_one(tmp_path, capfd):
    folder = write_tiny(tmp_path / "planner")
    words = f"{folder} has no habit: make one by vgp distill {folder}"
    refused(folder, words, "onnx", "--habit", "true", capfd=capfd)


def test_settings_of_planning_are_refused_for_a_habit(tmp_path, capfd):
    folder = write_tiny(tmp_path / "planner")
    words = "scale is 0.5, but a habit's program does not plan: leave it out, or distill a habit with it, vgp distill "
    refused(folder, f"{words}{folder} --scale 0.5", "onnx", "--habit", "true", "--scale", "0.5", capfd=capfd)


# ---------------------------------------------------------------- elsewhere


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=500, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_guidance_is_inside_an_onnx_program(tmp_path):
    folder = write_tiny(tmp_path / "planner", n_guide_steps=1, scale=1, sampler="ddpm")
    make_program(str(folder), "onnx")  # which refuses one that does not agree with the pipeline
    note = json.loads((folder / "program" / "plan.onnx.json").read_text())
    assert (note["settings"]["n_guide_steps"], note["inputs"]["noise"]["shape"]) == (1, [2, 2, 8, 3])


@pytest.mark.slow
def test_the_example_plans_where_there_is_no_torch(exported_warm, tmp_path):
    exported = exported_warm
    run(sys.executable, "-m", "venv", tmp_path / "robot")
    python = tmp_path / "robot" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "numpy", "onnxruntime")
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = "import importlib.util as i; print([i.find_spec(name) is not None for name in ('torch', 'onnxruntime')])"
    assert run(python, "-c", found, env=alone, cwd=tmp_path) == "[False, True]\n"
    assert run(python, EXAMPLES / "plan.py", exported / "program", env=alone, cwd=tmp_path).count(" ms\n") == 5
    # The same plan as the pipeline's.
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(exported)
    inputs = PlanProgram(pipeline, pipeline.resolve_settings()).draw_inputs(5)
    np.savez(tmp_path / "inputs.npz", **inputs)
    script = f"""
import json, sys; sys.path.insert(0, {str(EXAMPLES)!r})
import numpy, plan
outputs = plan.Program({str(exported / "program" / "plan.onnx")!r})(**numpy.load("inputs.npz"))
print(json.dumps(outputs["actions"].tolist()))
"""
    actions = json.loads(run(python, "-c", script, env=alone, cwd=tmp_path))
    expected = pipeline(inputs["observation"], generator=seeded(5)).actions[0]
    np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_example_in_cpp_is_built_and_plans(tmp_path):
    folder = write_tiny(tmp_path / "planner", n_guide_steps=0)
    make_program(str(folder), "pt2")
    torch_folder = Path(torch.__file__).parent
    (build,) = re.findall(r"^(g\+\+ .*?)^\./plan", (EXAMPLES.parent / "deploy.md").read_text(), flags=re.M | re.S)
    build = build.replace("docs/deploy", str(EXAMPLES)).replace("\\\n", " ")
    run("bash", "-c", build, cwd=tmp_path, env=os.environ | {"TORCH": str(torch_folder)})
    assert run(tmp_path / "plan", folder / "program" / "plan.pt2").count(" ms\n") == 5


@pytest.mark.slow
def test_a_habit_is_compiled_too(tmp_path):
    folder = write_tiny(tmp_path / "planner")
    habit = add_habit(folder)
    path = make_program(str(folder), "pt2", habit=True)
    observation = torch.tensor([0.5, -0.5])
    (actions,) = load(path, "pt2")({"observation": observation})
    np.testing.assert_allclose(actions, habit.answer(observation)[0], rtol=0, atol=1e-5)
