"""What plans keep of earlier ones: exactly where the weight is 1, not at all where it is 0, and closer in between."""

import json
import math

import numpy as np
import pytest
import torch
from fakes import (
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
    joined,
    noise_schedule,
    planner,
    quadratic,
    run_elsewhere,
    seeded,
    value_network,
    write_tiny,
    zeros,
)

from vgp_lightning.pipeline.commitment import commitment_weights

SAMPLERS = ["ddpm", "ddim", "dpmsolver", "unipc"]
OBSERVATIONS = np.stack([OBSERVATION, 2 * OBSERVATION])
BOUNDED = UNITS | {"action_low": [-1.0, -2.0], "action_high": [1.0, 2.0]}


def previous(count=1, seed=5):
    """Return plans (N, H, T) with actions within the bounds, and any observations."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, H, T)).astype(np.float32)


def actions_alone(plans):
    plans = plans.copy()
    plans[..., A:] = math.nan
    return plans


# ---------------------------------------------------------------- weights of 1


@NUMPY_2
@pytest.mark.parametrize("sampler", [*SAMPLERS, None])
@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("n_guide_steps", [0, 1])
def test_steps_of_weight_1_are_the_committed_ones_to_the_bit(sampler, prediction_type, n_guide_steps):
    pipeline = planner(
        denoiser(),
        value_network(),
        noise_schedule(prediction_type),
        UNITS,
        sampler=sampler,
        n_guide_steps=n_guide_steps,
        scale=0.01,
    )
    plans, weights = previous(2), [1.0, 1.0, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0]
    plan = pipeline(
        OBSERVATIONS,
        committed=(actions_alone(plans), weights),
        num_inference_steps=5,
        generator=seeded(),
        return_candidates=True,
    )
    held = torch.from_numpy(plans[:, None, :2, :A]).expand(2, 3, 2, A)
    assert torch.equal(plan.candidates.actions[:, :, :2], held)
    assert plan.candidates.actions[:, :, 2:].unique().numel() == 2 * 3 * 6 * A  # the others are every candidate's own
    seen = torch.from_numpy(OBSERVATIONS).float()[:, None].expand(2, 3, O)
    assert torch.equal(plan.candidates.observations[:, :, 0], seen)


@pytest.mark.parametrize("guide_on", ["noisy", "clean"])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_guidance_moves_no_entry_of_weight_1_whatever_its_gradient(guide_on, strength):
    values = Stub(quadratic)
    pipeline = planner(Stub(lambda x, t: 0.5 * x), values, sampler="ddim", guide_on=guide_on, guide_scaling="none")
    plans, weights = previous(), np.array([1.0] * 3 + [0.0] * 5)

    def plan(scale):
        return pipeline(
            OBSERVATION,
            committed=(actions_alone(plans), weights),
            warm_start=plans,
            warm_start_strength=strength,
            num_inference_steps=5,
            n_guide_steps=2,
            scale=scale,
            generator=seeded(),
        )

    calm, guided = plan(0.0), plan(0.2)
    held = torch.from_numpy(plans[0, :3, :A])
    assert torch.equal(calm.actions[0, :3], held)
    assert torch.equal(guided.actions[0, :3], held)
    assert (guided.actions[0, 3:] - calm.actions[0, 3:]).abs().min() > 1e-3
    if guide_on == "clean":  # the objective judges plans that begin with what will have been executed
        torch.testing.assert_close(values.inputs[-1][0, :3, :A], held, rtol=0, atol=0)


def test_held_entries_do_not_count_in_the_norm_of_the_gradient():
    pipeline = planner(Stub(zeros), Stub(quadratic), sampler="ddim", guide_on="clean", guide_scaling="none")
    plans = np.full((1, H, T), 1000.0, np.float32)  # their gradient would use up the limit
    options = {"num_inference_steps": 1, "n_guide_steps": 1, "scale": 1.0, "max_grad_norm": 1.0, "generator": seeded()}
    held = [1.0] * (H - 1) + [0.0]
    plan = pipeline(OBSERVATION, committed=(plans, held), **options)
    last = joined(plan)[0, -1]
    assert float(last.norm()) == pytest.approx(1.0, rel=1e-5)


def test_committed_actions_beyond_their_bounds_are_clipped_and_conditions_precede():
    pipeline = planner(Stub(zeros), normalization=BOUNDED)
    plans = np.full((1, H, T), 9.0, np.float32)
    condition = np.array([math.nan, 0.25, math.nan])
    plan = pipeline(OBSERVATION, conditions={2: condition}, committed=(plans, np.ones(H)), num_inference_steps=2)
    assert torch.equal(plan.actions[0], torch.tensor([1.0, 2.0]).expand(H, A))
    assert torch.equal(plan.observations[0, 0], torch.tensor(OBSERVATION, dtype=torch.float32))
    assert plan.observations[0, 2].tolist() == [9.0, 0.25, 9.0]
    assert torch.equal(plan.observations[0, 3:], torch.full((H - 3, O), 9.0))


def test_the_network_sees_what_is_held_with_the_noise_of_each_level():
    # DDIM with the noise that the first sample stands for: x = sqrt(alpha) * held + sqrt(1 - alpha) * noise.
    unet, scheduler = Stub(zeros), noise_schedule()
    plans = previous()
    planner(unet, scheduler=scheduler, sampler="ddim")(
        OBSERVATION, committed=(plans, [0, 1, 0, 0, 0, 0, 0, 0]), num_inference_steps=4, generator=seeded()
    )
    alphas = [float(scheduler.alphas_cumprod[int(t)]) for t in unet.timesteps]
    held = torch.from_numpy(plans[0, 1])
    noise = (unet.inputs[0][:, 1] - math.sqrt(alphas[0]) * held) / math.sqrt(1 - alphas[0])
    for trajectories, alpha in zip(unet.inputs, alphas, strict=True):
        expected = math.sqrt(alpha) * held + math.sqrt(1 - alpha) * noise
        torch.testing.assert_close(trajectories[:, 1], expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- weights of 0, and between


@NUMPY_2
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction_type", ["sample", "epsilon"])
def test_weights_of_0_everywhere_are_the_plan_without_a_commitment_to_the_bit(sampler, prediction_type):
    pipeline = planner(denoiser(), value_network(), noise_schedule(prediction_type), UNITS, sampler=sampler)
    options = {"num_inference_steps": 4, "n_guide_steps": 1, "scale": 0.01}
    plain = pipeline(OBSERVATION, generator=seeded(), **options)
    for committed in (None, (previous(), np.zeros(H)), (previous(), np.zeros((1, H)))):
        plan = pipeline(OBSERVATION, generator=seeded(), committed=committed, **options)
        assert torch.equal(joined(plan), joined(plain))
        assert torch.equal(plan.values, plain.values)


def test_a_weight_moves_a_sure_prediction_by_its_share():
    # The network predicts zero whatever it sees, so the plan is weight * committed, in normalised numbers.
    weights = np.linspace(1, 0, H)
    plans = previous()
    plan = planner(Stub(zeros), sampler="ddim")(OBSERVATION, committed=(plans, weights), num_inference_steps=3)
    expected = torch.from_numpy(weights[:, None] * plans[0])[1:]
    torch.testing.assert_close(joined(plan)[0, 1:], expected.float(), rtol=1e-5, atol=1e-6)


def test_each_observation_has_its_own_plans_and_weights_and_random_numbers():
    pipeline = planner(denoiser(), value_network(), normalization=UNITS, n_guide_steps=1, scale=0.01)
    plans, weights = previous(2), np.stack([np.linspace(1, 0, H), np.linspace(0.5, 0, H)])
    generators = [seeded(1), seeded(2)]
    both = pipeline(OBSERVATIONS, committed=(plans, weights), num_inference_steps=4, generator=generators)
    for i in range(2):
        alone = pipeline(
            OBSERVATIONS[i],
            committed=(plans[i : i + 1], weights[i]),
            num_inference_steps=4,
            generator=seeded(i + 1),
        )
        torch.testing.assert_close(joined(alone)[0], joined(both)[i], rtol=1e-4, atol=1e-4)


def test_a_plan_joins_the_previous_one_with_a_smaller_jump_than_without_a_commitment():
    pipeline = planner(denoiser(), normalization=UNITS, batch_size=1, sampler="ddim", num_inference_steps=5)
    seams = {"committed": [], "free": []}
    for seed in range(20):
        before = pipeline(OBSERVATION, generator=seeded(seed)).trajectories
        shifted = torch.cat([before[:, 2:], before[:, -1:].expand(1, 2, T)], dim=1)
        committed = (actions_alone(shifted.numpy()), commitment_weights(H, 2, H - 2))
        for name, given in (("committed", committed), ("free", None)):
            plan = pipeline(OBSERVATION + 0.1, committed=given, generator=seeded(100 + seed))
            scale = torch.tensor(UNITS["scale"][:A])
            seams[name].append(float(((plan.actions[0, 2] - shifted[0, 2, :A]) / scale).abs().mean()))
    assert np.mean(seams["committed"]) < 0.7 * np.mean(seams["free"])


def test_weights_are_those_of_real_time_chunking():
    # H = 8, 2 steps of delay, 6 of overlap: c = (6 - i) / 5 for i = 2 to 5, and c (e^c - 1) / (e - 1).
    shares = [4 / 5, 3 / 5, 2 / 5, 1 / 5]
    by_hand = [c * (math.exp(c) - 1) / (math.e - 1) for c in shares]
    assert commitment_weights(8, 2, 6) == pytest.approx([1, 1, *by_hand, 0, 0])
    assert commitment_weights(4, 4, 4) == [1, 1, 1, 1]
    assert commitment_weights(4, 0, 0) == [0, 0, 0, 0]


# ---------------------------------------------------------------- where it has to work


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("guide_on", ["noisy", pytest.param("clean", marks=pytest.mark.slow)])
def test_a_compiled_pipeline_commits_as_an_accelerated_one_does(guide_on):
    options = {"num_inference_steps": 3, "n_guide_steps": 1, "scale": 0.01, "guide_on": guide_on, "sampler": "ddim"}
    committed = (previous(), commitment_weights(H, 2, H - 2))
    plain = planner(value_function=value_network())(OBSERVATION, committed=committed, generator=seeded(), **options)
    torch.compiler.reset()
    pipeline = planner(value_function=value_network())
    pipeline.compile(backend="eager")
    plan = pipeline(OBSERVATION, committed=committed, generator=seeded(), **options)
    assert torch.equal(plan.actions[0, :2], plain.actions[0, :2])
    torch.testing.assert_close(joined(plan), joined(plain), rtol=1e-4, atol=1e-4)


def test_under_autocast_the_plan_is_the_same():
    pipeline = planner(normalization=UNITS)
    committed = (previous(), commitment_weights(H, 2, H - 2))
    plain = pipeline(OBSERVATION, committed=committed, generator=seeded(), num_inference_steps=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = pipeline(OBSERVATION, committed=committed, generator=seeded(), num_inference_steps=2)
    assert torch.equal(joined(again), joined(plain))


ELSEWHERE = """
import json, sys
sys.modules["vgp_lightning"] = None
import torch
from diffusers import DiffusionPipeline
folder = sys.argv[1]
pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
committed = (torch.full((1, 8, 3), 0.125), [1, 1, 0.5, 0, 0, 0, 0, 0])
plan = pipeline([0.5, -0.5], committed=committed, generator=torch.Generator().manual_seed(7))
print(json.dumps({"actions": plan.actions.tolist()}))
"""


@pytest.mark.slow
def test_the_one_file_of_an_exported_folder_commits_too(tmp_path):
    actions = run_elsewhere(tmp_path, ELSEWHERE, write_tiny(tmp_path / "folder"))["actions"]
    assert [step[0] for step in actions[0][:2]] == [0.125, 0.125]
    assert json.dumps(actions[0][2:]) != json.dumps([[0.125]] * 6)


# ---------------------------------------------------------------- what is refused


def test_a_committed_plan_that_overflows_is_named():
    plans = previous(2)
    plans[1, 3, A + 1] = 3e38  # with a scale of 0.5 infinite, as normalised
    with pytest.raises(
        ValueError, match=r"for observations \[1\].*the committed plan of row 1: entry 1 of the observ.*3"
    ):
        planner(Stub(zeros), normalization=UNITS)(OBSERVATIONS, committed=(plans, np.full(H, 0.5)))


@pytest.mark.parametrize(
    ("observation", "committed", "words"),
    [
        (OBSERVATION, previous(), r"committed is a ndarray: a pair \(previous plans .*, weights .*\) is needed"),
        (OBSERVATION, (previous(),), "committed is a tuple: a pair"),
        (OBSERVATION, (previous()[0], np.zeros(H)), r"plans of committed have shape \(8, 5\).*\(1, 8, 5\) are needed"),
        (OBSERVATION, (previous(2), np.zeros(H)), r"plans of committed have shape \(2, 8, 5\)"),
        (OBSERVATIONS, (previous(), np.zeros(H)), r"plans of committed have shape \(1, 8, 5\).*\(2, 8, 5\)"),
        (OBSERVATION, (np.full((1, H, T), math.inf), np.ones(H)), "the plans of committed .*finite plans"),
        (OBSERVATION, (previous(), np.zeros(H - 1)), r"weights of committed have shape \(7,\): \(8,\) or \(1, 8\)"),
        (OBSERVATION, (previous(), 0.5), r"weights of committed have shape \(\)"),
        (
            OBSERVATIONS,
            (previous(2), np.zeros((1, H))),
            r"weights of committed have shape \(1, 8\).*\(8,\) or \(2, 8\)",
        ),
        (OBSERVATION, (previous(), np.full(H, 1.5)), r"weights of committed are .*between 0 \(free\) and 1"),
        (OBSERVATION, (previous(), np.full(H, -0.1)), r"weights of committed are .*between 0 \(free\) and 1"),
        (OBSERVATION, (previous(), np.full(H, math.nan)), r"weights of committed are .*between 0 \(free\) and 1"),
        (OBSERVATION, (previous(), ["one"] * H), "the weights of committed is .*an array of real numbers is needed"),
    ],
)
def test_what_cannot_be_committed_to_is_refused_before_anything_is_sampled(observation, committed, words):
    pipeline = planner(Uncalled(), Uncalled())
    with pytest.raises(ValueError, match=words):
        pipeline(observation, committed=committed)
