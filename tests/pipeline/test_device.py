"""Planning on a device that is not the CPU: nothing is left behind on the host, and each wait for it is listed."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from fake_device import DEVICE, fake_device, move
from fakes import NUMPY_2, OBSERVATION, UNITS, A, H, O, T, denoiser, planner, value_network

from vgp_lightning.pipeline.sampling import SAMPLERS

pytestmark = NUMPY_2

# What a call waits for, with the reason, and how often at most. None of it is in the sampling loop, but for UniPC's.
ALLOWED = {
    ("copy to device", "frame.py:<genexpr>"): 4,  # the statistics go there once for each pipeline and device
    ("copy to device", "planner.py:__call__"): 1,  # the observation and the conditions come from the host
    ("copy to device", "denoising.py:place_warm_start"): 1,  # so does a warm start that is given as an array
    # Whether the plans are finite and there is a candidate to choose, in one number: whoever asks for a plan reads it
    # next, and would wait then.
    ("read", "outcome.py:refuse_unsound"): 1,
}


# diffusers' UniPC makes the coefficients of each step as tensors on the device: at most so many copies a step.
UNIPC = {("copy to device", "sampling.py:step"): 5}


def on_the_device(**settings):
    return planner(move(denoiser()), move(value_network()), normalization=UNITS, **settings)


def call(pipeline, observation=OBSERVATION, **options):
    allowed = dict(ALLOWED)
    if options.get("sampler") == "unipc":
        allowed |= {where: count * options["num_inference_steps"] for where, count in UNIPC.items()}
    with fake_device() as device:
        plan = pipeline(observation, **options)
    assert plan.actions.device == plan.observations.device == plan.values.device == DEVICE
    assert plan.actions.shape[1:] == (H, A)
    assert {where: count for where, count in device.waits.items() if count > allowed.get(where, 0)} == {}
    return device.waits


def speed(observations, actions):
    return -observations[:, :, 0].square().sum(dim=1) + actions.sum(dim=(1, 2))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "options",
    [
        {"n_guide_steps": 0},
        {"n_guide_steps": 2},
        {"n_guide_steps": 1, "guide_on": "clean", "max_grad_norm": 1.0, "guide_scaling": "std"},
        {"n_guide_steps": 1, "objectives": [(0.5, speed)]},
        {"conditions": {-1: np.array([np.nan, 1.0, 2.0]), 3: OBSERVATION}, "temperature": 0.5},
        {"warm_start": np.zeros((1, H, T), np.float32), "warm_start_strength": 0.5},
        {"return_candidates": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_a_call_leaves_nothing_on_the_host_and_waits_for_what_is_listed_alone(sampler, options):
    call(on_the_device(), sampler=sampler, num_inference_steps=2, **options)


@pytest.mark.parametrize("kind", [DDIMScheduler, DPMSolverMultistepScheduler])
def test_a_scheduler_of_the_users_plans_there_too(kind):
    pipeline = on_the_device()
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    call(pipeline, num_inference_steps=2)


@pytest.mark.parametrize("steps", [2, 5])
def test_more_denoising_steps_wait_no_more_often(steps):
    waits = call(on_the_device(), np.zeros((5, O)), num_inference_steps=steps, n_guide_steps=2, sampler="ddpm")
    assert sum(waits.values()) == 6


def test_the_statistics_go_there_once():
    pipeline = on_the_device()
    assert ("copy to device", "frame.py:<genexpr>") in call(pipeline, n_guide_steps=1, num_inference_steps=2)
    assert ("copy to device", "frame.py:<genexpr>") not in call(pipeline, n_guide_steps=1, num_inference_steps=2)


def test_a_learned_value_that_was_made_before_the_move_is_used_there():
    pipeline, other = planner(denoiser(), value_network(), normalization=UNITS), planner(value_function=value_network())
    objectives = [(1.0, pipeline.learned_value), (0.5, other.learned_value)]
    for network in (pipeline.unet, pipeline.value_function, other.value_function):
        move(network)
    with fake_device():
        plan = pipeline(OBSERVATION, objectives=objectives, n_guide_steps=1, guide_on="clean", num_inference_steps=2)
    assert plan.values.device == DEVICE


def test_the_stand_in_notes_reads_and_copies_and_refuses_mixed_devices():
    with fake_device() as device:
        there = torch.zeros(3, device=DEVICE)
        there.sum().item()
        there.cpu()
        torch.ones(3).to(DEVICE)
        torch.ones(3).to(DEVICE, non_blocking=True)
        torch.tensor([1.0], device=DEVICE)
        there.unique()
        there[there > 0] = there
        there[there > 0] = 1.0
        assert there.isfinite().all()
        assert not there.isnan().any()
        with pytest.raises(RuntimeError, match="device"):
            there + torch.ones(3)
    assert (
        sorted(kind for kind, _ in device.waits.elements()) == ["copy to device"] * 2 + ["copy to host"] + ["read"] * 5
    )
