"""The samplers by name against diffusers' own on the same noise, and plans that begin from plans."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from fakes import (
    OBSERVATION,
    UNITS,
    A,
    H,
    Stub,
    T,
    ideal_denoiser,
    joined,
    noise_schedule,
    pinned,
    planner,
    run_diffusers,
    seeded,
    value_network,
    zeros,
)

from vgp_lightning.pipeline.sampling import SAMPLERS, join_prediction, split_prediction, spread_timesteps

# diffusers 0.42.1 makes the sigmas of both solvers by np.array(tensor), which numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SOLVERS = {"dpmsolver": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}
REFERENCES = SOLVERS | {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}
TYPES = ["sample", "epsilon", "v_prediction"]


def reference(pipeline, sampler):
    return REFERENCES[sampler].from_config(pipeline.scheduler.config, timestep_spacing="trailing")


def first_noise(count=1, candidates=3):
    return torch.randn(count, candidates, H, T, generator=seeded())


# ---------------------------------------------------------------- predictions


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("timestep", [0, 7, 19])
def test_what_a_denoiser_says_is_taken_apart_and_put_together_as_diffusers_defines_it(prediction_type, timestep):
    scheduler = noise_schedule()
    clean, noise = (torch.randn(2, 3, H, T, generator=seeded(seed)) for seed in (1, 2))
    level = torch.tensor([timestep])
    noised = scheduler.add_noise(clean, noise, level)
    velocity = scheduler.get_velocity(clean, noise, level)
    output = {"sample": clean, "epsilon": noise, "v_prediction": velocity}[prediction_type]
    alpha = scheduler.alphas_cumprod[timestep].item()
    parts = split_prediction(output, noised, alpha, prediction_type)
    # What is not said itself is divided by sqrt(alpha) or sqrt(1 - alpha), which lose digits at the ends.
    tolerance = 1e-5 / math.sqrt(alpha) / math.sqrt(1 - alpha)
    torch.testing.assert_close(parts, (clean, noise), rtol=0, atol=tolerance)
    again = join_prediction(clean, noised, alpha, prediction_type)
    torch.testing.assert_close(again, output, rtol=0, atol=tolerance)


# ---------------------------------------------------------------- solvers by name


@pytest.mark.parametrize("sampler", SOLVERS)
@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("steps", [20, 5, 3, 1])
def test_a_solver_is_the_one_of_diffusers_on_the_same_noise(sampler, prediction_type, steps):
    pipeline = planner(scheduler=noise_schedule(prediction_type), sampler=sampler)
    plan = pipeline(OBSERVATION, num_inference_steps=steps, generator=seeded(), return_candidates=True)
    expected = run_diffusers(reference(pipeline, sampler), pipeline.unet, first_noise(), steps)
    assert expected.isfinite().all()
    torch.testing.assert_close(joined(plan.candidates), expected, rtol=1e-3, atol=3e-4)  # float32 over 20 steps


def test_the_samplers_differ():
    pipeline = planner(scheduler=noise_schedule("v_prediction"))
    plans = [
        joined(pipeline(OBSERVATION, sampler=name, num_inference_steps=5, generator=seeded())) for name in SAMPLERS
    ]
    for i, plan in enumerate(plans):
        assert plan.isfinite().all()
        assert all((plan - other).abs().max() > 1e-3 for other in plans[:i])


@pytest.mark.parametrize("sampler", [*SOLVERS, "ddim"])
def test_temperature_is_the_factor_of_the_only_noise_that_they_draw(sampler):
    pipeline = planner(scheduler=noise_schedule("v_prediction"), sampler=sampler, num_inference_steps=5)
    plan = pipeline(OBSERVATION, temperature=0.3, generator=seeded(), return_candidates=True)
    expected = run_diffusers(reference(pipeline, sampler), pipeline.unet, 0.3 * first_noise(), 5)
    torch.testing.assert_close(joined(plan.candidates), expected, rtol=1e-4, atol=1e-4)
    cold = pipeline(OBSERVATION, temperature=0.0, return_candidates=True)
    candidates = joined(cold.candidates)[0]
    torch.testing.assert_close(candidates, candidates[:1].expand_as(candidates), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampler", SOLVERS)
@pytest.mark.parametrize("steps", [20, 7])
def test_a_solvers_samples_of_a_gaussian_have_nearly_its_moments(sampler, steps):
    scheduler, mean, std = noise_schedule(), 1.5, 0.6
    pipeline = planner(Stub(ideal_denoiser(scheduler, mean, std)), scheduler=scheduler, sampler=sampler)
    plan = pipeline(OBSERVATION, batch_size=2000, num_inference_steps=steps, generator=seeded(), return_candidates=True)
    samples = joined(plan.candidates)[0, :, 1:]
    # 70,000 numbers: five standard errors of the mean are 0.011, of the deviation 0.008; the rest is the steps' bias.
    assert samples.mean().item() == pytest.approx(mean, abs=0.04)
    assert samples.std().item() == pytest.approx(std, abs=0.06)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("trained", "steps"), [(20, 20), (20, 13), (50, 12), (50, 29)])
def test_every_sampler_visits_the_same_levels(sampler, trained, steps):
    visited = []
    pipeline = planner(Stub(zeros), scheduler=noise_schedule(levels=trained), sampler=sampler)
    plan = pipeline(
        OBSERVATION,
        num_inference_steps=steps,
        callback_on_step_end=lambda p, i, timestep, tensors: visited.append((i, timestep)),
    )
    assert joined(plan).isfinite().all()
    assert len(visited) == steps
    # diffusers rounds a half up or down by an error of float64: one level of difference is no fault.
    spread = spread_timesteps(trained, steps)
    assert all(abs(timestep - expected) <= 1 for (_, timestep), expected in zip(visited, spread, strict=True))
    assert [timestep for _, timestep in visited] == [int(timestep) for timestep in pipeline.unet.timesteps]


@pytest.mark.parametrize("sampler", SOLVERS)
def test_a_solver_takes_the_noise_schedule_however_the_scheduler_was_made(sampler):
    by_position = DDPMScheduler(20, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False)
    options = {"sampler": sampler, "num_inference_steps": 5}
    expected = planner(scheduler=noise_schedule(), **options)(OBSERVATION, generator=seeded())
    plan = planner(scheduler=by_position, **options)(OBSERVATION, generator=seeded())
    assert torch.equal(joined(plan), joined(expected))


@pytest.mark.parametrize("sampler", [*SOLVERS, "ddpm"])
def test_a_schedule_that_begins_with_noise_alone_is_sampled(sampler):
    for levels in (20, 50):
        scheduler = DDPMScheduler(
            levels, beta_schedule="linear", prediction_type="sample", rescale_betas_zero_snr=True, clip_sample=False
        )
        plan = planner(scheduler=scheduler, sampler=sampler, num_inference_steps=levels)(
            OBSERVATION, generator=seeded()
        )
        assert joined(plan).isfinite().all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_that_is_asked_for_goes_before_a_scheduler_that_was_put_in(sampler):
    pipeline = planner(scheduler=noise_schedule("v_prediction"), num_inference_steps=5)
    expected = joined(pipeline(OBSERVATION, sampler=sampler, generator=seeded()))
    for kind in (DDIMScheduler, DPMSolverMultistepScheduler):
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, timestep_spacing="leading")
        assert torch.equal(joined(pipeline(OBSERVATION, sampler=sampler, generator=seeded())), expected)


def test_a_solver_that_draws_noise_and_was_put_in_draws_it_from_the_generator():
    pipeline = planner(scheduler=noise_schedule("v_prediction"), num_inference_steps=5)
    options = {"timestep_spacing": "trailing", "algorithm_type": "sde-dpmsolver++"}
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, **options)
    plan = pipeline(OBSERVATION, generator=seeded(), return_candidates=True)
    generator = seeded()
    noise = torch.randn(1, 3, H, T, generator=generator)
    solver = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    expected = run_diffusers(solver, pipeline.unet, noise, 5, generator)
    torch.testing.assert_close(joined(plan.candidates), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_a_plan_leaves_no_trace_in_the_next_one(sampler):
    pipeline = planner(value_function=value_network(), sampler=sampler, num_inference_steps=5)
    before = joined(pipeline(OBSERVATION, generator=seeded()))
    pipeline(-OBSERVATION, warm_start=np.zeros((1, H, T)), warm_start_strength=0.4)
    assert torch.equal(joined(pipeline(OBSERVATION, generator=seeded())), before)


# ---------------------------------------------------------------- warm starts


def some_plans(count=1):
    """Plans in the units of UNITS."""
    normalised = torch.randn(count, H, T, generator=seeded(9))
    return normalised * torch.tensor(UNITS["scale"]) + torch.tensor(UNITS["shift"])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [{"warm_start_strength": 1.0}, {"warm_start_strength": 0.9}, {}])
def test_a_warm_start_of_all_steps_is_a_cold_start(sampler, strength):
    pipeline = planner(value_function=value_network(), normalization=UNITS, sampler=sampler, num_inference_steps=3)
    cold = pipeline(OBSERVATION, generator=seeded())
    plan = pipeline(OBSERVATION, warm_start=some_plans(), generator=seeded(), **strength)
    assert torch.equal(joined(plan), joined(cold))
    assert torch.equal(plan.values, cold.values)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("strength", "timesteps"), [(0.8, [15, 11, 7, 3]), (0.4, [7, 3]), (0.2, [3]), (0.1, [3]), (0.0, [3])]
)
def test_a_warm_start_takes_the_last_steps_from_the_plan_noised_to_their_level(sampler, strength, timesteps):
    unet, plans = Stub(zeros), some_plans(2)
    observations = np.stack([OBSERVATION, -OBSERVATION])
    pipeline = planner(unet, normalization=UNITS, sampler=sampler, num_inference_steps=5)
    pipeline(observations, warm_start=plans, warm_start_strength=strength, generator=seeded())
    assert [int(timestep) for timestep in unet.timesteps] == timesteps
    normalised = (plans - torch.tensor(UNITS["shift"])) / torch.tensor(UNITS["scale"])
    alpha = pipeline.scheduler.alphas_cumprod[timesteps[0]]
    expected = alpha.sqrt() * normalised[:, None] + (1 - alpha).sqrt() * first_noise(2)
    pins = (torch.tensor(observations) - torch.tensor(UNITS["shift"])[A:]) / torch.tensor(UNITS["scale"])[A:]
    expected[:, :, 0, A:] = pins[:, None].float()
    torch.testing.assert_close(unet.inputs[0].view(2, 3, H, T), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction_type", TYPES)
def test_a_warm_start_is_diffusers_begun_at_that_level(sampler, prediction_type):
    steps, kept = (20, 6) if sampler == "ddpm" else (5, 3)  # diffusers' own DDPM is right at all levels only
    pipeline = planner(scheduler=noise_schedule(prediction_type), sampler=sampler, num_inference_steps=steps)
    start = torch.randn(1, H, T, generator=seeded(9))
    plan = pipeline(
        OBSERVATION,
        warm_start=start.numpy(),
        warm_start_strength=kept / steps,
        generator=seeded(),
        return_candidates=True,
    )
    generator, scheduler = seeded(), reference(pipeline, sampler)
    scheduler.set_timesteps(steps)
    remaining = scheduler.timesteps[-kept:]
    noise = torch.randn(1, 3, H, T, generator=generator)
    trajectories = pinned(scheduler.add_noise(start[:, None].expand_as(noise), noise, remaining[:1]))
    if sampler in SOLVERS:
        scheduler.set_begin_index(steps - kept)
    options = {"generator": generator} if sampler == "ddpm" else {}
    for timestep in remaining:
        with torch.no_grad():
            output = pipeline.unet(trajectories[0].transpose(1, 2), timestep).sample.transpose(1, 2)[None]
        trajectories = pinned(scheduler.step(output, timestep, trajectories, **options).prev_sample)
    torch.testing.assert_close(joined(plan.candidates), trajectories, rtol=1e-4, atol=1e-4)
    cold = pipeline(OBSERVATION, generator=seeded(), return_candidates=True)
    assert (joined(cold.candidates) - trajectories).abs().max() > 1e-2


@pytest.mark.parametrize("kind", SOLVERS.values())
def test_a_scheduler_that_was_put_in_begins_from_a_plan_too(kind):
    pipeline = planner(scheduler=noise_schedule("v_prediction"), num_inference_steps=5)
    options = {"warm_start": np.ones((1, H, T)), "warm_start_strength": 0.6}
    (name,) = (name for name in SOLVERS if SOLVERS[name] is kind)
    expected = pipeline(OBSERVATION, sampler=name, generator=seeded(), **options)
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    for _ in range(2):  # and it forgets where it began
        assert torch.equal(joined(pipeline(OBSERVATION, generator=seeded(), **options)), joined(expected))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [0.2, 0.4, 0.8])
def test_without_noise_a_denoiser_without_error_keeps_the_plan(sampler, strength):
    scheduler, plans = noise_schedule(), some_plans()
    plans[:, 0, A:] = torch.tensor(OBSERVATION)
    exact = Stub(lambda trajectories, timestep: trajectories / scheduler.alphas_cumprod[timestep].sqrt())
    pipeline = planner(exact, scheduler=scheduler, normalization=UNITS, sampler=sampler, num_inference_steps=5)
    plan = pipeline(OBSERVATION, warm_start=plans, warm_start_strength=strength, temperature=0.0)
    # Within float32 of the largest number, about 30.
    torch.testing.assert_close(joined(plan), plans, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_less_is_denoised_the_more_of_the_plan_remains(sampler):
    scheduler, start = noise_schedule(), np.full((1, H, T), 3.0)
    pipeline = planner(
        Stub(ideal_denoiser(scheduler, 0.0, 1.0)), scheduler=scheduler, sampler=sampler, num_inference_steps=5
    )

    def distance(strength):
        plan = pipeline(
            OBSERVATION,
            batch_size=500,
            warm_start=start,
            warm_start_strength=strength,
            generator=seeded(),
            return_candidates=True,
        )
        return (3.0 - joined(plan.candidates)[:, :, 1:].mean()).item()

    distances = [distance(strength) for strength in (0.2, 0.4, 0.6, 0.8, 1.0)]
    assert distances[0] < 0.5
    assert all(after > before + 0.1 for before, after in pairwise(distances))
