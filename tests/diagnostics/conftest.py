"""A planner to diagnose."""

import pytest
import torch
from diffusers import DDPMScheduler
from fakes import identity

from vgp_lightning.pipeline.networks import make_denoiser, make_value_function
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline


@pytest.fixture
def make_folder(tmp_path):
    """Save a tiny untrained planner, of plans of 4 steps."""

    def make(actions=1, observations=2, value=True, task=None, **planner):
        total = actions + observations
        torch.manual_seed(0)
        ValueGuidedPlannerPipeline(
            make_denoiser(total, 4, [16, 16]),
            DDPMScheduler(5, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False),
            make_value_function(total, 4, [16, 64]) if value else None,
            normalization=identity(actions, total),
            planner={"planning_horizon": 4, "batch_size": 3, "sampler": "ddim", "num_inference_steps": 3, **planner},
            task={"env_id": "Track-v0", "discount": 0.5, "termination_penalty": -10.0, **(task or {})},
        ).save_pretrained(tmp_path / "tiny")
        return str(tmp_path / "tiny")

    return make
