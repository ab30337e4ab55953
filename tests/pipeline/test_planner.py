"""The planner against diffusers' schedulers on the same noise, closed forms, and its own promises."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from fakes import (
    CENTRE,
    IDENTITY,
    NUMPY_2,
    OBSERVATION,
    UNITS,
    A,
    H,
    O,
    Stub,
    T,
    Uncalled,
    denoiser,
    ideal_denoiser,
    joined,
    noise_schedule,
    pinned,
    planner,
    quadratic,
    run_diffusers,
    seeded,
    value_network,
    zeros,
)

from vgp_lightning.pipeline.acceleration import accelerate_denoiser
from vgp_lightning.pipeline.guidance import predict_values, value_gradient
from vgp_lightning.pipeline.networks import make_denoiser, make_value_function
from vgp_lightning.pipeline.sampling import SAMPLERS, posterior_variance, spread_timesteps

# ---------------------------------------------------------------- the samplers


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [20, 5])
def test_ddim_is_the_one_of_diffusers_on_the_same_noise(prediction_type, steps):
    pipeline = planner(scheduler=noise_schedule(prediction_type), sampler="ddim")
    plan = pipeline(OBSERVATION, num_inference_steps=steps, generator=seeded(), return_candidates=True)
    reference = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    noise = torch.randn(1, 3, H, T, generator=seeded())
    expected = run_diffusers(reference, pipeline.unet, noise, steps)
    torch.testing.assert_close(joined(plan.candidates), expected, rtol=1e-3, atol=3e-4)  # float32 over 20 steps


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
def test_ddpm_is_the_one_of_diffusers_with_the_same_draws(prediction_type):
    pipeline = planner(scheduler=noise_schedule(prediction_type))
    plan = pipeline(OBSERVATION, generator=seeded(), return_candidates=True)
    generator = seeded()
    noise = torch.randn(1, 3, H, T, generator=generator)
    reference = DDPMScheduler.from_config(pipeline.scheduler.config)
    expected = run_diffusers(reference, pipeline.unet, noise, 20, generator)
    torch.testing.assert_close(joined(plan.candidates), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [20, 7, 5, 1])
def test_any_number_of_steps_ends_at_the_plan_that_the_network_is_sure_of(sampler, prediction_type, steps):
    scheduler = noise_schedule(prediction_type)
    clean = torch.linspace(-2.5, 2.5, T)[None, :, None]

    def sure(trajectories, timestep):  # what to predict if all data are the same plan
        alpha = scheduler.alphas_cumprod[timestep]
        noise = (trajectories - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return {
            "sample": clean.expand_as(trajectories),
            "epsilon": noise,
            "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,
        }[prediction_type]

    plan = planner(Stub(sure), scheduler=scheduler, sampler=sampler)(OBSERVATION, num_inference_steps=steps)
    expected = clean[0, :, 0].expand(1, H, T)
    torch.testing.assert_close(joined(plan)[:, 1:], expected[:, 1:], rtol=0, atol=2e-3)


def expected_moments(alphas, timesteps, mean, std, sampler):
    """Mean and variance of what the ideal denoiser's samples are: each step is linear, the noise is Gaussian.

    ddpm by the posterior's coefficients of Ho et al. 2020, eq. 7; ddim by Song et al. 2021, eq. 13, which moves
    x / sqrt(alpha) along a line in the noise level.
    """
    m, v = 0.0, 1.0
    for t, previous in zip(timesteps, [*timesteps[1:], None], strict=True):
        a, b = alphas[t], 1.0 if previous is None else alphas[previous]
        gain = std**2 * math.sqrt(a) / (a * std**2 + 1 - a)
        offset = mean * (1 - gain * math.sqrt(a))  # the denoiser: offset + gain * x
        if sampler == "ddpm":
            beta = 1 - a / b
            of_clean, of_noised = math.sqrt(b) * beta / (1 - a), math.sqrt(a / b) * (1 - b) / (1 - a)
            added = (1 - b) / (1 - a) * beta
        else:
            sigma, sigma_previous = math.sqrt(1 / a - 1), math.sqrt(1 / b - 1)
            slope = (sigma_previous - sigma) / sigma  # x' / sqrt(b) = x / sqrt(a) + slope * (x / sqrt(a) - clean)
            of_clean, of_noised, added = -math.sqrt(b) * slope, math.sqrt(b / a) * (1 + slope), 0.0
        m = of_clean * (offset + gain * m) + of_noised * m
        v = (of_clean * gain + of_noised) ** 2 * v + added
    return m, v


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [20, 7, 5])
def test_samples_of_a_gaussian_have_the_moments_of_the_exact_recursion(sampler, steps):
    scheduler, mean, std, count = noise_schedule(), 1.5, 0.6, 4000
    pipeline = planner(Stub(ideal_denoiser(scheduler, mean, std)), scheduler=scheduler, sampler=sampler)
    plan = pipeline(
        OBSERVATION, batch_size=count, num_inference_steps=steps, generator=seeded(), return_candidates=True
    )
    samples = joined(plan.candidates)[0, :, 1:].double()  # all entries are free and independent
    alphas = scheduler.alphas_cumprod.double().tolist()
    m, v = expected_moments(alphas, [round(20 - i * 20 / steps) - 1 for i in range(steps)], mean, std, sampler)
    # Five standard errors: sqrt(v / n) of a mean, v * sqrt(2 / n) of a variance.
    assert samples.mean().item() == pytest.approx(m, abs=5 * math.sqrt(v / samples.numel()))
    assert samples.var().item() == pytest.approx(v, abs=5 * v * math.sqrt(2 / samples.numel()))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_samples_of_a_gaussian_have_the_datas_moments_where_steps_are_many(sampler):
    scheduler, mean, std = noise_schedule(levels=200), 1.5, 0.6
    pipeline = planner(Stub(ideal_denoiser(scheduler, mean, std)), scheduler=scheduler, sampler=sampler)
    plan = pipeline(OBSERVATION, batch_size=1500, generator=seeded(), return_candidates=True)
    samples = joined(plan.candidates)[0, :, 1:]
    # 52,500 numbers: five standard errors of the mean are 0.013 and of the deviation 0.009; the steps' bias is 0.01.
    assert samples.mean().item() == pytest.approx(mean, abs=0.025)
    assert samples.std().item() == pytest.approx(std, abs=0.02)


def test_the_posterior_variance_is_that_of_diffusers():
    scheduler = noise_schedule()
    alphas = scheduler.alphas_cumprod.double().tolist()
    ours = [posterior_variance(alphas[t], alphas[t - 1] if t else 1.0) for t in range(20)]
    theirs = [scheduler._get_variance(t).item() for t in range(20)]  # not below 1e-20
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-6)
    assert ours[0] == 0


@pytest.mark.parametrize(("trained", "steps"), [(20, 20), (20, 10), (20, 7), (20, 5), (20, 1), (1000, 50)])
def test_the_noise_levels_are_diffusers_trailing_ones(trained, steps):
    scheduler = DDIMScheduler(trained, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    # 1e-9: diffusers' arange may run one past its end, to a level of -1.
    assert spread_timesteps(trained, steps) == [t for t in scheduler.timesteps.tolist() if t >= 0][:steps]


# ---------------------------------------------------------------- guidance


def before_denoising(n_guide_steps, **settings):
    """Return the trajectories before and after guidance at each noise level, noisiest first."""
    unet, after_step = Stub(lambda x, t: 0.1 * torch.ones_like(x)), []
    pipeline = planner(unet, Stub(quadratic), normalization=UNITS)
    pipeline(
        OBSERVATION,
        n_guide_steps=n_guide_steps,
        generator=seeded(),
        callback_on_step_end=lambda p, i, t, tensors: after_step.append(tensors["trajectories"][0].clone()),
        **settings,
    )
    normalised = (OBSERVATION - np.array(UNITS["shift"][A:])) / np.array(UNITS["scale"][A:])
    start = pinned(torch.randn(1, 3, H, T, generator=seeded())[0], normalised)
    return [start, *after_step[:-1]], unet.inputs, start[0, 0, A:]


@pytest.mark.parametrize("guide_scaling", ["variance", "std", "none"])
@pytest.mark.parametrize("count", [1, 3])
def test_guidance_moves_the_trajectory_by_the_closed_form(guide_scaling, count):
    scheduler = noise_schedule()
    befores, afters, observation = before_denoising(count, scale=0.05, guide_scaling=guide_scaling)
    for i, (before, after) in enumerate(zip(befores, afters, strict=True)):
        variance = scheduler._get_variance(19 - i).item()
        factor = {"variance": variance, "std": math.sqrt(variance), "none": 1.0}[guide_scaling]
        rate = 0.05 * factor * UNITS["return_scale"]
        expected = CENTRE + (1 - rate) ** count * (before - CENTRE)
        expected[:, 0, A:] = observation
        torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)


def test_pinned_entries_do_not_move_under_guidance():
    _, afters, observation = before_denoising(2, scale=0.1, guide_scaling="none")
    torch.testing.assert_close(afters[0][:, 0, A:], observation.expand(3, O))
    for after in afters:
        assert torch.equal(after[:, 0, A:], afters[0][:, 0, A:])


def test_guidance_stops_below_the_given_noise_level():
    befores, afters, _ = before_denoising(1, scale=0.1, guide_scaling="none", t_stopgrad=4)
    moved = [not torch.equal(before, after) for before, after in zip(befores, afters, strict=True)]
    assert moved == [timestep >= 4 for timestep in range(19, -1, -1)]


def test_the_gradient_of_the_network_is_its_finite_difference():
    network = value_network()
    trajectories = torch.randn(2, H, T, generator=seeded())
    direction = torch.randn(2, H, T, generator=seeded(1))
    step = 1e-2
    with torch.no_grad():
        high, low = (predict_values(network, trajectories + sign * step * direction, 7) for sign in (1, -1))
    along = (value_gradient(network, trajectories, 7) * direction).sum(dim=(1, 2))
    assert along.abs().min() > 1e-3
    torch.testing.assert_close(along, (high - low) / (2 * step), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_guidance_is_the_same_in_any_gradient_mode_and_leaves_no_gradients(mode):
    pipeline = planner(value_function=value_network())
    options = {"n_guide_steps": 2, "scale": 1.0, "guide_scaling": "none"}
    expected = pipeline(OBSERVATION, generator=seeded(), **options)
    unguided = pipeline(OBSERVATION, generator=seeded(), n_guide_steps=0)
    with mode():
        plan = pipeline(OBSERVATION, generator=seeded(), **options)
    torch.testing.assert_close(joined(plan), joined(expected), rtol=0, atol=0)
    assert not torch.allclose(joined(plan), joined(unguided), atol=1e-3)
    assert not joined(plan).requires_grad
    for network in (pipeline.unet, pipeline.value_function):
        assert all(parameter.grad is None for parameter in network.parameters())


# ---------------------------------------------------------------- ranking


def last_action(trajectories, timesteps):
    """The value is the plan's very last action, normalised."""
    return trajectories[:, :1, -1]


def test_the_plan_is_the_candidate_whose_clean_plan_has_the_highest_value():
    value_function = Stub(last_action)
    pipeline = planner(value_function=value_function, normalization=UNITS, n_guide_steps=0)
    plan = pipeline(np.stack([OBSERVATION, -OBSERVATION]), batch_size=6, generator=seeded(), return_candidates=True)
    candidates = plan.candidates
    assert candidates.values.unique().numel() == 12
    assert (candidates.values.diff(dim=1) < 0).all()
    last = (candidates.actions[:, :, -1, 0] - UNITS["shift"][0]) / UNITS["scale"][0]
    torch.testing.assert_close(
        candidates.values, last * UNITS["return_scale"] + UNITS["return_shift"], rtol=0, atol=1e-4
    )
    assert torch.equal(plan.values, candidates.values[:, 0])
    assert torch.equal(joined(plan), joined(candidates)[:, 0])
    (timesteps,) = value_function.timesteps  # asked once, at the end
    assert timesteps.tolist() == [0] * 12


def test_every_candidate_is_one_that_was_sampled():
    sampled = []
    pipeline = planner(value_function=Stub(last_action), n_guide_steps=0)
    plan = pipeline(
        OBSERVATION,
        generator=seeded(),
        return_candidates=True,
        callback_on_step_end=lambda p, i, t, tensors: sampled.append(tensors["trajectories"]),
    )
    assert len(sampled) == 20
    order = sampled[-1][0, :, -1, 0].argsort(descending=True)
    torch.testing.assert_close(joined(plan.candidates)[0], sampled[-1][0, order], rtol=0, atol=1e-6)


def test_without_a_value_function_values_are_nan_and_there_is_no_guidance():
    plan = planner(n_guide_steps=2)(OBSERVATION, generator=seeded())
    assert plan.values.isnan().all()
    torch.testing.assert_close(joined(plan), joined(planner()(OBSERVATION, n_guide_steps=0, generator=seeded())))


# ---------------------------------------------------------------- units, conditions, bounds


def test_a_network_that_predicts_zero_plans_the_shift():
    plan = planner(Stub(zeros), normalization=UNITS)(OBSERVATION)
    expected = torch.tensor(UNITS["shift"]).expand(1, H, T).clone()
    expected[0, 0, A:] = torch.tensor(OBSERVATION)
    torch.testing.assert_close(joined(plan), expected, rtol=0, atol=1e-6)


def test_the_network_sees_the_observation_normalised():
    unet = Stub(zeros)
    planner(unet, normalization=UNITS)(OBSERVATION)
    by_hand = [(0.3 - 1) / 3, (-0.2 - 2) / 0.5, (0.7 - 3) / 10]
    assert len(unet.inputs) == 20
    for trajectories in unet.inputs:
        torch.testing.assert_close(trajectories[:, 0, A:], torch.tensor([by_hand] * 3))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_conditions_hold_to_the_last_bit(sampler):
    observations = np.random.default_rng(0).normal(size=(4, O)) * 100
    goals = np.random.default_rng(1).normal(size=(4, O))
    waypoint = np.array([math.nan, 1 / 3, math.nan])
    pipeline = planner(value_function=value_network(), normalization=UNITS, sampler=sampler)
    plan = pipeline(
        observations, n_guide_steps=1, conditions={-1: goals, 3: waypoint}, generator=seeded(), return_candidates=True
    )
    seen = plan.candidates.observations  # (N, K, H, O)
    exact = [torch.tensor(numbers, dtype=torch.float32)[:, None].expand(4, 3, O) for numbers in (observations, goals)]
    assert torch.equal(seen[:, :, 0], exact[0])
    assert torch.equal(seen[:, :, -1], exact[1])
    assert torch.equal(seen[:, :, 3, 1], torch.full((4, 3), 1 / 3))
    assert seen[:, :, 3, [0, 2]].unique().numel() == 24  # the free dimensions differ
    assert seen.isfinite().all()


@NUMPY_2
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver", "unipc"])
@pytest.mark.parametrize("guide_on", ["noisy", "clean"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_conditions_hold_to_the_last_bit_however_a_plan_was_made(sampler, guide_on, strength):
    observations = np.random.default_rng(0).normal(size=(4, O)) * 100
    goals = np.random.default_rng(1).normal(size=(4, O)) / 3
    goals[1, 0] = goals[2] = math.nan  # free in one environment, or altogether
    waypoint = np.array([math.nan, 1 / 3, math.nan])
    pipeline = planner(value_function=Stub(quadratic), normalization=UNITS, sampler=sampler)
    plan = pipeline(
        observations,
        num_inference_steps=4,
        n_guide_steps=2,
        scale=0.05,
        guide_scaling="std",
        guide_on=guide_on,
        conditions={-1: goals, 3: waypoint},
        warm_start=np.random.default_rng(2).normal(size=(4, H, T)),
        warm_start_strength=strength,
        generator=seeded(),
        return_candidates=True,
    )
    for seen in (plan.observations[:, None], plan.candidates.observations):  # (N, 1 or K, H, O)
        for step, given in ((0, observations), (-1, goals), (3, np.tile(waypoint, (4, 1)))):
            given = torch.tensor(given, dtype=torch.float32)[:, None].expand_as(seen[:, :, step])
            held = given.isfinite()
            assert torch.equal(seen[:, :, step][held], given[held])
            free = seen[:, :, step][~held]
            assert free.isfinite().all()
            assert free.unique().numel() == free.numel()  # no two are alike, so nothing holds them


def test_the_network_sees_conditions_at_every_step():
    unet = Stub(zeros)
    planner(unet, normalization=UNITS)(OBSERVATION, conditions={-2: torch.tensor([4.0, math.nan, 13.0])})
    for trajectories in unet.inputs:
        torch.testing.assert_close(trajectories[:, -2, A], torch.full((3,), 1.0))
        torch.testing.assert_close(trajectories[:, -2, A + 2], torch.full((3,), 1.0))
    assert unet.inputs[0][:, -2, A + 1].unique().numel() == 3


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        ([-1.0, -2.0], [1.0, 2.0], [1.0, -2.0]),
        ([None, None], [1.0, None], [1.0, -9.0]),
        ([None, -3.0], [None, None], [9.0, -3.0]),
    ],
)
def test_actions_are_clipped_to_their_bounds_and_none_is_no_bound(low, high, expected):
    output = torch.tensor([9.0, -9.0, 9.0, 9.0, -9.0])[None, :, None]
    bounds = IDENTITY | {"action_low": low, "action_high": high}
    plan = planner(Stub(lambda x, t: output.expand_as(x)), normalization=bounds)(OBSERVATION)
    torch.testing.assert_close(plan.actions, torch.tensor(expected).expand(1, H, A))
    torch.testing.assert_close(plan.observations[0, 1:], torch.tensor([9.0, 9.0, -9.0]).expand(H - 1, O))


# ---------------------------------------------------------------- randomness and shapes


def test_the_narrowest_value_function_judges_a_single_plan():
    torch.manual_seed(0)
    pipeline = planner(value_function=make_value_function(T, H, [16, 64]), n_guide_steps=1)
    assert pipeline(OBSERVATION, batch_size=1).values.isfinite().all()


def test_a_seed_decides_the_plan():
    pipeline = planner()
    first, again, other = (joined(pipeline(OBSERVATION, generator=seeded(seed))) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first[:, 1:], other[:, 1:], atol=1e-3)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", None])
@pytest.mark.parametrize(("n_guide_steps", "tolerance"), [(0, 1e-6), (2, 5e-5)])
def test_a_plan_depends_on_its_own_generator_alone(sampler, n_guide_steps, tolerance):
    observations = np.random.default_rng(0).normal(size=(3, O))
    # A network of random weights amplifies the rounding of the gradient; as v its output moves the plan the least.
    scheduler = noise_schedule("v_prediction")
    pipeline = planner(value_function=value_network(), scheduler=scheduler, sampler=sampler)
    together = pipeline(observations, n_guide_steps=n_guide_steps, generator=[seeded(i) for i in range(3)])
    for i in range(3):
        alone = pipeline(observations[i], n_guide_steps=n_guide_steps, generator=seeded(i))
        torch.testing.assert_close(joined(together)[i], joined(alone)[0], rtol=0, atol=tolerance)
        torch.testing.assert_close(together.values[i], alone.values[0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("sampler", ["ddpm", None])
def test_the_generators_may_come_in_any_sequence(sampler):
    pipeline = planner(sampler=sampler)
    observations = np.stack([OBSERVATION, OBSERVATION])
    expected = joined(pipeline(observations, generator=[seeded(1), seeded(2)]))
    assert torch.equal(joined(pipeline(observations, generator=(seeded(1), seeded(2)))), expected)


def test_a_call_may_plan_fewer_steps_than_the_folders_agents_follow():
    pipeline = planner(replan_every=H)
    assert pipeline(OBSERVATION, planning_horizon=4).actions.shape == (1, 4, A)
    with pytest.raises(ValueError, match="replan_every is 8: a whole number between 0 and 4"):
        pipeline.resolve_settings(planning_horizon=4)


@pytest.mark.parametrize(("observations", "candidates"), [(1, 1), (1, 3), (4, 1), (4, 3)])
@pytest.mark.parametrize("guided", [True, False])
def test_plans_have_the_promised_shapes(observations, candidates, guided):
    pipeline = planner(value_function=value_network() if guided else None)
    plan = pipeline(np.zeros((observations, O)), batch_size=candidates, planning_horizon=4, return_candidates=True)
    assert plan.actions.shape == (observations, 4, A)
    assert plan.observations.shape == (observations, 4, O)
    assert plan.values.shape == (observations,)
    assert plan.candidates.actions.shape == (observations, candidates, 4, A)
    assert plan.candidates.observations.shape == (observations, candidates, 4, O)
    assert plan.candidates.values.shape == (observations, candidates)
    assert plan.candidates.candidates is None
    assert joined(plan).isfinite().all()
    assert plan.values.isnan().logical_not().all() == guided
    assert pipeline(np.zeros(O)).candidates is None


@pytest.mark.parametrize(
    "given",
    [OBSERVATION[None], OBSERVATION.astype(np.float32), torch.tensor(OBSERVATION), torch.tensor(OBSERVATION)[None]],
    ids=["one of a batch", "float32", "tensor", "tensor of a batch"],
)
def test_an_observation_may_come_in_any_form(given):
    pipeline = planner()
    expected = joined(pipeline(OBSERVATION, generator=seeded()))
    assert torch.equal(joined(pipeline(given, generator=seeded())), expected)


def test_temperature_scales_all_noise():
    inputs = {}
    for temperature in (1.0, 2.5):
        unet = Stub(zeros)  # so that whatever moves is noise
        planner(unet)(np.zeros(O), temperature=temperature, generator=seeded())
        inputs[temperature] = torch.stack(unet.inputs)
    # A step keeps part of its noise besides the fresh one, so all of it scales.
    torch.testing.assert_close(inputs[2.5], 2.5 * inputs[1.0], rtol=1e-4, atol=1e-5)
    assert (inputs[1.0][-1].abs() > 1e-3).any()


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_without_temperature_all_candidates_are_equal(sampler):
    plan = planner()(OBSERVATION, temperature=0.0, sampler=sampler, return_candidates=True)
    candidates = joined(plan.candidates)[0]
    torch.testing.assert_close(candidates, candidates[:1].expand_as(candidates), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- schedulers put in by the user


@NUMPY_2
@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, UniPCMultistepScheduler, DDIMScheduler])
@pytest.mark.parametrize("steps", [20, 5])
def test_a_scheduler_that_was_put_in_goes_before_the_folders_sampler(kind, steps):
    pipeline = planner(value_function=value_network(), sampler="ddpm", n_guide_steps=0)
    own = pipeline(OBSERVATION, batch_size=1, num_inference_steps=steps, generator=seeded())
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    assert pipeline.resolve_settings()["sampler"] is None
    plan = pipeline(OBSERVATION, batch_size=1, num_inference_steps=steps, generator=seeded())
    noise = torch.randn(1, 1, H, T, generator=seeded())
    expected = run_diffusers(kind.from_config(pipeline.scheduler.config), pipeline.unet, noise, steps)
    torch.testing.assert_close(joined(plan), expected[:, 0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(joined(plan), joined(own), atol=1e-3)
    guided = pipeline(OBSERVATION, n_guide_steps=2, num_inference_steps=steps, guide_on="clean", generator=seeded())
    assert joined(guided).isfinite().all()
    assert guided.values.isfinite().all()


def test_a_ddpm_scheduler_that_was_put_in_goes_before_the_folders_sampler_too(tmp_path):
    pipeline = planner(value_function=value_network(), sampler="ddim", num_inference_steps=5)
    other = DDPMScheduler.from_config(pipeline.scheduler.config, variance_type="fixed_large", clip_sample=True)
    pipeline.save_pretrained(tmp_path / "folder")
    loaded = type(pipeline).from_pretrained(tmp_path / "folder", scheduler=other)
    again = type(pipeline).from_pretrained(tmp_path / "folder")
    assert again.resolve_settings()["sampler"] == "ddim"
    again.scheduler = other
    for swapped in (loaded, again, copy.deepcopy(again)):
        assert swapped.resolve_settings()["sampler"] is None
        plan = swapped(OBSERVATION, batch_size=1, num_inference_steps=20, n_guide_steps=0, generator=seeded())
        generator = seeded()
        noise = torch.randn(1, 1, H, T, generator=generator)
        expected = run_diffusers(DDPMScheduler.from_config(other.config), swapped.unet, noise, 20, generator)
        torch.testing.assert_close(joined(plan), expected[:, 0], rtol=1e-4, atol=1e-4)
    assert copy.deepcopy(pipeline).resolve_settings()["sampler"] == "ddim"


def test_the_gradient_of_a_clean_plan_is_taken_where_its_conditions_hold():
    # The network says 5 everywhere. The objective wants each first observation near the one before it, so that the
    # second one moves by 0.1 x -2 (5 - first), of which the first is the present one and not the network's.
    def together(observations, actions):
        return -((observations[:, 1, 0] - observations[:, 0, 0]) ** 2)

    pipeline = planner(Stub(lambda x, t: torch.full_like(x, 5.0)), sampler="ddim", guide_on="clean")
    plan = pipeline(
        OBSERVATION,
        objectives=[(1.0, together)],
        num_inference_steps=1,
        n_guide_steps=1,
        guide_scaling="none",
        scale=0.1,
    )
    first = float(OBSERVATION[0])
    assert plan.observations[0, :2, 0].tolist() == pytest.approx([first, 5 - 0.2 * (5 - first)], rel=1e-5)


@NUMPY_2
def test_a_scheduler_whose_corrector_undoes_guidance_is_refused():
    pipeline = planner(Uncalled(), Uncalled(), n_guide_steps=1)
    config = pipeline.scheduler.config
    pipeline.scheduler = UniPCMultistepScheduler.from_config(config, timestep_spacing="trailing")
    with pytest.raises(ValueError, match=r"corrector of UniPC.* would undo .*guide_on=.clean."):
        pipeline(OBSERVATION, num_inference_steps=5)


def test_lcm_plans_if_its_original_steps_are_at_most_the_noise_levels_of_the_training():
    pipeline = planner(value_function=value_network(), n_guide_steps=1)
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config, original_inference_steps=20)
    visited = []
    plan = pipeline(
        OBSERVATION,
        num_inference_steps=5,
        generator=seeded(),
        callback_on_step_end=lambda planner, index, timestep, tensors: visited.append(timestep),
    )
    assert joined(plan).isfinite().all()
    assert visited == [19, 15, 11, 7, 3]
    # Between the steps x = sqrt(alpha) * clean + sqrt(1 - alpha) * noise holds, which conditions and guidance need.
    clean, generator, scheduler = torch.full((100_000,), 1.5), seeded(), pipeline.scheduler
    scheduler.set_timesteps(5)
    x = torch.randn(clean.shape, generator=generator)
    for timestep, following in pairwise(scheduler.timesteps.tolist()):
        x = scheduler.step(clean, timestep, x, generator=generator).prev_sample
        alpha = scheduler.alphas_cumprod[following].item()
        assert x.mean().item() == pytest.approx(1.5 * alpha**0.5, abs=0.02)
        assert x.var().item() == pytest.approx(1 - alpha, rel=0.03)


@NUMPY_2
def test_a_scheduler_can_plan_twice():
    pipeline = planner()
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    first, again = (joined(pipeline(OBSERVATION, num_inference_steps=5, generator=seeded())) for _ in range(2))
    assert torch.equal(first, again)


# ---------------------------------------------------------------- what is refused, before anything is sampled


@pytest.mark.parametrize(
    ("observation", "options", "words"),
    [
        (np.zeros(O + 1), {}, r"shape \(4,\).*\(3,\) or \(N, 3\)"),
        (np.zeros((2, 2, O)), {}, r"shape \(2, 2, 3\)"),
        (np.zeros((0, O)), {}, r"shape \(0, 3\)"),
        (np.array([0.0, math.nan, 0.0]), {}, "not finite"),
        (np.array([0.0, math.inf, 0.0]), {}, "not finite"),
        (OBSERVATION, {"batch_size": 2.5}, "batch_size is 2.5: a whole number between 1 and 65536"),
        (OBSERVATION, {"n_guide_steps": math.inf}, "n_guide_steps is inf: a whole number"),
        (OBSERVATION, {"planning_horizon": 8.0}, "planning_horizon is 8.0: a whole number"),
        (OBSERVATION, {"scale": math.inf}, "scale is inf: a finite number"),
        (OBSERVATION, {"temperature": math.nan}, "temperature is nan: a finite number"),
        (OBSERVATION, {"scale": "0.1"}, "scale is 0.1: a finite number"),
        (OBSERVATION, {"objectives": zeros}, "objectives is .*a list of pairs"),
        (OBSERVATION, {"conditions": {1.5: OBSERVATION}}, "step 1.5: a whole number"),
        (OBSERVATION, {"conditions": {H: OBSERVATION}}, "step 8: it must lie between 1 and 7"),
        (OBSERVATION, {"conditions": {-H - 1: OBSERVATION}}, "step -9: it must lie between 1 and 7, or -7 and -1"),
        (OBSERVATION, {"conditions": {0: OBSERVATION}}, "step 0: .*the observation itself"),
        (OBSERVATION, {"conditions": {3: OBSERVATION, -5: OBSERVATION}}, "step -5 meets another"),
        (OBSERVATION, {"conditions": {2: np.zeros(O + 1)}}, r"step 2 has shape \(4,\)"),
        (np.zeros((2, O)), {"conditions": {2: np.zeros((3, O))}}, r"step 2 has shape \(3, 3\).*\(2, 3\)"),
        (OBSERVATION, {"conditions": {2: np.full(O, math.inf)}}, "step 2 is not finite"),
        (OBSERVATION, {"planning_horizon": 7}, "planning_horizon 7.*multiple of 2"),
        (OBSERVATION, {"planning_horizon": 18}, "planning_horizon 18.*between 1 and 16"),
        (OBSERVATION, {"planning_horizon": 0}, "planning_horizon is 0"),
        (OBSERVATION, {"batch_size": 0}, "batch_size is 0"),
        (OBSERVATION, {"num_inference_steps": 21}, "num_inference_steps is 21.*between 1 and 20"),
        (OBSERVATION, {"num_inference_steps": 0}, "num_inference_steps is 0.*between 1 and 20"),
        (OBSERVATION, {"n_guide_steps": -1}, "n_guide_steps is -1"),
        (OBSERVATION, {"temperature": -0.1}, "temperature is -0.1"),
        (OBSERVATION, {"scale": math.nan}, "scale is nan"),
        (OBSERVATION, {"sampler": "euler"}, r"sampler 'euler' is unknown.*'ddpm', 'ddim'"),
        (OBSERVATION, {"guide_scaling": "gradient"}, "guide_scaling 'gradient' is unknown.*'variance', 'std', 'none'"),
        (OBSERVATION, {"generator": [seeded(), seeded()]}, "2 generators for 1 observation"),
        (OBSERVATION, {"guide_on": "dirty"}, "guide_on 'dirty' is unknown.*'noisy', 'clean'"),
        (OBSERVATION, {"max_grad_norm": -1.0}, "max_grad_norm is -1.0"),
        (OBSERVATION, {"max_grad_norm": math.nan}, "max_grad_norm is nan"),
        (OBSERVATION, {"t_stopgrad": -1}, "t_stopgrad is -1"),
        (OBSERVATION, {"warm_start_strength": 1.1}, "warm_start_strength is 1.1.*between 0 and 1"),
        (OBSERVATION, {"warm_start_strength": -0.1}, "warm_start_strength is -0.1.*between 0 and 1"),
        (OBSERVATION, {"warm_start": np.zeros((H, T))}, r"warm_start has shape \(8, 5\).*\(1, 8, 5\) are needed"),
        (OBSERVATION, {"warm_start": np.zeros((1, H - 1, T))}, r"warm_start has shape \(1, 7, 5\).*\(1, 8, 5\)"),
        (OBSERVATION, {"warm_start": np.zeros((1, H, A))}, r"warm_start has shape \(1, 8, 2\).*\(1, 8, 5\)"),
        (np.zeros((3, O)), {"warm_start": np.zeros((1, H, T))}, r"warm_start has shape \(1, 8, 5\).*\(3, 8, 5\)"),
        (OBSERVATION, {"warm_start": np.full((1, H, T), math.nan)}, "warm_start .*finite plans"),
        (OBSERVATION, {"warm_start": np.full((1, H, T), math.inf), "warm_start_strength": 0.5}, "warm_start .*finite"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_sampled(observation, options, words):
    pipeline = planner(Uncalled(), Uncalled())
    with pytest.raises(ValueError, match=words):
        pipeline(observation, **options)


def test_guidance_without_a_value_function_is_refused():
    with pytest.raises(ValueError, match=r"n_guide_steps is 1.*no value function.*--value"):
        planner(Uncalled())(OBSERVATION, n_guide_steps=1)


def test_temperature_is_refused_where_the_scheduler_draws_its_own_noise():
    with pytest.raises(ValueError, match=r"temperature is 0.5.*DDPMScheduler draws its own noise"):
        planner(Uncalled(), sampler=None)(OBSERVATION, temperature=0.5)


def test_a_scheduler_in_another_space_is_refused_by_name():
    pipeline = planner(Uncalled())
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    with pytest.raises(ValueError, match=r"EulerDiscreteScheduler.*use DDPM, DDIM, DPMSolverMultistep or UniPC"):
        pipeline(OBSERVATION)


def test_an_unknown_default_is_refused_where_the_planner_is_made():
    with pytest.raises(ValueError, match=r"unknown settings \['guidance'\]: choose from .*'n_guide_steps'"):
        planner(guidance=1)


@pytest.mark.parametrize(
    ("normalization", "words"),
    [
        (None, "normalization is missing"),
        (IDENTITY | {"shift": [0.0] * (T - 1)}, "4 shifts and 5 scales.*5 channels"),
        (IDENTITY | {"scale": [1.0] * (T + 1)}, "5 shifts and 6 scales.*5 channels"),
        (IDENTITY | {"action_low": [0.0] * (A + 1)}, "action_low"),
        ({name: value for name, value in IDENTITY.items() if name != "return_scale"}, "return_scale"),
    ],
)
def test_a_normalisation_that_does_not_fit_is_refused(normalization, words):
    with pytest.raises(ValueError, match=words):
        planner(Uncalled(), normalization=normalization)


def test_networks_of_different_channels_are_refused():
    with pytest.raises(ValueError, match="the value function has 6 channels, but the statistics have 5 dimensions"):
        planner(Uncalled(), Stub(last_action, channels=T + 1))


# ---------------------------------------------------------------- compiled


# torch's compiler looks at the gradients of all inputs, also of those that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_pipeline_plans_the_same_with_torchs_own_networks():
    pipeline = planner(value_function=value_network(), n_guide_steps=1, num_inference_steps=2)
    expected = pipeline(OBSERVATION, generator=seeded())
    pipeline.compile(backend="eager")
    assert all(not weight.requires_grad for weight in pipeline.unet.parameters())
    assert accelerate_denoiser(pipeline.unet, H) is None  # what is compiled is what the user wants to run
    plan = pipeline(OBSERVATION, generator=seeded())
    torch.testing.assert_close(joined(plan), joined(expected), rtol=1e-4, atol=1e-4)
    assert set(pipeline.unet.state_dict()) == set(denoiser().state_dict())


def test_a_pipeline_in_half_precision_plans_with_torchs_own_networks():
    pipeline = planner(value_function=value_network(), n_guide_steps=1, num_inference_steps=5)
    expected = pipeline(OBSERVATION, generator=seeded())
    pipeline.to(torch.bfloat16)
    assert accelerate_denoiser(pipeline.unet, H) is None
    plan = pipeline(OBSERVATION, generator=seeded())
    assert plan.actions.dtype == torch.float32
    torch.testing.assert_close(joined(plan), joined(expected), rtol=0.1, atol=0.3)


def write_weights(pipeline):
    with torch.inference_mode():
        for weight in pipeline.unet.parameters():
            weight.mul_(1.1)


def write_weights_by_data(pipeline):
    for weight in pipeline.value_function.parameters():
        weight.data.mul_(1.1)


def replace_network(pipeline):
    pipeline.unet = make_denoiser(T, H, [32, 64])


def change_defaults(pipeline):
    pipeline.planner["num_inference_steps"] = 3


def replace_scheduler(pipeline):
    pipeline.scheduler = noise_schedule(levels=10)


def write_schedule(pipeline):
    pipeline.scheduler.alphas_cumprod *= 0.9


def remove_the_value_function(pipeline):
    pipeline.value_function = None


def change_type(pipeline):
    pipeline.to(torch.bfloat16)


@pytest.mark.parametrize(
    "change",
    [
        *(write_weights, write_weights_by_data, replace_network, change_defaults, replace_scheduler, write_schedule),
        *(remove_the_value_function, change_type),
    ],
)
def test_a_call_sees_what_was_changed_since_the_last_one(change):
    def make():
        return planner(value_function=value_network(), n_guide_steps=1, num_inference_steps=2, scale=0.01)

    def change_it(pipeline):
        torch.manual_seed(2)
        change(pipeline)

    pipeline, fresh = make(), make()
    before = joined(pipeline(OBSERVATION, generator=seeded()))
    for one in (pipeline, fresh):
        change_it(one)
    plan, expected = (one(OBSERVATION, generator=seeded()) for one in (pipeline, fresh))
    assert not torch.equal(joined(plan), before)
    assert torch.equal(joined(plan), joined(expected))
    assert torch.equal(plan.values.nan_to_num(), expected.values.nan_to_num())


# ---------------------------------------------------------------- values that are no numbers


def nan_but_for(*candidates):
    """An objective that is the number of a candidate, and NaN but for some."""

    def objective(observations, actions):
        values = torch.full((len(actions),), math.nan)
        for one in candidates:
            values[one : one + 1] = float(one)
        return values + 0 * actions.sum((1, 2))

    return objective


def test_a_candidate_whose_value_is_nan_is_never_chosen_while_another_has_one():
    pipeline = planner()
    options = {"batch_size": 8, "n_guide_steps": 0, "return_candidates": True}
    drawn = pipeline(OBSERVATION, **options, generator=seeded())
    plan = pipeline(OBSERVATION, objectives=[(1.0, nan_but_for(2, 5))], **options, generator=seeded())
    assert plan.values.tolist() == [5.0]
    assert plan.candidates.values[0, :2].tolist() == [5.0, 2.0]
    assert plan.candidates.values[0, 2:].isnan().all()
    assert torch.equal(plan.actions[0], drawn.candidates.actions[0, 5])


def test_where_all_values_are_nan_the_observation_is_named():
    pipeline = planner()
    observations = np.stack([OBSERVATION, OBSERVATION])
    with pytest.raises(ValueError, match=r"none of the 3 candidates for observations \[1\] has a finite value"):
        pipeline(observations, objectives=[(1.0, nan_but_for(0, 1))], n_guide_steps=0)


# ---------------------------------------------------------------- compiled networks and other types


def make_backend():
    """A compiler as CUDA graphs make one: an output is overwritten as soon as the next compiled call begins."""
    living = []

    def backend(module, inputs):
        def run(*arguments):
            with torch.no_grad():
                arguments = [a.clone() if torch.is_tensor(a) and not a.requires_grad else a for a in arguments]
                for tensor in living:
                    tensor.fill_(math.nan)
            living.clear()
            outputs = tuple(output.clone() for output in module.forward(*arguments))
            living.extend(output.detach() for output in outputs)
            return outputs

        return run

    return backend


@NUMPY_2
# torch 2.13's dynamo looks at the gradient of what it is given, whatever it is.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": "unipc", "n_guide_steps": 0},
        {"sampler": "ddpm", "n_guide_steps": 2, "warm_start": np.zeros((1, H, T)), "warm_start_strength": 0.7},
        *(
            pytest.param(settings, marks=pytest.mark.slow)
            for settings in (
                {"sampler": "ddim"},
                {"sampler": "ddim", "guide_on": "clean"},
                {"sampler": "dpmsolver", "guide_on": "clean"},
                {"sampler": "unipc", "guide_on": "clean", "n_guide_steps": 2, "max_grad_norm": 1.0},
            )
        ),
    ],
    ids=lambda settings: "-".join(settings),
)
def test_a_compiled_networks_output_is_not_read_after_the_next_call_began(settings):
    settings = {"n_guide_steps": 1, "num_inference_steps": 3, "scale": 0.01} | settings
    plain = planner(value_function=value_network())(OBSERVATION, **settings, generator=seeded())
    torch.compiler.reset()
    pipeline = planner(value_function=value_network())
    pipeline.compile(backend=make_backend())
    plan = pipeline(OBSERVATION, **settings, generator=seeded())
    torch.testing.assert_close(joined(plan), joined(plain), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plan.values, plain.values, rtol=1e-4, atol=1e-4)


@NUMPY_2
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_plans_do_not_depend_on_the_default_type(sampler):
    options = {"sampler": sampler, "num_inference_steps": 3, "n_guide_steps": 1}
    plan = planner(value_function=value_network())(OBSERVATION, **options, generator=seeded())
    pipeline = planner(value_function=value_network())
    torch.set_default_dtype(torch.float64)
    try:
        again = pipeline(OBSERVATION, **options, generator=seeded())
    finally:
        torch.set_default_dtype(torch.float32)
    assert again.actions.dtype == torch.float32
    assert torch.equal(joined(again), joined(plan))


def test_trajectories_are_what_a_warm_start_takes():
    pipeline = planner(normalization=UNITS)
    plan = pipeline(np.stack([OBSERVATION, OBSERVATION]), return_candidates=True)
    assert torch.equal(plan.trajectories, joined(plan))
    assert plan.candidates.trajectories.shape == (2, 3, H, T)
    pipeline(np.stack([OBSERVATION, OBSERVATION]), warm_start=plan.trajectories, warm_start_strength=0.5)
