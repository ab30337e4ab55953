"""A module with a stride learns what one without does whose steps are as long; and the road from fit to a plan."""

import json

import numpy as np
import pytest
import torch
from fakes import run_elsewhere
from learners import A, B, H, T, make_batch, make_module, with_statistics
from trainings import fit_words

from vgp_lightning.cli import main
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.value import ValueModule

S = 2  # the stride
LONG = {"transition_dim": T + (S - 1) * A, "action_dim": S * A, "horizon": H // S}


def pair(kind, **options):
    """A module with a stride, and one of as long steps, with the same weights and statistics."""
    strided = with_statistics(make_module(kind, stride=S, **options))
    long = make_module(kind, **LONG | options | {"loss_discount": 0.5**S} if kind is DenoiserModule else LONG)
    long.network.load_state_dict(strided.network.state_dict())
    for name in ("shift", "scale"):
        own = getattr(strided, name)
        getattr(long, name).copy_(torch.cat([own[:A].repeat(S), own[A:]]))
    for name in ("return_shift", "return_scale"):
        getattr(long, name).copy_(getattr(strided, name))
    return strided, long


@pytest.mark.parametrize("kind", [DenoiserModule, ValueModule])
def test_a_module_with_a_stride_has_the_loss_of_one_of_long_steps(kind):
    options = {"loss_discount": 0.5, "action_weight": 3.0} if kind is DenoiserModule else {}
    strided, long = pair(kind, **options)
    windows, returns = torch.randn(B, H, T), torch.randn(B)
    actions, seen = windows[..., :A].reshape(B, H // S, S * A), windows[:, ::S, A:]
    batches = make_batch(windows, returns), make_batch(torch.cat([actions, seen], dim=2), returns)
    losses = [module.training_loss(batch) for module, batch in zip((strided, long), batches, strict=True)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    assert losses[0] > 0


def test_a_stride_below_1_is_refused():
    with pytest.raises(ValueError, match=r"model.init_args.stride is 0: it must be at least 1"):
        make_module(stride=0)


def test_a_horizon_that_the_stride_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"data.horizon 4 does not fit a denoiser of 2 widths with a stride of 3"):
        make_module(stride=3)


PLAN = """
import json, sys
sys.modules["vgp_lightning"] = None
import torch
from diffusers import DiffusionPipeline
folder = sys.argv[1]
pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
plan = pipeline([0.5, -0.5], generator=torch.Generator().manual_seed(7))
print(json.dumps(plan.trajectories.tolist()))
"""


def test_from_fit_to_a_plan_elsewhere(tmp_path, make_data):
    main(["fit", *fit_words(tmp_path, make_data), "--model.init_args.stride", "2"])
    checkpoint = tmp_path / "runs" / "denoiser" / "version_0" / "checkpoints" / "last.ckpt"
    folder = tmp_path / "exported"
    main(["export", "--denoiser", str(checkpoint), "--output", str(folder)])
    index = json.loads((folder / "model_index.json").read_text())
    assert (index["normalization"]["stride"], index["planner"]["planning_horizon"]) == (2, 4)
    plan = ValueGuidedPlannerPipeline.from_pretrained(folder)([0.5, -0.5], generator=torch.Generator().manual_seed(7))
    assert plan.trajectories.shape == (1, 4, T)
    elsewhere = run_elsewhere(tmp_path, PLAN, folder)
    np.testing.assert_allclose(elsewhere, plan.trajectories, rtol=0, atol=1e-5)
