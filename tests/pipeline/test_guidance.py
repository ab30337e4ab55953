"""Guidance against closed forms on every sampler, against a posterior that is known, and objectives of a user's own."""

import json
import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.experimental import ValueGuidedRLPipeline
from fakes import (
    CENTRE,
    IDENTITY,
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
    seeded,
    zeros,
)

from vgp_lightning.pipeline.frame import Frame
from vgp_lightning.pipeline.guidance import clip_norm, guide_factor, total_gradient
from vgp_lightning.pipeline.networks import make_denoiser, make_value_function
from vgp_lightning.pipeline.sampling import SAMPLERS
from vgp_lightning.pipeline.stock import StockEnvironment

# diffusers 0.42.1 makes the sigmas of both solvers by np.array(tensor), which numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

STEPS, TIMESTEPS = 5, [19, 15, 11, 7, 3]
SCALINGS = ["variance", "std", "none", "stock"]
SHIFT, SCALE = torch.tensor(UNITS["shift"]), torch.tensor(UNITS["scale"])
NORMALISED = (torch.tensor(OBSERVATION).float() - SHIFT[A:]) / SCALE[A:]


def smooth_value_network():
    """One whose groups are of eight numbers at its end: with two, random weights make cliffs that amplify rounding."""
    torch.manual_seed(1)
    return make_value_function(T, H, [16, 256])


def factor(scaling, variance):
    """The four factors by hand."""
    if scaling == "stock":
        return math.exp(0.5 * math.sqrt(variance))
    return {"variance": variance, "std": math.sqrt(variance), "none": 1.0}[scaling]


def variance_of(guide_on, timestep):
    """Of the next sample, by diffusers, for five steps; of the clean plan, were plans standard normal."""
    scheduler = DDPMScheduler.from_config(noise_schedule().config, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    if guide_on == "noisy":
        return scheduler._get_variance(timestep).item()
    return 1 - scheduler.alphas_cumprod[timestep].item()


def record(value=quadratic, **options):
    """Return the noise, the network's inputs, the samples after each step, and the value function."""
    unet, value_function, samples = Stub(lambda x, t: 0.1 + 0.2 * x), Stub(value), []
    pipeline = planner(unet, value_function, normalization=UNITS, num_inference_steps=STEPS)
    pipeline(
        OBSERVATION,
        generator=seeded(),
        callback_on_step_end=lambda p, i, t, tensors: samples.append(tensors["trajectories"][0].clone()),
        **options,
    )
    start = pinned(torch.randn(1, 3, H, T, generator=seeded())[0], NORMALISED)
    return start, unet.inputs, samples, value_function


def climbed(trajectories, rate, count):
    """Where ``count`` steps of that rate up the quadratic lead, the observation staying."""
    return pinned(CENTRE + (1 - rate) ** count * (trajectories - CENTRE), NORMALISED)


# ---------------------------------------------------------------- closed forms, on every sampler


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("count", "scale"), [(1, 0.05), (3, 0.05), (3, -0.05)])
def test_the_noisy_sample_moves_by_the_closed_form_before_it_is_denoised(sampler, scaling, count, scale):
    start, inputs, samples, _ = record(sampler=sampler, guide_scaling=scaling, n_guide_steps=count, scale=scale)
    for timestep, before, after in zip(TIMESTEPS, [start, *samples], inputs, strict=False):
        rate = scale * factor(scaling, variance_of("noisy", timestep)) * UNITS["return_scale"]
        torch.testing.assert_close(after, climbed(before, rate, count), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guide_on", ["noisy", "clean"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("count", "scale"), [(1, 0.05), (3, -0.05)])
def test_a_guided_step_is_the_one_by_hand(guide_on, sampler, scaling, count, scale):
    start, _, samples, _ = record(
        sampler=sampler, guide_on=guide_on, guide_scaling=scaling, n_guide_steps=count, scale=scale
    )
    rate = scale * factor(scaling, variance_of(guide_on, 19)) * UNITS["return_scale"]
    noisy = climbed(start, rate, count) if guide_on == "noisy" else start
    clean = 0.1 + 0.2 * noisy
    if guide_on == "clean":
        clean = climbed(clean, rate, count)
    a, b = noise_schedule().alphas_cumprod[[19, 15]].double().tolist()
    if sampler == "ddpm":  # Ho et al. 2020, eq. 7
        generator = seeded()
        _, fresh = (torch.randn(1, 3, H, T, generator=generator)[0] for _ in range(2))
        expected = math.sqrt(b) * (1 - a / b) / (1 - a) * clean + math.sqrt(a / b) * (1 - b) / (1 - a) * noisy
        expected = expected + math.sqrt(variance_of("noisy", 19)) * fresh
    else:  # a solver's first step is of first order, which is DDIM's
        noise = (noisy - math.sqrt(a) * clean) / math.sqrt(1 - a)
        expected = math.sqrt(b) * clean + math.sqrt(1 - b) * noise
    torch.testing.assert_close(samples[0], pinned(expected, NORMALISED), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_clean_plan_of_the_last_step_is_the_guided_one(sampler):
    # All samplers end at the clean plan, so all end at what guidance made of it.
    _, inputs, samples, _ = record(sampler=sampler, guide_on="clean", guide_scaling="none", n_guide_steps=2, scale=0.05)
    expected = climbed(0.1 + 0.2 * inputs[-1], 0.05 * UNITS["return_scale"], 2)
    torch.testing.assert_close(samples[-1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_clean_guidance_is_the_same_whatever_the_network_predicts(sampler, prediction_type):
    def plan(kind):
        schedule = {"num_train_timesteps": 20, "beta_schedule": "linear", "beta_end": 0.3, "clip_sample": False}
        scheduler = DDPMScheduler(**schedule, prediction_type=kind)

        def predict(x, timestep):
            alpha = scheduler.alphas_cumprod[timestep]
            clean = 0.1 + 0.2 * x
            noise = (x - alpha.sqrt() * clean) / (1 - alpha).sqrt()
            velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
            return {"sample": clean, "epsilon": noise, "v_prediction": velocity}[kind]

        pipeline = planner(Stub(predict), Stub(quadratic), scheduler, sampler=sampler, num_inference_steps=STEPS)
        options = {"guide_on": "clean", "guide_scaling": "std", "n_guide_steps": 2, "scale": 0.1}
        return joined(pipeline(OBSERVATION, generator=seeded(), **options))

    torch.testing.assert_close(plan(prediction_type), plan("sample"), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("options", "guided"),
    [
        ({"guide_scaling": "none"}, TIMESTEPS),
        ({"guide_scaling": "stock"}, TIMESTEPS),
        ({"guide_scaling": "std"}, TIMESTEPS[:-1]),  # the last step leads to the clean plan: its variance is 0
        ({"guide_scaling": "variance"}, TIMESTEPS[:-1]),
        ({"guide_scaling": "none", "t_stopgrad": 8}, [19, 15, 11]),
        ({"guide_scaling": "none", "t_stopgrad": 7}, [19, 15, 11, 7]),
        ({"guide_scaling": "none", "t_stopgrad": 20}, []),
        ({"guide_on": "clean"}, TIMESTEPS),
        ({"guide_on": "clean", "t_stopgrad": 8}, [19, 15, 11]),
        ({"guide_scaling": "none", "scale": 0.0}, []),
        ({"guide_on": "clean", "scale": 0.0}, []),
        ({"guide_scaling": "none", "n_guide_steps": 0}, []),
    ],
)
def test_the_value_function_is_asked_where_guidance_is_due_and_once_for_the_ranking(sampler, options, guided):
    *_, value_function = record(sampler=sampler, **{"n_guide_steps": 2, "scale": 0.05} | options)
    asked = [timesteps.unique().item() for timesteps in value_function.timesteps]
    clean = options.get("guide_on") == "clean"
    assert asked == [0 if clean else timestep for timestep in guided for _ in range(2)] + [0]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guide_on", ["noisy", "clean"])
def test_noise_levels_below_the_given_one_are_not_guided(sampler, guide_on):
    options = {"sampler": sampler, "guide_on": guide_on, "guide_scaling": "none", "n_guide_steps": 1, "scale": 0.1}
    plain, stopped = (record(**options | {"t_stopgrad": stop})[1:3] for stop in (0, 16))
    assert torch.equal(plain[1][0], stopped[1][0])  # the first level is guided in both
    assert not torch.allclose(plain[1][1], stopped[1][1], atol=1e-3)


@pytest.mark.parametrize("guide_on", ["noisy", "clean"])
def test_a_negative_scale_descends(guide_on):
    pipeline = planner(Stub(lambda x, t: 0.5 * x), Stub(quadratic))

    def value(scale):
        plan = pipeline(
            OBSERVATION,
            n_guide_steps=1,
            scale=scale,
            guide_on=guide_on,
            generator=seeded(),
            return_candidates=True,
        )
        return plan.candidates.values.mean().item()

    assert value(-0.1) < value(0) < value(0.1)


# ---------------------------------------------------------------- the limit of a gradient's length


def test_a_long_gradient_is_shortened_plan_by_plan_and_a_short_one_left_alone():
    gradient = torch.randn(3, H, T, generator=seeded()) * torch.tensor([0.01, 1.0, 100.0])[:, None, None]
    clipped = clip_norm(gradient, 2.0)
    assert torch.equal(clipped[0], gradient[0])
    for short, long in zip(clipped[1:], gradient[1:], strict=True):
        assert short.norm().item() == pytest.approx(2.0, rel=1e-5)
        torch.testing.assert_close(short / short.norm(), long / long.norm())
    assert torch.equal(clip_norm(gradient, None), gradient)


@pytest.mark.parametrize("limit", [0.0, math.inf])
def test_the_ends_of_the_limit_mean_no_guidance_and_no_limit(limit):
    gradient = torch.stack([torch.zeros(H, T), torch.ones(H, T)])
    torch.testing.assert_close(clip_norm(gradient, limit), gradient if limit else torch.zeros_like(gradient))


def free(gradient):
    """Return the gradient (B, H, T) without what the observation pins."""
    gradient = gradient.clone()
    gradient[:, 0, A:] = 0
    return gradient


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_limit_holds_before_the_scale_and_the_factor(sampler):
    start, *_ = record(n_guide_steps=0)
    # What is pinned does not count; one of three is longer.
    limit = UNITS["return_scale"] * free(CENTRE - start).flatten(1).norm(dim=1).median().item()
    start, inputs, samples, _ = record(
        sampler=sampler, guide_scaling="std", n_guide_steps=1, scale=0.05, max_grad_norm=limit
    )
    shortened = []
    for timestep, before, after in zip(TIMESTEPS, [start, *samples], inputs, strict=False):
        gradient = UNITS["return_scale"] * free(CENTRE - before)
        norms = gradient.flatten(1).norm(dim=1)
        shortened += (norms > limit).tolist()
        gradient = gradient * (limit / norms).clamp(max=1)[:, None, None]
        moved = before + 0.05 * math.sqrt(variance_of("noisy", timestep)) * gradient
        torch.testing.assert_close(after, pinned(moved, NORMALISED), rtol=1e-4, atol=1e-4)
    assert {True, False} == set(shortened)


# ---------------------------------------------------------------- a posterior that is known


MEAN, STD = 0.5, 0.7  # of the data, in every entry
CURVATURE, BEST = 2.0, -1.0  # J = -CURVATURE / 2 * |actions - BEST|^2
POSTERIOR_VARIANCE = 1 / (1 / STD**2 + CURVATURE)
POSTERIOR_MEAN = POSTERIOR_VARIANCE * (MEAN / STD**2 + CURVATURE * BEST)


def denoiser_of_a_gaussian(alpha):
    """E[clean | x] = offset + gain * x, and the variance of clean given x."""
    gain = STD**2 * math.sqrt(alpha) / (alpha * STD**2 + 1 - alpha)
    return MEAN * (1 - gain * math.sqrt(alpha)), gain, STD**2 * (1 - alpha) / (alpha * STD**2 + 1 - alpha)


def exact_value(scheduler):
    """log E[exp J(clean) | x], but for a constant: a Gaussian integral."""

    def value(trajectories, timesteps):
        offset, gain, variance = denoiser_of_a_gaussian(scheduler.alphas_cumprod[timesteps[0]].item())
        distance = offset + gain * trajectories[:, :A] - BEST
        return (-0.5 * CURVATURE / (1 + CURVATURE * variance) * distance**2).sum(dim=(1, 2))[:, None]

    return value


def guided_moments(levels):
    """Mean and variance of guided DDPM in exact arithmetic: guidance, denoiser and step are linear."""
    alphas = noise_schedule(levels=levels).alphas_cumprod.double().tolist()
    m, v = 0.0, 1.0
    for a, b in zip(alphas[::-1], [*alphas[-2::-1], 1.0], strict=True):
        offset, gain, variance = denoiser_of_a_gaussian(a)
        added = (1 - b) / (1 - a) * (1 - a / b)
        pull = added * gain * CURVATURE / (1 + CURVATURE * variance)
        slope, constant = 1 - pull * gain, pull * (BEST - offset)  # guidance: constant + slope * x
        m, v = constant + slope * m, slope**2 * v
        of_clean, of_noised = math.sqrt(b) * (1 - a / b) / (1 - a), math.sqrt(a / b) * (1 - b) / (1 - a)
        m = of_clean * offset + (of_clean * gain + of_noised) * m
        v = (of_clean * gain + of_noised) ** 2 * v + added
    return m, v


def sample_guided(levels, sampler, scale):
    """Return the guided and the free entries of 1500 plans."""
    scheduler = noise_schedule(levels=levels)
    unet = Stub(ideal_denoiser(scheduler, MEAN, STD))
    unet.inputs = Forgetful()
    plan = planner(unet, Stub(exact_value(scheduler)), scheduler, sampler=sampler)(
        OBSERVATION,
        batch_size=1500,
        n_guide_steps=1,
        scale=scale,
        guide_scaling="variance",
        generator=seeded(),
        return_candidates=True,
    )
    return plan.candidates.actions.double(), plan.candidates.observations[:, :, 1:].double()


class Forgetful:
    """A list that keeps nothing."""

    def append(self, item):
        pass


def test_the_error_of_guided_moments_is_of_first_order_in_the_steps():
    errors = np.array([np.subtract(guided_moments(n), (POSTERIOR_MEAN, POSTERIOR_VARIANCE)) for n in (100, 200, 400)])
    ratios = errors[1:, 0] / errors[:-1, 0]
    assert np.all((ratios > 0.4) & (ratios < 0.6))
    many = guided_moments(3200)
    assert many == pytest.approx((POSTERIOR_MEAN, POSTERIOR_VARIANCE), abs=0.003)


def test_guided_samples_follow_the_posterior():
    guided, free = sample_guided(400, "ddpm", 1.0)
    m, v = guided_moments(400)
    mean_error, variance_error = math.sqrt(v / guided.numel()), v * math.sqrt(2 / guided.numel())  # 0.0032, 0.0023
    assert abs(guided.mean().item() - m) < 4 * mean_error
    assert abs(guided.var().item() - v) < 4 * variance_error
    # Besides, 400 steps have an error of their own, which the test above shows to vanish.
    assert abs(guided.mean().item() - POSTERIOR_MEAN) < 4 * mean_error + 0.016
    assert abs(guided.var().item() - POSTERIOR_VARIANCE) < 4 * variance_error + 0.003
    # What the objective does not speak of keeps the data's distribution.
    assert abs(free.mean().item() - MEAN) < 4 * STD / math.sqrt(free.numel()) + 0.005
    assert abs(free.var().item() - STD**2) < 4 * STD**2 * math.sqrt(2 / free.numel()) + 0.015


@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver", "unipc"])
def test_deterministic_samplers_follow_the_posterior_at_half_the_scale(sampler):
    # Without fresh noise a step moves half as far along the score, of which guidance is a part (the probability flow of
    # Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations").
    guided, free = sample_guided(100, sampler, 0.5)
    assert guided.mean().item() == pytest.approx(POSTERIOR_MEAN, abs=0.08)  # from 0.5 to -0.24
    assert guided.var().item() == pytest.approx(POSTERIOR_VARIANCE, abs=0.03)  # from 0.49 to 0.25
    assert free.mean().item() == pytest.approx(MEAN, abs=0.03)


SLOPES = torch.linspace(-1.0, 1.5, T)


def linear(observations, actions):
    """J = sum of slope * entry, after step 0, in the units of IDENTITY."""
    return (torch.cat([actions, observations], dim=-1)[:, 1:] * SLOPES).sum(dim=(1, 2))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [20, 7, 1])
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_clean_guidance_up_a_slope_is_the_ideal_denoiser_of_the_tilted_gaussian(sampler, steps, scale):
    # N(0, 1) times exp(g * x) is N(g, 1), whose denoiser is sqrt(alpha) * x + (1 - alpha) * g.
    scheduler, results = noise_schedule(), []
    shift = torch.zeros(T, H)
    shift[:, 1:] = scale * SLOPES[:, None]
    for mean, options in ((0.0, {"objectives": [(1.0, linear)], "n_guide_steps": 1}), (shift, {})):
        unet = Stub(ideal_denoiser(scheduler, mean, 1.0))
        planner(unet, scheduler=scheduler, sampler=sampler, guide_on="clean", guide_scaling="variance")(
            OBSERVATION,
            num_inference_steps=steps,
            scale=scale,
            generator=seeded(),
            callback_on_step_end=lambda p, i, t, tensors: results.append(tensors["trajectories"]),
            **options,
        )
    assert len(results) == 2 * steps
    torch.testing.assert_close(torch.stack(results[:steps]), torch.stack(results[steps:]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clean_guidance_up_a_slope_shifts_the_mean_and_keeps_the_variance(sampler):
    scheduler = noise_schedule(levels=100)
    unet = Stub(ideal_denoiser(scheduler, 0.0, 1.0))
    plan = planner(unet, scheduler=scheduler, sampler=sampler, guide_on="clean", guide_scaling="variance")(
        OBSERVATION,
        objectives=[(1.0, linear)],
        n_guide_steps=1,
        scale=1.0,
        batch_size=1500,
        generator=seeded(),
        return_candidates=True,
    )
    samples = joined(plan.candidates)[0, :, 1:].double()  # (K, H - 1, T)
    # 10,500 numbers for each dimension: four standard errors of a mean are 0.039, of a variance 0.055; the error of 100
    # steps in the variance is about (pi / 2)^2 / 100.
    torch.testing.assert_close(samples.mean(dim=(0, 1)), SLOPES.double(), rtol=0, atol=0.039 + 0.01)
    variances = samples.flatten(0, 1).var(dim=0)
    torch.testing.assert_close(variances, torch.ones(T).double(), rtol=0, atol=0.055 + 0.025)


# ---------------------------------------------------------------- diffusers' own planner


def stock_pair(tmp_path):
    """Our planner and diffusers' of the same networks, whose returns are not scaled."""
    statistics = UNITS | {"return_shift": 0.0, "return_scale": 1.0}
    (tmp_path / "model_index.json").write_text(json.dumps({"normalization": statistics}))
    scheduler = DDPMScheduler.from_config(noise_schedule().config, variance_type="fixed_small_log")  # as exported
    ours = planner(denoiser(), smooth_value_network(), scheduler, statistics, guide_scaling="stock", t_stopgrad=2)
    stock = ValueGuidedRLPipeline(
        ours.value_function, ours.unet, DDPMScheduler.from_config(scheduler.config), StockEnvironment(tmp_path)
    )
    return ours, stock


@pytest.mark.parametrize("count", [1, 2])
def test_stock_guidance_is_that_of_diffusers_on_the_same_noise(tmp_path, count):
    ours, stock = stock_pair(tmp_path)
    options = {"n_guide_steps": count, "scale": 0.5}
    last = []
    torch.manual_seed(5)
    plan = ours(
        OBSERVATION,
        callback_on_step_end=lambda p, i, t, tensors: last.append(tensors["trajectories"][0].clone()),
        return_candidates=True,
        **options,
    )
    # The stock loop returns its samples before it ranks them (by the value of a sample of the noisiest kind).
    torch.manual_seed(5)
    pin = stock.normalize(OBSERVATION.astype(np.float32), "observations")[None].repeat(3, axis=0)
    start = pinned(torch.randn(3, H, T), pin)
    expected, _ = stock.run_diffusion(start, {0: torch.tensor(pin)}, count, 0.5)
    torch.testing.assert_close(last[-1], expected.detach(), rtol=1e-4, atol=1e-4)
    torch.manual_seed(5)
    unguided = ours(OBSERVATION, n_guide_steps=0, return_candidates=True)
    assert (joined(plan.candidates) - joined(unguided.candidates)).abs().max() > 1e-2


def test_the_action_of_stock_planning_is_one_of_ours(tmp_path):
    # It ranks by other values, so which one is not said: the whole call in the environment's units.
    ours, stock = stock_pair(tmp_path)
    torch.manual_seed(5)
    plan = ours(OBSERVATION, batch_size=2, n_guide_steps=2, scale=0.1, return_candidates=True)
    torch.manual_seed(5)
    action = stock(OBSERVATION.astype(np.float32), batch_size=2, planning_horizon=H, n_guide_steps=2, scale=0.1)
    distances = np.abs(plan.candidates.actions[0, :, 0].numpy() - action).max(axis=1)
    assert distances.min() < 2e-4


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("variance", [0.0, 0.25, 0.9])
def test_the_factors_by_hand(scaling, variance):
    assert guide_factor(scaling, variance) == pytest.approx(factor(scaling, variance), rel=1e-12)


# ---------------------------------------------------------------- objectives


FRAME = Frame(A, SHIFT, SCALE, torch.full((A,), -math.inf), torch.full((A,), math.inf))


def fast(observations, actions):
    """Of one observation and one action, in the environment's units, not linear in either."""
    return (observations[:, -1, 0] * actions[:, 0, 1]).sin() + observations[:, :, 2].square().sum(dim=1) / 1000


def calm(observations, actions):
    return -actions.square().sum(dim=(1, 2))


def numeric_gradient(function, trajectories, step=1e-6):
    """Central differences in float64."""
    flat = trajectories.double().flatten(1)
    columns = []
    for i in range(flat.shape[1]):
        offset = torch.zeros_like(flat)
        offset[:, i] = step
        high, low = (function((flat + sign * offset).view(trajectories.shape)) for sign in (1, -1))
        columns.append((high - low) / (2 * step))
    return torch.stack(columns, dim=1).view(trajectories.shape)


def in_units(function):
    """A function of normalised trajectories, by hand."""

    def of_normalised(trajectories):
        raw = trajectories * SCALE.double() + SHIFT.double()
        return function(raw[..., A:], raw[..., :A])

    return of_normalised


@pytest.mark.parametrize("function", [fast, calm])
def test_the_gradient_of_an_objective_is_by_the_chain_rule_through_the_units(function):
    trajectories = torch.randn(3, H, T, generator=seeded())
    expected = numeric_gradient(in_units(function), trajectories)
    assert expected.abs().max() > 0.1
    gradient = total_gradient([(1.0, function)], trajectories, 11, FRAME)
    torch.testing.assert_close(gradient, expected.float(), rtol=1e-3, atol=1e-4)


def test_gradients_of_several_objectives_add_up_by_their_weights():
    trajectories = torch.randn(3, H, T, generator=seeded())
    learned = planner(Uncalled(), smooth_value_network(), normalization=UNITS).learned_value
    parts = [(2.0, fast), (-0.5, calm), (3, learned)]
    single = [weight * total_gradient([(1.0, part)], trajectories, 7, FRAME) for weight, part in parts]
    torch.testing.assert_close(total_gradient(parts, trajectories, 7, FRAME), sum(single), rtol=1e-5, atol=1e-5)
    assert all(part.abs().max() > 1e-3 for part in single)


@pytest.mark.parametrize("guide_on", ["noisy", "clean"])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("learned", [True, False])
def test_a_call_climbs_its_objectives_in_the_environments_units(guide_on, sampler, learned):
    unet, samples = Stub(lambda x, t: 0.1 + 0.2 * x), []

    def steep(observations, actions):
        return 0.3 * observations[:, 3, 1] - 2.0 * actions[:, 5, 0]

    # In place of the value function, or in addition to it.
    pipeline = planner(unet, Stub(quadratic) if learned else Uncalled(), normalization=UNITS, sampler=sampler)
    pipeline(
        OBSERVATION,
        objectives=[(0.5, steep)] + ([(2.0, pipeline.learned_value)] if learned else []),
        num_inference_steps=STEPS,
        n_guide_steps=1,
        scale=0.1,
        guide_scaling="none",
        guide_on=guide_on,
        generator=seeded(),
        callback_on_step_end=lambda p, i, t, tensors: samples.append(tensors["trajectories"][0].clone()),
    )

    def moved(trajectories):
        gradient = torch.zeros_like(trajectories)
        gradient[:, 3, A + 1] = 0.5 * 0.3 * UNITS["scale"][A + 1]
        gradient[:, 5, 0] = 0.5 * -2.0 * UNITS["scale"][0]
        if learned:
            gradient += 2.0 * UNITS["return_scale"] * (CENTRE - trajectories)
        return pinned(trajectories + 0.1 * gradient, NORMALISED)

    if guide_on == "noisy":
        start = pinned(torch.randn(1, 3, H, T, generator=seeded())[0], NORMALISED)
        for before, after in zip([start, *samples], unet.inputs, strict=False):
            torch.testing.assert_close(after, moved(before), rtol=1e-4, atol=1e-4)
    else:
        torch.testing.assert_close(samples[-1], moved(0.1 + 0.2 * unet.inputs[-1]), rtol=1e-4, atol=1e-4)


def test_the_learned_value_alone_is_what_is_climbed_without_objectives():
    pipeline = planner(
        value_function=smooth_value_network(), normalization=UNITS, n_guide_steps=2, num_inference_steps=STEPS
    )
    expected = pipeline(OBSERVATION, generator=seeded(), return_candidates=True)
    plan = pipeline(OBSERVATION, generator=seeded(), return_candidates=True, objectives=[(1.0, pipeline.learned_value)])
    assert torch.equal(joined(plan.candidates), joined(expected.candidates))
    assert torch.equal(plan.values, expected.values)
    # No guidance and no ranking either, if so it is asked.
    unranked = pipeline(OBSERVATION, generator=seeded(), return_candidates=True, objectives=[])
    plain = planner(pipeline.unet, normalization=UNITS, num_inference_steps=STEPS)(OBSERVATION, generator=seeded())
    assert torch.equal(joined(unranked), joined(plain))
    assert unranked.values.isnan().all()


def test_values_are_the_weighted_sum_for_each_candidate():
    pipeline = planner(value_function=smooth_value_network(), normalization=UNITS, num_inference_steps=STEPS)
    objectives = [(2.0, fast), (-0.5, calm), (3, pipeline.learned_value)]
    observations = np.stack([OBSERVATION, -OBSERVATION])
    plan = pipeline(observations, objectives=objectives, n_guide_steps=0, generator=seeded(), return_candidates=True)
    raw = joined(plan.candidates).flatten(0, 1)
    parts = fast(raw[..., A:], raw[..., :A]), calm(raw[..., A:], raw[..., :A]), by_hand(pipeline, raw)
    expected = (2.0 * parts[0] - 0.5 * parts[1] + 3.0 * parts[2]).view(2, 3)
    torch.testing.assert_close(plan.candidates.values, expected, rtol=1e-5, atol=1e-3)
    assert (plan.candidates.values.diff(dim=1) < 0).all()
    assert torch.equal(plan.values, plan.candidates.values[:, 0])


def test_objectives_judge_the_actions_that_would_be_executed():
    bounds = UNITS | {"action_low": [0.45, -2.0], "action_high": [0.55, None]}
    plan = planner(normalization=bounds, n_guide_steps=0)(
        OBSERVATION, objectives=[(1.0, calm)], generator=seeded(), return_candidates=True
    )
    actions = plan.candidates.actions
    assert (actions[..., 0] == 0.55).any()  # some are clipped
    torch.testing.assert_close(plan.candidates.values[0], calm(None, actions[0]))


@pytest.mark.parametrize("learned", [True, False])
def test_objectives_rank_without_guidance(learned):
    def goal(observations, actions):
        return -(observations[:, -1, 0] - 2.0).square()

    pipeline = planner(value_function=Uncalled() if learned else None, normalization=UNITS, n_guide_steps=0)
    plan = pipeline(OBSERVATION, batch_size=8, generator=seeded(), return_candidates=True, objectives=[(10.0, goal)])
    candidates = plan.candidates
    torch.testing.assert_close(candidates.values[0], 10.0 * goal(candidates.observations[0], None))
    distances = (candidates.observations[0, :, -1, 0] - 2.0).abs()
    assert (distances.diff() > 0).all()
    unranked = planner(normalization=UNITS)(OBSERVATION, batch_size=8, generator=seeded(), return_candidates=True)
    torch.testing.assert_close(
        unranked.candidates.actions.sort(dim=1).values, candidates.actions.sort(dim=1).values, rtol=0, atol=0
    )


@pytest.mark.parametrize("guide_on", ["noisy", "clean"])
def test_a_planner_without_a_value_function_is_guided_by_objectives(guide_on):
    def goal(observations, actions):
        return -(observations[:, -1] - 2.0).square().sum(dim=1)

    pipeline = planner(Stub(lambda x, t: 0.5 * x), num_inference_steps=STEPS)
    options = {"scale": 0.2, "guide_scaling": "none", "guide_on": guide_on, "objectives": [(1.0, goal)]}
    unguided, guided = (pipeline(OBSERVATION, n_guide_steps=n, generator=seeded(), **options) for n in (0, 3))
    assert guided.values.item() > unguided.values.item() / 2
    default = pipeline(OBSERVATION, generator=seeded(), **options)  # two steps, of the paper
    assert unguided.values.item() < default.values.item() < guided.values.item()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("guide_on", ["noisy", "clean"])
def test_objectives_are_climbed_in_any_gradient_mode(mode, guide_on):
    networks = denoiser(), smooth_value_network()

    def make():
        return planner(networks[0], networks[1], normalization=UNITS, num_inference_steps=2)

    pipeline = make()
    options = {"n_guide_steps": 1, "scale": 1e-3, "guide_scaling": "none", "guide_on": guide_on}
    objectives = [(1.0, fast), (1.0, calm), (1.0, pipeline.learned_value)]
    expected = pipeline(OBSERVATION, objectives=objectives, generator=seeded(), **options)
    with mode():
        inside = make()  # also one that was made there
        objectives = [(1.0, fast), (1.0, calm), (1.0, inside.learned_value)]
        plans = [p(OBSERVATION, objectives=objectives, generator=seeded(), **options) for p in (pipeline, inside)]
    for plan in plans:
        assert torch.equal(joined(plan), joined(expected))
        assert not joined(plan).requires_grad
        assert not plan.values.requires_grad
    unguided = pipeline(OBSERVATION, generator=seeded(), n_guide_steps=0)
    assert not torch.allclose(joined(unguided), joined(expected), atol=1e-3)


# ---------------------------------------------------------------- learned values of other pipelines


OTHER_UNITS = UNITS | {
    "shift": [0.0, 1.0, -2.0, 2.5, 1.0],
    "scale": [0.5, 1.0, 4.0, 0.25, 20.0],
    "return_shift": -3.0,
    "return_scale": 0.5,
}


def other_pipeline(normalization=OTHER_UNITS, **options):
    torch.manual_seed(2)
    network = make_value_function(T, H, [16, 256])
    return planner(Uncalled(), network, normalization=normalization, **options)


def by_hand(pipeline, raw):
    """The return that a pipeline's value function predicts for plans in the environment's units."""
    statistics = {name: torch.tensor(pipeline.normalization[name]) for name in ("shift", "scale")}
    normalised = (raw - statistics["shift"]) / statistics["scale"]
    with torch.no_grad():
        values = pipeline.value_function(normalised.transpose(1, 2), torch.zeros(len(raw))).sample[:, 0]
    return values * pipeline.normalization["return_scale"] + pipeline.normalization["return_shift"]


def test_two_learned_values_are_summed():
    other = other_pipeline(UNITS | {"return_shift": -3.0, "return_scale": 0.5})
    pipeline = planner(value_function=smooth_value_network(), normalization=UNITS, num_inference_steps=STEPS)
    objectives = [(1.0, pipeline.learned_value), (20.0, other.learned_value)]
    options = {"n_guide_steps": 2, "scale": 0.05, "guide_scaling": "none", "return_candidates": True}
    plan = pipeline(OBSERVATION, objectives=objectives, generator=seeded(), **options)
    raw = joined(plan.candidates)[0]
    expected = by_hand(pipeline, raw) + 20 * by_hand(other, raw)
    torch.testing.assert_close(plan.candidates.values[0], expected, rtol=1e-4, atol=1e-3)
    alone = pipeline(OBSERVATION, generator=seeded(), **options)
    assert not torch.allclose(joined(plan), joined(alone), atol=1e-2)
    trajectories = torch.randn(2, H, T, generator=seeded())
    parts = [weight * total_gradient([(1.0, part)], trajectories, 7, FRAME) for weight, part in objectives]
    torch.testing.assert_close(total_gradient(objectives, trajectories, 7, FRAME), sum(parts))


def test_a_learned_value_of_other_statistics_judges_the_same_physical_plan():
    other = other_pipeline()
    pipeline = planner(normalization=UNITS, num_inference_steps=STEPS)
    options = {"objectives": [(1.0, other.learned_value)], "guide_on": "clean", "guide_scaling": "std"}
    options |= {"scale": 5.0, "n_guide_steps": 1, "return_candidates": True}
    plan = pipeline(OBSERVATION, generator=seeded(), **options)
    raw = joined(plan.candidates)[0]
    torch.testing.assert_close(plan.candidates.values[0], by_hand(other, raw), rtol=1e-4, atol=1e-4)
    unguided = pipeline(OBSERVATION, generator=seeded(), **options | {"n_guide_steps": 0})
    assert not torch.allclose(joined(plan), joined(unguided), atol=1e-2)


def test_the_gradient_of_a_learned_value_of_other_statistics_is_with_respect_to_this_pipelines_plans():
    other = planner(Uncalled(), Stub(quadratic), normalization=OTHER_UNITS).learned_value
    trajectories = torch.randn(2, H, T, generator=seeded())
    theirs, their_scale = torch.tensor(OTHER_UNITS["shift"]), torch.tensor(OTHER_UNITS["scale"])
    seen = (trajectories * SCALE + SHIFT - theirs) / their_scale
    expected = OTHER_UNITS["return_scale"] * (CENTRE - seen) * SCALE / their_scale
    torch.testing.assert_close(total_gradient([(1.0, other)], trajectories, 0, FRAME), expected, rtol=1e-4, atol=1e-4)


def other_dimensions():
    torch.manual_seed(0)
    normalization = IDENTITY | {"action_dim": A + 1, "action_low": [None] * (A + 1), "action_high": [None] * (A + 1)}
    return planner(denoiser(), smooth_value_network(), normalization=normalization)


def other_schedule():
    return other_pipeline(UNITS, scheduler=noise_schedule(levels=10), num_inference_steps=None)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (other_pipeline, {}, "objective 1 .*other statistics.*use guide_on='clean'"),
        (other_schedule, {}, "objective 1 .*another noise schedule.*use guide_on='clean'"),
        (other_dimensions, {}, "objective 1 .*3 actions in 5 dimensions.*2 in 5"),
        (other_dimensions, {"guide_on": "clean"}, "objective 1 .*3 actions in 5 dimensions"),
        (other_dimensions, {"n_guide_steps": 0}, "objective 1 .*3 actions in 5 dimensions"),
    ],
)
def test_a_value_function_that_cannot_judge_these_samples_is_refused(make, options, words):
    pipeline = planner(Uncalled(), Uncalled(), normalization=UNITS, n_guide_steps=1)
    with pytest.raises(ValueError, match=words):
        pipeline(OBSERVATION, objectives=[(1.0, calm), (1.0, make().learned_value)], **options)


@pytest.mark.parametrize("make", [other_pipeline, other_schedule])
@pytest.mark.parametrize("options", [{"guide_on": "clean", "n_guide_steps": 1}, {"n_guide_steps": 0}])
def test_a_value_function_that_sees_clean_plans_alone_is_welcome(make, options):
    pipeline = planner(normalization=UNITS, num_inference_steps=STEPS)
    plan = pipeline(OBSERVATION, objectives=[(1.0, make().learned_value)], **options)
    assert plan.values.isfinite().all()


def test_a_horizon_too_long_for_another_pipelines_value_function_is_refused():
    other = planner(Uncalled(), Uncalled())  # whose value function takes at most 16 steps
    pipeline = planner(Uncalled(), planning_horizon=32)
    with pytest.raises(ValueError, match="32"):
        pipeline(OBSERVATION, objectives=[(1.0, other.learned_value)], n_guide_steps=0)


def test_a_planner_without_a_value_function_has_no_learned_value():
    with pytest.raises(ValueError, match=r"no value function.*--value"):
        _ = planner(Uncalled()).learned_value


# ---------------------------------------------------------------- objectives that are refused, before sampling


def detached(observations, actions):
    return observations.detach().sum(dim=(1, 2))


@pytest.mark.parametrize(
    ("objectives", "words"),
    [
        ([(1.0, calm), (1.0, lambda o, a: o.sum())], r"objective 1 returned \(\) of torch.float32 .*shape \(B,\)"),
        ([(1.0, lambda o, a: o.sum(dim=2))], r"objective 0 returned \(2, 8\)"),
        ([(1.0, lambda o, a: o.sum(dim=(1, 2))[:, None])], r"objective 0 returned \(2, 1\)"),
        ([(1.0, lambda o, a: 3.0)], "objective 0 returned float"),
        ([(1.0, lambda o, a: None)], "objective 0 returned NoneType"),
        ([(1.0, lambda o, a: o.sum().reshape(1))], "objective 0 returned"),  # one number for all plans
        ([(1.0, calm), (1.0, detached)], "objective 1 has no gradient.*n_guide_steps=0"),
        ([(1.0, lambda o, a: torch.zeros(len(o)))], "objective 0 has no gradient"),
        ([calm], "objective 0 is .*a pair"),
        ([(1.0, calm, 2.0)], "objective 0 is .*a pair"),
        ([(calm, 1.0)], "objective 0 is .*a pair"),
        ([("1", calm)], "objective 0 is .*a pair"),
        ([(math.inf, calm)], "objective 0 has weight inf"),
        ([(1.0, calm), (math.nan, calm)], "objective 1 has weight nan"),
    ],
)
@pytest.mark.parametrize("guide_on", ["noisy", "clean"])
def test_an_objective_that_cannot_work_is_refused(objectives, words, guide_on):
    pipeline = planner(Uncalled(), Uncalled(), n_guide_steps=1, guide_on=guide_on)
    with pytest.raises(ValueError, match=words):
        pipeline(OBSERVATION, objectives=objectives)


def test_an_objective_without_a_gradient_can_rank():
    plan = planner(n_guide_steps=0)(OBSERVATION, objectives=[(1.0, detached)], return_candidates=True)
    expected = plan.candidates.observations.sum(dim=(2, 3))
    torch.testing.assert_close(plan.candidates.values, expected, rtol=1e-5, atol=1e-5)


def test_the_horizon_of_a_long_plan_is_fine_for_objectives_alone():
    torch.manual_seed(0)
    plan = planner(make_denoiser(T, 32, [16, 64]), num_inference_steps=1)(
        OBSERVATION, planning_horizon=32, objectives=[(1.0, calm)], n_guide_steps=1
    )
    assert plan.observations.shape == (1, 32, O)
    assert joined(plan).isfinite().all()
    assert joined(planner(Stub(zeros))(OBSERVATION, objectives=[(1.0, calm)])).isfinite().all()
