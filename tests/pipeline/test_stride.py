"""A planner with a stride plans as one without does whose steps are as long; and folding by hand."""

import numpy as np
import pytest
import torch
from fakes import OBSERVATION, UNITS, A, H, O, T, noise_schedule, planner, seeded

from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.pipeline.networks import make_denoiser, make_value_function
from vgp_lightning.pipeline.stock import StockEnvironment
from vgp_lightning.pipeline.stride import fold, unfold

S = 2  # the stride
BOUNDED = UNITS | {"action_low": [-0.2, None], "action_high": [0.6, 0.1]}
# The same statistics for steps that are S steps long: the actions of S steps are one.
LONG = BOUNDED | {
    "action_dim": S * A,
    **{name: UNITS[name][:A] * S + UNITS[name][A:] for name in ("shift", "scale")},
    **{name: BOUNDED[name] * S for name in ("action_low", "action_high")},
}


def networks():
    torch.manual_seed(0)
    return make_denoiser(S * A + O, H // S, [16, 64]), make_value_function(S * A + O, H // S, [16, 64])


def strided(**settings):
    return planner(*networks(), noise_schedule(), BOUNDED | {"stride": S}, **settings)


def with_long_steps(**settings):
    return planner(*networks(), noise_schedule(), LONG, **{"planning_horizon": H // S} | settings)


def assert_same(plan, long):
    """The plan has all steps of the one with long steps, to the bit."""
    torch.testing.assert_close(plan.actions.reshape(*long.actions.shape), long.actions, rtol=0, atol=0)
    torch.testing.assert_close(plan.observations[..., ::S, :], long.observations, rtol=0, atol=0)
    torch.testing.assert_close(plan.values, long.values, rtol=0, atol=0)


# ---------------------------------------------------------------- folding


def test_folding_takes_every_observation_of_the_stride_and_all_actions():
    steps = torch.tensor([[1.0, 10], [2, 20], [3, 30], [4, 40], [5, 50], [6, 60]])  # an action, an observation
    folded = torch.tensor([[1.0, 2, 3, 10], [4, 5, 6, 40]])
    assert torch.equal(fold(steps, 3, 1), folded)
    assert torch.equal(fold(steps, 1, 1), steps)


def test_unfolding_puts_the_line_between_two_observations_and_keeps_the_last():
    folded = torch.tensor([[1.0, 2, 3, 10], [4, 5, 6, 40]])
    steps = torch.tensor([[1.0, 10], [2, 20], [3, 30], [4, 40], [5, 40], [6, 40]])
    assert torch.equal(unfold(folded, 3, 1), steps)
    assert torch.equal(unfold(folded, 1, 1), folded)


def test_unfolding_has_the_gradient_of_a_line():
    folded = torch.zeros(2, 4, requires_grad=True)
    unfold(folded, 3, 1)[1, 1].backward()  # two thirds of the first observation, one of the second
    assert folded.grad.tolist() == [[0, 0, 0, pytest.approx(2 / 3)], [0, 0, 0, pytest.approx(1 / 3)]]


# ---------------------------------------------------------------- planning


@pytest.mark.parametrize(
    "settings",
    [
        {"n_guide_steps": 0},
        {"n_guide_steps": 2, "scale": 0.05},
        {"n_guide_steps": 1, "scale": 0.05, "guide_on": "clean", "max_grad_norm": 0.5},
        {"n_guide_steps": 0, "choice_temperature": 0.5},
        {"n_guide_steps": 0, "sampler": "ddim", "num_inference_steps": 4, "temperature": 0.5},
    ],
)
def test_a_planner_with_a_stride_plans_as_one_of_long_steps(settings):
    plan, long = (
        pipeline([OBSERVATION, -OBSERVATION], generator=[seeded(0), seeded(1)], return_candidates=True)
        for pipeline in (strided(**settings), with_long_steps(**settings))
    )
    assert plan.actions.shape == (2, H, A)
    assert plan.observations.shape == (2, H, O)
    assert_same(plan, long)
    assert_same(plan.candidates, long.candidates)


def test_a_warm_start_is_all_steps_of_a_plan():
    previous = torch.randn(1, H, T, generator=seeded(5)).numpy()
    settings = {"warm_start_strength": 0.4, "n_guide_steps": 0}
    plan = strided(**settings)(OBSERVATION, warm_start=previous, generator=seeded())
    actions, seen = previous[..., :A].reshape(1, H // S, S * A), previous[:, ::S, A:]
    long = with_long_steps(**settings)(
        OBSERVATION, warm_start=np.concatenate([actions, seen], axis=2), generator=seeded()
    )
    assert_same(plan, long)


@pytest.mark.parametrize(("step", "of_long_steps"), [(-1, -1), (H - 1, -1), (H - S, -1), (2 * S, 2)])
def test_a_condition_holds_at_a_step_of_the_stride_or_at_the_end(step, of_long_steps):
    goal = np.array([1.0, np.nan, 3.0])
    plan = strided()(OBSERVATION, conditions={step: goal}, generator=seeded())
    assert_same(plan, with_long_steps()(OBSERVATION, conditions={of_long_steps: goal}, generator=seeded()))
    np.testing.assert_array_equal(plan.observations[0, step, [0, 2]].numpy(), np.float32([1, 3]))


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([1], f"condition at step 1: this planner has a stride of {S}, so a multiple of {S} is needed, or one of the"),
        ([-S - 1], f"condition at step {-S - 1}: this planner has a stride of {S}"),
        ([-1, H - S], f"condition at step {H - S} meets another one of the same step"),
    ],
)
def test_a_condition_between_the_steps_of_the_stride_is_refused(steps, words):
    with pytest.raises(ValueError, match=words):
        strided()(OBSERVATION, conditions=dict.fromkeys(steps, OBSERVATION))


def test_an_objective_sees_all_steps_and_moves_the_action_that_it_names():
    def third(observations, actions):
        assert (observations.shape[1:], actions.shape[1:]) == ((H, O), (H, A))
        return actions[:, 3, 1] + 0 * observations.sum(dim=(1, 2))

    def third_of_long_steps(observations, actions):
        return actions[:, 3 // S, 3 % S * A + 1] + 0 * observations.sum(dim=(1, 2))

    settings = {"n_guide_steps": 1, "scale": 0.1}
    plan = strided(**settings)(OBSERVATION, objectives=[(1.0, third)], generator=seeded())
    long = with_long_steps(**settings)(OBSERVATION, objectives=[(1.0, third_of_long_steps)], generator=seeded())
    assert_same(plan, long)


def test_what_is_committed_holds_for_as_many_steps_as_it_says():
    previous = strided()(OBSERVATION, generator=seeded(1)).trajectories.numpy()
    previous[..., A:] = np.nan
    plan = strided()(OBSERVATION, committed=(previous, np.array([1.0] * 3 + [0.0] * (H - 3))), generator=seeded(2))
    kept = (plan.actions.numpy() == previous[..., :A])[0].all(axis=1)
    assert kept.tolist() == [True] * 3 + [False] * (H - 3)


# ---------------------------------------------------------------- acting


@pytest.mark.parametrize("replan_every", [0, 3])
def test_an_agent_executes_all_actions_of_its_plans(replan_every):
    pipeline = strided(batch_size=1, n_guide_steps=0)
    agent = PlanningAgent(pipeline, replan_every=replan_every, warm_start_strength=0.5)
    plans = []
    agent.on_plan = lambda rows, plan: plans.append(plan.actions[0].numpy())
    agent.reset([7])
    acted = [agent.act(OBSERVATION[None])[0] for _ in range(6)]
    assert len(plans) == (1 if replan_every == 0 else 2)
    expected = plans[0][:6] if replan_every == 0 else np.concatenate([plan[:3] for plan in plans])
    np.testing.assert_array_equal(acted, expected)


def test_a_controller_follows_the_line_between_the_observations_of_the_plan():
    pipeline = strided(batch_size=1, n_guide_steps=0)
    followed = []

    def controller(observations, planned):
        followed.append(planned[0].copy())
        return np.zeros((1, A))

    agent = PlanningAgent(pipeline, replan_every=0, controller=controller)
    plans = []
    agent.on_plan = lambda rows, plan: plans.append(plan.observations[0].numpy())
    agent.reset([7])
    for _ in range(2):
        agent.act(OBSERVATION[None])
    seen = plans[0][::S]
    np.testing.assert_allclose(followed, [(seen[0] + seen[1]) / 2, seen[1]], rtol=1e-6)


def test_diffusers_own_planner_returns_the_actions_of_a_stride(tmp_path):
    from diffusers.experimental import ValueGuidedRLPipeline

    folders = []
    for pipeline, name in ((strided(), "strided"), (with_long_steps(), "long")):
        pipeline.save_pretrained(tmp_path / name)
        folders.append(tmp_path / name)
    acted = []
    for folder in folders:
        stock = ValueGuidedRLPipeline.from_pretrained(folder, env=StockEnvironment(folder))
        stock.set_progress_bar_config(disable=True)
        torch.manual_seed(0)
        acted.append(stock(OBSERVATION.astype(np.float32), batch_size=2, planning_horizon=H // S, n_guide_steps=1))
    assert acted[0].shape == (S * A,)
    np.testing.assert_array_equal(*acted)


# ---------------------------------------------------------------- what is refused


def test_a_horizon_that_the_stride_does_not_divide_is_refused_with_the_nearest_that_fits():
    words = rf"planning_horizon 6 does not fit a denoiser of 2 widths with a stride of {S}: it must be a multiple of 4"
    with pytest.raises(ValueError, match=words):
        strided()(OBSERVATION, planning_horizon=6)


@pytest.mark.parametrize("horizon", [9, 17 * S])
def test_a_value_function_refuses_a_horizon_that_its_stride_does_not_divide_or_that_is_too_long(horizon):
    words = rf"data.horizon {horizon} does not fit a value function of 2 widths with a stride of {S}: it must be a "
    with pytest.raises(ValueError, match=rf"{words}multiple of {S} from {S} to {16 * S}"):
        make_value_function(S * A + O, horizon, [16, 64], S)


@pytest.mark.parametrize("stride", [0, -1, 1.5, "two", True])
def test_a_folder_with_a_stride_that_is_none_is_refused(stride):
    with pytest.raises(ValueError, match=rf"stride of normalization is {stride}: a whole number from 1 on is needed"):
        planner(*networks(), noise_schedule(), BOUNDED | {"stride": stride})


def test_statistics_that_do_not_fit_channels_and_stride_are_refused():
    with pytest.raises(
        ValueError, match=r"5 shifts and 5 scales, but the denoiser has 7 channels for the actions of 3"
    ):
        planner(*networks(), noise_schedule(), BOUNDED | {"stride": 3})


def test_a_value_function_of_another_stride_is_no_objective():
    other = planner(
        make_denoiser(T, H, [16, 64]), make_value_function(T, H, [16, 64]), noise_schedule(), BOUNDED
    ).learned_value
    with pytest.raises(ValueError, match=f"a stride of 1, but this pipeline has {S}: train both with the same"):
        strided()(OBSERVATION, objectives=[(1.0, other)])
