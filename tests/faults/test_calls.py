"""Planning calls and agents with wrong, strange and huge arguments: an error before anything is sampled, or a plan.

A plan is finite, within the bounds of actions, begins at the observation and meets the conditions to the bit, and its
candidates come best first. Where a plan cannot be finite, the error names the observation and the cause.
"""

import math
import threading
from decimal import Decimal
from fractions import Fraction

import hypothesis
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from fakes import NUMPY_2, OBSERVATION, UNITS, A, H, O, T, denoiser, noise_schedule, planner, seeded, value_network
from hypothesis import strategies as st
from tally import case

from vgp_lightning.agent.controllers import PositionController
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.pipeline import planner as planner_file
from vgp_lightning.pipeline.networks import make_denoiser
from vgp_lightning.pipeline.sampling import SAMPLERS

pytestmark = NUMPY_2
GROUP = "planning calls"
BOUNDED = UNITS | {"action_low": [-1.0, None], "action_high": [1.0, 0.5]}
LOW, HIGH = torch.tensor([-1.0, -math.inf]), torch.tensor([1.0, 0.5])
FINITE = np.array(OBSERVATION)


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline()


def make_pipeline(**settings):
    settings = {"n_guide_steps": 0, "num_inference_steps": 2, "sampler": "ddim"} | settings
    return planner(denoiser(), value_network(), normalization=BOUNDED, **settings)


@pytest.fixture
def sampled(monkeypatch):
    """Count how often sampling begins."""
    begun, denoise = [], planner_file.denoise

    def watched(*arguments):
        begun.append(1)
        return denoise(*arguments)

    monkeypatch.setattr(planner_file, "denoise", watched)
    return begun


def attempt(function, *arguments, **options):
    """Return what a function returns, and the words of its ValueError."""
    try:
        return function(*arguments, **options), ""
    except ValueError as error:
        return None, str(error)


def assert_overflow(refusal):
    assert "are not finite" in refusal or "has a finite value" in refusal


def check(plan, observations, conditions=None):
    """Hold a plan against everything that is promised of plans."""
    best = plan.trajectories
    assert best.dtype == torch.float32
    for part in (plan, plan.candidates):
        if part is None:
            continue
        assert part.trajectories.isfinite().all()
        assert (part.actions >= LOW).all()
        assert (part.actions <= HIGH).all()
        seen = part.observations if part is plan else part.observations.transpose(0, 1)  # (..., N, H, O)
        for step, given in ({0: observations} | (conditions or {})).items():
            given = torch.tensor(np.array(given, dtype=np.float64)).float().expand(seen[..., step, :].shape)
            assert torch.equal(torch.where(given.isnan(), seen[..., step, :], given), seen[..., step, :])
    if plan.candidates is not None:
        values = plan.candidates.values
        finite = values.isfinite()
        assert (finite.int().diff(dim=1) <= 0).all()  # what is not finite comes last
        assert all((row[good].diff() <= 0).all() for row, good in zip(values, finite, strict=True))
        assert torch.equal(plan.trajectories, plan.candidates.trajectories[:, 0])


# ---------------------------------------------------------------- what is wrong, one by one


def read_only(array):
    array = np.array(array)
    array.flags.writeable = False
    return array


def pay(observations, actions):
    return actions.sum(dim=(1, 2))


class Strange:
    pass


HUGE = 10**400
# Name: (observation, options, words of the error)
WRONG = {
    "observation None": (None, {}, "observation is None"),
    "observation text": ("ready", {}, "observation is ready"),
    "observation object": (Strange(), {}, "observation is"),
    "observation of objects": (np.array([1, None, 2], dtype=object), {}, "observation is"),
    "observation of text": (np.array(["a", "b", "c"]), {}, "observation is"),
    "observation dictionary": ({"a": 1.0}, {}, "observation is"),
    "observation ragged": ([[1.0, 2.0, 3.0], [1.0]], {}, "observation is not an array"),
    "observation complex": (np.zeros(O, complex), {}, "complex128"),
    "observation complex tensor": (torch.zeros(O, dtype=torch.complex64), {}, "dense tensor of real"),
    "observation sparse": (torch.zeros(2, O).to_sparse(), {}, "sparse_coo"),
    "observation meta": (torch.zeros(O, device="meta"), {}, "on meta"),
    "observation masked": (np.ma.masked_array(FINITE, [False, True, False]), {}, "masked array: fill it"),
    "observation scalar": (3.0, {}, r"shape \(\)"),
    "observation too short": (np.zeros(O - 1), {}, r"shape \(2,\)"),
    "observation of none": (np.zeros((0, O)), {}, r"shape \(0, 3\)"),
    "observation NaN in row 1": (np.array([FINITE, FINITE * np.nan]), {}, r"not finite in float32, in rows \[1\]"),
    "observation beyond float32": (np.array([1e39, 0, 0]), {}, "not finite in float32"),
    "observation of whole numbers without end": ([HUGE, 0, 0], {}, "observation is"),
    "conditions a list": (FINITE, {"conditions": [FINITE]}, "conditions is .*{step: observation}"),
    "conditions a number": (FINITE, {"conditions": 3}, "conditions is 3"),
    "condition step True": (FINITE, {"conditions": {True: FINITE}}, "step True: a whole number"),
    "condition step text": (FINITE, {"conditions": {"1": FINITE}}, "step '1': a whole number"),
    "condition step None": (FINITE, {"conditions": {None: FINITE}}, "step None: a whole number"),
    "condition step too large": (FINITE, {"conditions": {HUGE: FINITE}}, "must lie between"),
    "condition None": (FINITE, {"conditions": {1: None}}, "condition at step 1 is None"),
    "condition masked": (FINITE, {"conditions": {1: np.ma.masked_array(FINITE, True)}}, "step 1 is a masked"),
    "condition beyond float32": (FINITE, {"conditions": {1: FINITE * 1e300}}, "step 1 is not finite"),
    "warm start text": (FINITE, {"warm_start": "last"}, "warm_start is last"),
    "warm start of another shape": (FINITE, {"warm_start": np.zeros((H, T))}, "warm_start has shape"),
    "warm start NaN": (FINITE, {"warm_start": np.full((1, H, T), np.nan)}, "finite plans"),
    "warm start meta": (FINITE, {"warm_start": torch.zeros(1, H, T, device="meta")}, "on meta"),
    "generator 42": (FINITE, {"generator": 42}, r"torch.Generator\('cpu'\).manual_seed\(42\)"),
    "generator text": (FINITE, {"generator": "42"}, "generator is 42"),
    "generator of numpy": (FINITE, {"generator": np.random.default_rng()}, "generator is Generator"),
    "generators with None": (FINITE, {"generator": [None]}, "generator is"),
    "generators with seeds": (FINITE, {"generator": [1]}, r"manual_seed\(1\)"),
    "generators too many": (FINITE, {"generator": [seeded(), seeded()]}, "2 generators for 1"),
    "generators none": (FINITE, {"generator": []}, "0 generators for 1"),
    "objectives a function": (FINITE, {"objectives": pay}, "objectives is"),
    "objective no pair": (FINITE, {"objectives": [pay]}, "objective 0 is"),
    "objective None": (FINITE, {"objectives": [(1.0, None)]}, "objective 0 is"),
    "objective's weight True": (FINITE, {"objectives": [(True, pay)]}, "weight True"),
    "objective's weight NaN": (FINITE, {"objectives": [(math.nan, pay)]}, "weight nan"),
    "objective's weight too large": (FINITE, {"objectives": [(HUGE, pay)]}, "weight 1000"),
    "objective of one number": (FINITE, {"objectives": [(1.0, lambda o, a: a.sum())]}, "objective 0 returned"),
    "objective of complex numbers": (FINITE, {"objectives": [(1.0, lambda o, a: pay(o, a) + 0j)]}, "complex64"),
    "objective of an array": (FINITE, {"objectives": [(1.0, lambda o, a: np.zeros(len(o)))]}, "returned ndarray"),
    "objective on another device": (FINITE, {"objectives": [(1.0, lambda o, a: pay(o, a).to("meta"))]}, "on meta"),
    "objective without a gradient": (
        FINITE,
        {"objectives": [(1.0, lambda o, a: pay(o, a).detach())], "n_guide_steps": 1},
        "objective 0 has no gradient",
    ),
    "objective of something else's gradient": (
        FINITE,
        {"objectives": [(1.0, lambda o, a: torch.ones(len(o), requires_grad=True) * 1)], "n_guide_steps": 1},
        "objective 0 does not depend on its arguments",
    ),
    "objective that breaks its gradient": (
        FINITE,
        {
            "objectives": [(1.0, lambda o, a: (a.exp().add_(1) * (b := a.exp()) + b.add_(1)).sum((1, 2)))],
            "n_guide_steps": 1,
        },
        "objective 0 cannot be differentiated",
    ),
    "an unknown setting": (FINITE, {"speed": 1}, r"unknown settings \['speed'\]"),
    "a horizon that the networks do not take": (FINITE, {"planning_horizon": 7}, "planning_horizon 7"),
    **{
        f"{name} {value!r:.20}": (FINITE, {name: value}, f"{name} is ")
        for name, values in {
            "batch_size": [0, -1, 2.0, True, None, "2", HUGE, 10**9, 65537, Fraction(2), np.float64(2), np.array(2)],
            "planning_horizon": [0, 8.0, False, None, 10**9, HUGE],
            "num_inference_steps": [0, 21, 1.5, True, "1", HUGE],
            "n_guide_steps": [-1, 0.5, True, None, 10**9, 1001],
            "t_stopgrad": [-1, 1.0, True, HUGE],
            "scale": [math.nan, math.inf, HUGE, "1", True, None, Decimal(1), 1j, torch.tensor(1.0), -HUGE],
            "temperature": [-1.0, math.nan, math.inf, HUGE, True, None, [1.0]],
            "max_grad_norm": [-1.0, math.nan, math.inf, HUGE, True, "1"],
            "warm_start_strength": [-0.1, 1.1, math.nan, True, None],
        }.items()
        for value in values
    },
    **{
        f"{name} {value!r:.20}": (FINITE, {name: value}, f"{name} .* is unknown")
        for name in ("sampler", "guide_scaling", "guide_on")
        for value in ["", 1, True, ["ddim"], b"ddim", np.array(["ddim", "ddpm"]), "DDIM"]
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_refused_in_words_before_anything_is_sampled(pipeline, sampled, name):
    observation, options, words = WRONG[name]
    with case(GROUP, name) as verdict:
        with pytest.raises(ValueError, match=words) as refused:
            pipeline(observation, **options)
        assert len(str(refused.value)) < 1500
        assert sampled == []
        verdict.outcome = "clear"


# ---------------------------------------------------------------- what is strange and right


RIGHT = {
    "a list": lambda p: p(FINITE.tolist()),
    "read-only arrays": lambda p: p(
        read_only(FINITE),
        conditions={1: read_only(FINITE)},
        warm_start=read_only(np.zeros((1, H, T))),
        warm_start_strength=0.5,
    ),
    "read-only float32": lambda p: p(read_only(FINITE.astype(np.float32))),
    "a reversed array": lambda p: p(FINITE[::-1].copy()[::-1]),
    "another byte order": lambda p: p(FINITE.astype(">f8")),
    "half precision": lambda p: p(torch.tensor(FINITE).half().float(), generator=None),
    "a tensor that wants a gradient": lambda p: p(torch.tensor(FINITE, requires_grad=True)),
    "numpy numbers": lambda p: p(
        FINITE,
        batch_size=np.int64(2),
        scale=np.float32(0.5),
        temperature=np.float64(1),
        planning_horizon=np.uint8(H),
        n_guide_steps=np.int8(1),
        max_grad_norm=np.float16(2),
        conditions={np.int64(3): FINITE, np.int8(-1): FINITE},
    ),
    "fractions": lambda p: p(FINITE, temperature=Fraction(1, 2), scale=Fraction(1, 3), n_guide_steps=1),
    "whole numbers for real ones": lambda p: p(FINITE, temperature=1, scale=10**30, n_guide_steps=0),
    "a weight of numpy": lambda p: p(FINITE, objectives=[(np.float32(1), pay)], n_guide_steps=1),
    "an objective of whole numbers": lambda p: p(
        FINITE, objectives=[(1.0, lambda o, a: (a.sum((1, 2)) > 0).long())], n_guide_steps=0
    ),
    "an objective in float64": lambda p: p(
        FINITE, objectives=[(1.0, lambda o, a: pay(o, a).double())], n_guide_steps=1
    ),
    "no conditions": lambda p: p(FINITE, conditions={}),
    "a condition that frees everything": lambda p: p(FINITE, conditions={2: FINITE * np.nan}),
    "generators in a tuple": lambda p: p(FINITE, generator=(seeded(),)),
    "a warm start in float16": lambda p: p(FINITE, warm_start=np.zeros((1, H, T), np.float16), warm_start_strength=0.5),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_strange_argument_that_means_something_plans(pipeline, name):
    with case(GROUP, name):
        plan = RIGHT[name](pipeline)
        assert plan.values.dtype == torch.float32
        if "half" not in name:
            check(plan, FINITE)


@pytest.mark.parametrize("sampler", [*SAMPLERS, None])
def test_a_default_type_of_float64_changes_nothing_even_where_the_folder_is_loaded_under_it(tmp_path, sampler):
    make_pipeline().save_pretrained(tmp_path / "folder")
    load = planner_file.ValueGuidedPlannerPipeline.from_pretrained
    options = {"sampler": sampler, "n_guide_steps": 1, "objectives": [(1.0, pay)]}
    with case(GROUP, f"default type float64, {sampler}"):
        plan = load(tmp_path / "folder")(FINITE, **options, generator=seeded())
        torch.set_default_dtype(torch.float64)
        try:
            again = load(tmp_path / "folder")(FINITE, **options, generator=seeded())
        finally:
            torch.set_default_dtype(torch.float32)
        assert torch.equal(plan.trajectories, again.trajectories)


@pytest.mark.parametrize("guided", [0, 1])
def test_autocast_changes_nothing_in_this_call_or_the_next(guided):
    pipeline, fresh = make_pipeline(), make_pipeline()
    options = {"n_guide_steps": guided}
    with case(GROUP, f"autocast, {guided} guide steps"):
        with torch.autocast("cpu", torch.bfloat16):
            plan = pipeline(FINITE, **options, generator=seeded())
            assert torch.is_autocast_enabled("cpu")
        for again in (fresh(FINITE, **options, generator=seeded()), pipeline(FINITE, **options, generator=seeded())):
            assert torch.equal(plan.trajectories, again.trajectories)
            assert torch.equal(plan.values, again.values)


# ---------------------------------------------------------------- what is huge


HUGE_CASES = {
    "observation": lambda p, size: p([0.1, size, 0.2]),
    "observation negative": lambda p, size: p([0.1, -size, 0.2], n_guide_steps=1),
    "condition": lambda p, size: p(FINITE, conditions={3: np.array([np.nan, size, np.nan])}),
    "warm start": lambda p, size: p(FINITE, warm_start=np.full((1, H, T), size), warm_start_strength=0.5),
    "scale": lambda p, size: p(FINITE, scale=size, n_guide_steps=2, guide_scaling="none"),
    "scale on clean plans": lambda p, size: p(FINITE, scale=-size, n_guide_steps=2, guide_on="clean"),
    "temperature": lambda p, size: p(FINITE, temperature=size),
    "weight": lambda p, size: p(FINITE, objectives=[(size, pay)], n_guide_steps=2),
    "weight of the learned value": lambda p, size: p(FINITE, objectives=[(size, p.learned_value)], n_guide_steps=2),
}


@pytest.mark.parametrize("size", [1e10, 1e20, 1e25, 1e30, 1e37])
@pytest.mark.parametrize("name", HUGE_CASES)
def test_a_huge_number_leads_to_a_plan_or_to_an_error_that_names_it(name, size):
    pipeline = make_pipeline()
    words = name.split()[0]
    with case(GROUP, f"{name} of {size:g}") as verdict:
        plan, refusal = attempt(HUGE_CASES[name], pipeline, size)
        if plan is None:
            assert "observations [0]" in refusal
            assert "The largest number that went into them is" in refusal
            assert words in refusal
            verdict.outcome = "clear"
        else:
            assert plan.trajectories.isfinite().all()
            assert plan.values.isfinite().all()


@pytest.mark.parametrize("number", [1e300, -1e300])
def test_numbers_beyond_float32_in_settings_lead_to_a_plan_or_an_error(pipeline, number):
    with case(GROUP, f"settings of {number:g}") as verdict:
        for options in ({"scale": number}, {"max_grad_norm": abs(number)}, {"temperature": abs(number)}):
            plan, refusal = attempt(pipeline, FINITE, n_guide_steps=1, **options)
            if plan is None:
                assert_overflow(refusal)
                verdict.outcome = "clear"
            else:
                check(plan, FINITE)


def test_only_the_rows_that_cannot_be_planned_are_named(pipeline):
    observations = np.tile(FINITE, (4, 1))
    observations[[1, 3], 2] = 1e37
    with case(GROUP, "two rows of four") as verdict:
        words = (
            r"observations \[1, 3\] are not finite.*in the observation of row 1: entry 2 of the observation at step 0"
        )
        with pytest.raises(ValueError, match=words):
            pipeline(observations)
        verdict.outcome = "clear"


@pytest.mark.parametrize("component", ["unet", "value_function"])
def test_weights_that_became_nan_after_loading_are_named(component):
    pipeline = make_pipeline()
    name, weight = next(iter(getattr(pipeline, component).named_parameters()))
    weight.data[0] = math.nan
    with case(GROUP, f"NaN in {component}") as verdict:
        with pytest.raises(ValueError, match=f"Weight {name} of {component} is not finite"):
            pipeline(FINITE, n_guide_steps=0)
        verdict.outcome = "clear"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_candidate_whose_value_is_not_finite_is_never_chosen(pipeline, number):
    def judge(observations, actions):
        values = torch.arange(len(actions), dtype=torch.float32)
        values[::2] = number
        return values

    with case(GROUP, f"a value of {number}"):
        plan = pipeline(FINITE, objectives=[(1.0, judge)], batch_size=5, return_candidates=True)
        assert plan.values.tolist() == [3.0]
        assert plan.candidates.values[0, :2].tolist() == [3.0, 1.0]
        check(plan, FINITE)


def test_an_objective_whose_gradient_is_nan_is_an_error(pipeline):
    with case(GROUP, "a gradient of NaN") as verdict:
        with pytest.raises(ValueError, match=r"plans for observations \[0\] are not finite.*gradients must be finite"):
            pipeline(FINITE, objectives=[(1.0, lambda o, a: (0 * a).sqrt().sum((1, 2)))], n_guide_steps=1)
        verdict.outcome = "clear"


# ---------------------------------------------------------------- objectives and callbacks that write


WRITERS = {
    "add to actions": lambda o, a: a.add_(5),
    "zero actions": lambda o, a: a.zero_(),
    "NaN into actions": lambda o, a: a.fill_(math.nan),
    "an entry of an action": lambda o, a: a[:, 0].fill_(7),
    "add to observations": lambda o, a: o.add_(5),
    "the present": lambda o, a: o[:, 0].zero_(),
    "numbers behind the gradient": lambda o, a: (o.data.fill_(3), a.data.fill_(3)),
}


@pytest.mark.parametrize("guided", [0, 2])
@pytest.mark.parametrize("name", WRITERS)
def test_an_objective_that_writes_into_its_arguments_changes_no_plan(pipeline, name, guided):
    def pure(observations, actions):
        return observations.square().sum((1, 2)) - actions.sum((1, 2))

    def writing(observations, actions):
        value = pure(observations.clone(), actions.clone())
        WRITERS[name](observations, actions)
        return value

    options = {"n_guide_steps": guided, "scale": 0.01, "batch_size": 4, "return_candidates": True}
    with case(GROUP, f"an objective writes: {name}, {guided} guide steps"):
        plans = [
            pipeline(FINITE, objectives=[(1.0, one), (0.5, pure)], **options, generator=seeded())
            for one in (pure, writing)
        ]
        assert torch.equal(plans[0].candidates.trajectories, plans[1].candidates.trajectories)
        assert torch.equal(plans[0].candidates.values, plans[1].candidates.values)
        check(plans[1], FINITE)


def test_a_callback_that_writes_changes_no_plan_and_what_it_raises_ends_the_call(pipeline):
    def write(pipeline, index, timestep, tensors):
        tensors["trajectories"].fill_(math.nan)
        return tensors

    def fail(pipeline, index, timestep, tensors):
        raise KeyError("the callback's own")

    with case(GROUP, "a callback writes or raises"):
        expected = pipeline(FINITE, generator=seeded())
        plan = pipeline(FINITE, generator=seeded(), callback_on_step_end=write)
        assert torch.equal(plan.trajectories, expected.trajectories)
        with pytest.raises(KeyError, match="the callback's own"):
            pipeline(FINITE, callback_on_step_end=fail)
        assert torch.equal(pipeline(FINITE, generator=seeded()).trajectories, expected.trajectories)


# ---------------------------------------------------------------- threads, and a plan within a plan


SCHEDULERS = {
    "DDPM": None,
    "DDIM": DDIMScheduler,
    "DPMSolver": DPMSolverMultistepScheduler,
    "UniPC": UniPCMultistepScheduler,
}


def with_scheduler(name):
    pipeline = make_pipeline(sampler=None)
    if SCHEDULERS[name] is not None:
        pipeline.scheduler = SCHEDULERS[name].from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    return pipeline


@pytest.mark.parametrize("name", SCHEDULERS)
def test_threads_plan_on_one_pipeline_with_its_own_scheduler_as_each_would_alone(name):
    pipeline = with_scheduler(name)
    alone = {
        steps: pipeline(FINITE, num_inference_steps=steps, generator=seeded(steps)).trajectories for steps in (2, 3, 5)
    }
    wrong = []

    def plan(turn):
        for i in range(6):
            steps = (2, 3, 5)[(turn + i) % 3]
            try:
                again = pipeline(FINITE, num_inference_steps=steps, generator=seeded(steps)).trajectories
                wrong.extend([steps] if not torch.equal(again, alone[steps]) else [])
            except Exception as error:  # any is a failure
                wrong.append(error)

    with case(GROUP, f"threads, {name}"):
        threads = [threading.Thread(target=plan, args=(turn,)) for turn in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_plan_may_be_made_within_a_plan(name):
    pipeline = with_scheduler(name)
    expected = pipeline(FINITE, num_inference_steps=5, generator=seeded())

    def plan_too(pipeline, index, timestep, tensors):
        pipeline(-FINITE, num_inference_steps=3, generator=seeded(1))

    with case(GROUP, f"a plan within a plan, {name}"):
        plan = pipeline(FINITE, num_inference_steps=5, generator=seeded(), callback_on_step_end=plan_too)
        assert torch.equal(plan.trajectories, expected.trajectories)


# ---------------------------------------------------------------- components that the user puts in


def test_components_that_do_not_fit_are_refused_in_words(sampled):
    with case(GROUP, "components that do not fit") as verdict:
        pipeline = make_pipeline()
        pipeline.unet = make_denoiser(T + 1, H, [16, 64])
        with pytest.raises(ValueError, match="the denoiser has 6 channels, but the statistics have 5"):
            pipeline(FINITE)
        pipeline = make_pipeline()
        pipeline.scheduler = DDIMScheduler(20, prediction_type="sample", trained_betas=[math.nan] * 20)
        with pytest.raises(ValueError, match="noise schedule of DDIMScheduler"):
            pipeline(FINITE)
        with pytest.raises(ValueError, match="prediction_type of DDPMScheduler is 'foo'"):
            planner(denoiser(), scheduler=noise_schedule("foo"))
        assert sampled == []
        verdict.outcome = "clear"


def test_a_network_of_nan_is_refused_where_the_planner_is_made():
    network = denoiser()
    next(network.parameters()).data.view(-1)[3] = math.nan
    with case(GROUP, "a network of NaN") as verdict:
        with pytest.raises(ValueError, match="of unet is not finite"):
            planner(network)
        verdict.outcome = "clear"


STATISTICS = {
    "shift": [[0.0] * (T - 1) + [bad] for bad in (math.nan, math.inf, None, "0", 1e300, HUGE, True)]
    + [None, 3, "00000"],
    "scale": [[1.0] * (T - 1) + [bad] for bad in (math.nan, 0.0, -1.0, 1e-45, 1e300, None, "1")] + [None, {}],
    "return_shift": [math.nan, math.inf, None, "0", [0.0], 1e300],
    "return_scale": [math.nan, math.inf, None, 0.0, -1.0, 1e300, 1e-45],
    "action_low": [[math.nan, None], [math.inf, None], ["0", None], [2.0, None], None, 1.0, [1e300, None]],
    "action_high": [[math.nan, None], [-2.0, None], "ab", [None]],
    "action_dim": [0, -1, T, T + 1, 2.0, "2", None, True, HUGE],
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_that_cannot_be_are_refused_where_the_planner_is_made(name):
    for number, value in enumerate(STATISTICS[name]):
        with case(GROUP, f"{name} {number}") as verdict:
            bounds = {"action_low": [-1.0, None], "action_high": [1.0, None]}
            with pytest.raises(ValueError, match=name):
                planner(denoiser(), normalization=UNITS | bounds | {name: value})
            verdict.outcome = "clear"


# ---------------------------------------------------------------- agents


def make_agent(pipeline, seeds=(0, 1), **options):
    agent = PlanningAgent(pipeline, **options)
    agent.reset(seeds)
    return agent


TWO = np.tile(FINITE, (2, 1))
CONTROLLER = PositionController([0, 1], [1, 2], 1.0, 0.1)
AGENT_WRONG = {
    "act before reset": (lambda p: PlanningAgent(p).act(TWO), "act needs a reset first"),
    "a seed of -1": (lambda p: make_agent(p, [-1]), "seed 0 is -1"),
    "a seed of 1.5": (lambda p: make_agent(p, [1.5]), "seed 0 is 1.5"),
    "a seed of True": (lambda p: make_agent(p, [0, True]), "seed 1 is True"),
    "a seed of text": (lambda p: make_agent(p, ["a"]), "seed 0 is a"),
    "a seed of 2 ** 64": (lambda p: make_agent(p, [2**64]), "seed 0 is 18446744073709551616"),
    "seeds of text": (lambda p: make_agent(p, "ab"), "seeds is ab"),
    "seeds a number": (lambda p: make_agent(p, 3), "seeds is 3"),
    "seeds None": (lambda p: make_agent(p, None), "seeds is None"),
    "seeds of two dimensions": (lambda p: make_agent(p, np.zeros((2, 1), int)), "seeds is"),
    "seeds of floats": (lambda p: make_agent(p, np.arange(2.0)), "seed 0 is 0.0"),
    "one observation": (lambda p: make_agent(p).act(TWO[:1]), "1 observations, but reset was given 2"),
    "a flat observation": (lambda p: make_agent(p, [0] * O).act(FINITE), r"shape \(3,\)"),
    "an observation too wide": (lambda p: make_agent(p).act(np.zeros((2, O + 1))), r"shape \(2, 4\)"),
    "observations None": (lambda p: make_agent(p).act(None), "observations is None"),
    "observations of objects": (lambda p: make_agent(p).act(TWO.astype(object)), "observations is"),
    "observations masked": (lambda p: make_agent(p).act(np.ma.masked_array(TWO, True)), "masked"),
    "observations of NaN": (lambda p: make_agent(p).act(TWO * np.nan), "not finite"),
    "one observation of NaN": (
        lambda p: make_agent(p).act(np.stack([FINITE, FINITE * np.nan])),
        r"in rows \[1\]",
    ),
    "an observation of 1e30": (lambda p: make_agent(p).act(TWO * 1e30), r"observations \[0, 1\]"),
    "active of another shape": (lambda p: make_agent(p).act(TWO, np.array([True])), r"active has shape \(1,\)"),
    "active of numbers": (lambda p: make_agent(p).act(TWO, np.array([1, 0])), "type int64"),
    "active text": (lambda p: make_agent(p).act(TWO, "yes"), "active has shape"),
    "conditions no function": (lambda p: PlanningAgent(p, conditions={1: FINITE}), "conditions is"),
    "conditions of NaN steps": (lambda p: make_agent(p, conditions=lambda o: {1.5: o}).act(TWO), "step 1.5"),
    "a controller of NaN": (
        lambda p: make_agent(p, controller=lambda o, q: np.full((2, A), np.nan)).act(TWO),
        r"not finite for environments \[0, 1\]",
    ),
    "a controller of inf in one": (
        lambda p: make_agent(p, controller=lambda o, q: np.array([[0, 0], [0, np.inf]])).act(TWO),
        r"not finite for environments \[1\]",
    ),
    "a controller of another shape": (
        lambda p: make_agent(p, controller=lambda o, q: np.zeros((2, A + 1))).act(TWO),
        r"actions of shape \(2, 3\)",
    ),
    "a controller of None": (lambda p: make_agent(p, controller=lambda o, q: None).act(TWO), "controller returned is"),
    "a controller that is none": (lambda p: PlanningAgent(p, controller=1.0), "controller is 1.0"),
    "a gain of NaN": (lambda p: PositionController([0], [1], math.nan, 1.0), "position_gain is nan"),
    "a gain of text": (lambda p: PositionController([0], [1], 1.0, "1"), "velocity_gain is 1"),
    "positions without velocities": (lambda p: PositionController([0, 1], [1], 1.0, 1.0), "2 positions and 1"),
    "positions of floats": (lambda p: PositionController([0.0], [1], 1.0, 1.0), "positions is"),
    "a position outside": (
        lambda p: make_agent(p, controller=PositionController([0, 9], [1, 2], 1.0, 1.0)).act(TWO),
        r"indices \[9\]",
    ),
    "a setting": (lambda p: PlanningAgent(p, replan_every=H + 1), "replan_every is 9"),
    "a setting of True": (lambda p: PlanningAgent(p, replan_every=True), "replan_every is True"),
    "an unknown setting of an agent": (lambda p: PlanningAgent(p, speed=1), "unknown settings"),
    "objectives of an agent": (lambda p: make_agent(p, objectives=[pay]).act(TWO), "objective 0 is"),
}


@pytest.mark.parametrize("name", AGENT_WRONG)
def test_an_agent_refuses_what_is_wrong_in_words(pipeline, name):
    wrong, words = AGENT_WRONG[name]
    with case(GROUP, name) as verdict:
        with pytest.raises(ValueError, match=words):
            wrong(pipeline)
        verdict.outcome = "clear"


AGENT_RIGHT = {
    "seeds of numpy": lambda p: make_agent(p, np.arange(2)).act(TWO),
    "seeds of uint8": lambda p: make_agent(p, np.arange(2, dtype=np.uint8)).act(TWO),
    "seeds of a range": lambda p: make_agent(p, range(2)).act(TWO),
    "observations of float32": lambda p: make_agent(p).act(TWO.astype(np.float32)),
    "observations in a tensor": lambda p: make_agent(p).act(torch.tensor(TWO)),
    "observations in a list": lambda p: make_agent(p).act(TWO.tolist()),
    "observations read-only": lambda p: make_agent(p).act(read_only(TWO), read_only([True, True])),
    "active a list": lambda p: make_agent(p).act(TWO, [True, True]),
}


@pytest.mark.parametrize("name", AGENT_RIGHT)
def test_an_agent_takes_what_means_the_same(pipeline, name):
    with case(GROUP, name):
        np.testing.assert_array_equal(AGENT_RIGHT[name](pipeline), make_agent(pipeline).act(TWO))


def test_an_idle_environments_nan_neither_stops_an_agent_nor_reaches_an_environment(pipeline):
    with case(GROUP, "NaN where nobody acts"):
        agent = make_agent(pipeline, controller=CONTROLLER)
        actions = agent.act(np.stack([FINITE, FINITE * np.nan]), np.array([True, False]))
        assert np.isfinite(actions).all()


def test_a_wrong_seed_begins_no_episode(pipeline):
    with case(GROUP, "a wrong seed among right ones"):
        agent, other = make_agent(pipeline, replan_every=4), make_agent(pipeline, replan_every=4)
        first = [one.act(TWO) for one in (agent, other)]
        with pytest.raises(ValueError, match="seed 1"):
            agent.reset([3, -1])
        np.testing.assert_array_equal(*first)
        np.testing.assert_array_equal(agent.act(TWO), other.act(TWO))


def test_after_an_observation_that_cannot_be_planned_from_the_agent_goes_on(pipeline):
    with case(GROUP, "an agent after an error"):
        agent, other = make_agent(pipeline), make_agent(pipeline)
        with pytest.raises(ValueError, match="not finite"):
            agent.act(TWO * np.nan)
        np.testing.assert_array_equal(agent.act(TWO), other.act(TWO))


# ---------------------------------------------------------------- a fuzz


def as_given(draw, array):
    """Return an array in one of the forms that a call takes."""
    form = draw(st.sampled_from(["float64", "float32", "tensor", "list", "read-only", "reversed", "big-endian"]))
    array = np.asarray(array)
    return {
        "float64": lambda: array,
        "float32": lambda: array.astype(np.float32),
        "tensor": lambda: torch.tensor(array),
        "list": lambda: array.tolist(),
        "read-only": lambda: read_only(array),
        "reversed": lambda: array[..., ::-1].copy()[..., ::-1],
        "big-endian": lambda: array.astype(">f4"),
    }[form]()


def numbers(shape, seed, size):
    return (np.random.default_rng(seed).normal(size=shape) * size).astype(np.float32).astype(np.float64)


SPOILERS = sorted(WRONG)


@st.composite
def calls(draw):
    """Draw a call: its raw parts, and whether one of them is wrong or huge."""
    count, horizon = draw(st.integers(1, 3)), draw(st.sampled_from([2, 4, 8]))
    seed, size = draw(st.integers(0, 2**32)), draw(st.sampled_from([1e-3, 1.0, 1.0, 1.0, 30.0, 1e6, 1e12, 1e20, 1e28]))
    settings = {
        "planning_horizon": horizon,
        "batch_size": draw(st.integers(1, 4)),
        "num_inference_steps": draw(st.integers(1, 3)),
        "sampler": draw(st.sampled_from([*SAMPLERS, None])),
        "n_guide_steps": draw(st.sampled_from([0, 0, 1, 2])),
        "scale": draw(st.sampled_from([0.0, 0.01, -0.1, 1.0, 100.0])),
        "guide_scaling": draw(st.sampled_from(["variance", "std", "none", "stock"])),
        "guide_on": draw(st.sampled_from(["noisy", "clean"])),
        "t_stopgrad": draw(st.integers(0, 25)),
        "max_grad_norm": draw(st.sampled_from([None, 0.0, 1.0])),
        "warm_start_strength": draw(st.sampled_from([0.0, 0.5, 1.0])),
    }
    if settings["sampler"] is not None:
        settings["temperature"] = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    observations = numbers((count, O), seed, size)
    conditions = {}
    for step in draw(st.sets(st.sampled_from([1, -1]), max_size=2 if horizon > 2 else 1)):
        condition = numbers((count, O) if draw(st.booleans()) else (O,), seed + 1, draw(st.sampled_from([1.0, 10.0])))
        if draw(st.booleans()):
            condition[..., draw(st.integers(0, O - 1))] = np.nan
        conditions[step] = condition
    warm = numbers((count, horizon, T), seed + 2, 1.0) if draw(st.booleans()) else None
    objectives = draw(st.sampled_from([None, None, "pay", "both", "writing"]))
    spoiler = draw(st.sampled_from([None, None, None, *SPOILERS])) if draw(st.booleans()) else None
    forms = {"observation": as_given(draw, observations)}
    forms["conditions"] = {step: as_given(draw, one) for step, one in conditions.items()} or None
    forms["warm_start"] = None if warm is None else as_given(draw, warm)
    return {
        "raw": (observations, conditions, warm),
        "forms": forms,
        "settings": settings,
        "objectives": objectives,
        "spoiler": spoiler,
        "seed": seed,
        "huge": size > 1e3,
    }


def writing(observations, actions):
    value = pay(observations.clone(), actions.clone())
    observations.zero_()
    actions.fill_(math.nan)
    return value


def objectives_of(pipeline, name):
    return {
        None: None,
        "pay": [(1.0, pay)],
        "both": [(0.5, pipeline.learned_value), (2, pay)],
        "writing": [(1.0, writing)],
    }[name]


def fuzz_call(pipeline, begun, call):
    observations, conditions, warm = call["raw"]
    forms, settings = call["forms"], call["settings"]
    begun.clear()
    options = {"objectives": objectives_of(pipeline, call["objectives"])}
    with case(GROUP, "fuzz") as verdict:
        if call["spoiler"] is not None:
            observation, wrong, _ = WRONG[call["spoiler"]]
            spoilt = forms | {"return_candidates": True} | options | settings | wrong
            if observation is not FINITE:
                spoilt["observation"] = observation
            assert attempt(pipeline, **spoilt)[0] is None, call["spoiler"]
            assert begun == []
            verdict.outcome = "clear"
            return

        def plan(rows):
            return pipeline(
                forms["observation"] if rows is None else observations[rows],
                conditions=forms["conditions"]
                if rows is None
                else {step: one[rows] if one.ndim == 2 else one for step, one in conditions.items()},
                warm_start=forms["warm_start"] if rows is None or warm is None else warm[rows],
                generator=[seeded(call["seed"] + i) for i in range(len(observations))[rows or slice(None)]],
                return_candidates=True,
                **options,
                **settings,
            )

        whole, refusal = attempt(plan, None)
        if whole is None:
            assert call["huge"] or abs(settings["scale"]) >= 1 or settings["scale"] < 0, refusal
            assert_overflow(refusal)
            verdict.outcome = "clear"
            return
        check(whole, observations, conditions)
        first = plan(slice(0, 1))
        assert torch.equal(first.candidates.trajectories[0], whole.candidates.trajectories[0])
        assert torch.equal(first.values[0], whole.values[0])


def fuzz(examples):
    return hypothesis.settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=examples,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@fuzz(200)
@hypothesis.given(call=calls())
def test_a_drawn_call_is_refused_before_sampling_or_plans_as_promised(pipeline, sampled, call):
    fuzz_call(pipeline, sampled, call)


@pytest.mark.slow
@fuzz(3000)
@hypothesis.given(call=calls())
def test_thousands_of_drawn_calls_are_refused_or_plan_as_promised(pipeline, sampled, call):
    fuzz_call(pipeline, sampled, call)


@st.composite
def lives(draw):
    """Draw what happens to an agent of a few environments."""
    count = draw(st.integers(1, 3))
    settings = {
        "replan_every": draw(st.sampled_from([0, 1, 2, 3])),
        "warm_start_strength": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "n_guide_steps": draw(st.sampled_from([0, 0, 1])),
        "scale": 0.01,
        "batch_size": draw(st.integers(1, 3)),
        "sampler": draw(st.sampled_from(SAMPLERS)),
    }
    events = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["act", "act", "act", "act", "reset", "idle", "wrong"]),
                st.integers(0, 2**32),
                st.integers(0, count - 1),
            ),
            min_size=1,
            max_size=6,
        )
    )
    return count, settings, events, draw(st.booleans()), draw(st.sampled_from([1.0, 1e3, 1e28]))


WRONG_OBSERVATIONS = [None, "x", FINITE, np.zeros((7, O)), np.full((1, O), np.nan), np.ma.masked_array([FINITE], True)]


def fuzz_agent(pipeline, life):
    count, settings, events, followed, size = life
    with case(GROUP, "fuzz of agents") as verdict:
        options = settings | ({"controller": CONTROLLER} if followed else {})
        agent, alone = PlanningAgent(pipeline, **options), PlanningAgent(pipeline, **options)
        agent.reset(np.arange(count) + 7)
        alone.reset([7])
        for event, seed, row in events:
            if event == "reset":
                agent.reset([seed if i == row else None for i in range(count)])
                alone.reset([seed if row == 0 else None])
                continue
            if event == "wrong":
                wrong = WRONG_OBSERVATIONS[seed % len(WRONG_OBSERVATIONS)]
                if (
                    count == 1
                    and isinstance(wrong, np.ndarray)
                    and wrong.shape == (1, O)
                    and settings["replan_every"] != 1
                ):
                    continue  # it may be followed without being looked at
                with pytest.raises(ValueError, match=r"observation|controller"):
                    agent.act(wrong)
                continue
            observations = numbers((count, O), seed, size)
            active = np.ones(count, bool)
            if event == "idle" and row:
                active[row] = False
                observations[row] = np.nan
            actions, refusal = attempt(agent.act, observations, active)
            if actions is None:
                assert size > 1e20, refusal
                assert_overflow(refusal)
                verdict.outcome = "clear"
                return
            assert actions.shape == (count, A)
            assert actions.dtype == np.float32
            assert np.isfinite(actions).all()
            assert (torch.tensor(actions[active]) >= LOW).all()
            assert (torch.tensor(actions[active]) <= HIGH).all()
            np.testing.assert_array_equal(actions[:1], alone.act(observations[:1]))


@fuzz(50)
@hypothesis.given(life=lives())
def test_a_drawn_agent_acts_as_it_would_alone_or_refuses(pipeline, life):
    fuzz_agent(pipeline, life)


@pytest.mark.slow
@fuzz(1000)
@hypothesis.given(life=lives())
def test_a_thousand_drawn_agents_act_as_they_would_alone_or_refuse(pipeline, life):
    fuzz_agent(pipeline, life)
