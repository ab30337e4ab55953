"""What several test files share: stand-in networks, tiny planners and folders, an environment that is known."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from gymnasium import spaces

from vgp_lightning.agent.environments import make_environments
from vgp_lightning.agent.episodes import Episode
from vgp_lightning.agent.planning import PlanningAgent
from vgp_lightning.agent.playing import Keeping, play
from vgp_lightning.export.folder import write_critic, write_folder, write_habit
from vgp_lightning.pipeline.critic import Critic
from vgp_lightning.pipeline.habit import Habit, hash_teacher
from vgp_lightning.pipeline.networks import make_denoiser, make_value_function
from vgp_lightning.pipeline.plan import Plan
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

A, O, H = 2, 3, 8  # noqa: E741 (the package's letters)
T = A + O
OBSERVATION = np.array([0.3, -0.2, 0.7])
IDENTITY = {
    "action_dim": A,
    "shift": [0.0] * T,
    "scale": [1.0] * T,
    "return_shift": 0.0,
    "return_scale": 1.0,
    "action_low": [None] * A,
    "action_high": [None] * A,
}
UNITS = IDENTITY | {
    "shift": [0.5, -0.5, 1.0, 2.0, 3.0],
    "scale": [0.1, 2.0, 3.0, 0.5, 10.0],
    "return_shift": 100.0,
    "return_scale": 7.0,
}


# diffusers 0.42.1 makes the sigmas of both solvers by np.array(tensor), which numpy 2 warns of.
NUMPY_2 = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


class Stub(torch.nn.Module):
    """A network whose output is a function of its input (B, T, H) and timesteps; it remembers both."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, function, channels=T):
        super().__init__()
        self.function = function
        self.config = {"in_channels": channels, "block_out_channels": (8, 32)}
        self.inputs, self.timesteps = [], []

    def forward(self, trajectories, timesteps):
        self.inputs.append(trajectories.detach().transpose(1, 2).clone())  # (B, H, T)
        self.timesteps.append(timesteps)
        return SimpleNamespace(sample=self.function(trajectories, timesteps))


class Uncalled(Stub):
    """A network that must not be reached."""

    def __init__(self):
        super().__init__(None)

    def forward(self, trajectories, timesteps):
        pytest.fail("sampling has begun")


def noise_schedule(prediction_type="sample", levels=20):
    # At the noisiest level of the cosine schedule epsilon says next to nothing of the clean plan: an error is
    # multiplied by 1 / sqrt(alpha), there about 400. A linear schedule keeps the comparison sharp.
    schedule = {"beta_schedule": "linear", "beta_end": 0.3} if prediction_type == "epsilon" else {}
    return DDPMScheduler(
        **({"num_train_timesteps": levels, "beta_schedule": "squaredcos_cap_v2"} | schedule),
        prediction_type=prediction_type,
        clip_sample=False,
        variance_type="fixed_small",
    )


def zeros(trajectories, timesteps):
    return torch.zeros_like(trajectories)


def planner(unet=None, value_function=None, scheduler=None, normalization=IDENTITY, **settings):
    defaults = {"planning_horizon": H, "batch_size": 3, "sampler": "ddpm", "t_stopgrad": 0}
    return ValueGuidedPlannerPipeline(
        unet or denoiser(), scheduler or noise_schedule(), value_function, normalization, defaults | settings
    )


def denoiser():
    torch.manual_seed(0)
    return make_denoiser(T, H, [16, 64])


def value_network():
    torch.manual_seed(1)
    return make_value_function(T, H, [16, 64])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pinned(trajectories, observation=OBSERVATION):
    trajectories = trajectories.clone()
    trajectories[..., 0, A:] = torch.as_tensor(observation, dtype=torch.float32)
    return trajectories


def joined(plan):
    return torch.cat([plan.actions, plan.observations], dim=-1)


def run_diffusers(scheduler, unet, noise, steps, generator=None):
    """The loop that diffusers documents, with the observation pinned after each step."""
    scheduler.set_timesteps(steps)
    trajectories = pinned(noise)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            output = unet(trajectories.flatten(0, 1).transpose(1, 2), timestep).sample
            output = output.transpose(1, 2).reshape(trajectories.shape)
            options = {} if generator is None else {"generator": generator}
            trajectories = pinned(scheduler.step(output, timestep, trajectories, **options).prev_sample)
    return trajectories


def ideal_denoiser(scheduler, mean, std):
    """E[clean | noised] where each entry of the data is N(mean, std^2) by itself."""

    def expectation(trajectories, timestep):
        alpha = scheduler.alphas_cumprod[timestep]
        gain = std**2 * alpha.sqrt() / (alpha * std**2 + 1 - alpha)
        return mean + gain * (trajectories - alpha.sqrt() * mean)

    return expectation


CENTRE = 0.8


def quadratic(trajectories, timesteps):
    """V(x) = -|x - c|^2 / 2, whose gradient is c - x."""
    return -0.5 * ((trajectories - CENTRE) ** 2).sum(dim=(1, 2))[:, None]


def identity(actions, channels):
    """Return statistics that leave numbers as they are, with actions from -1 to 1."""
    bounds = {"action_low": [-1.0] * actions, "action_high": [1.0] * actions}
    units = {"shift": [0.0] * channels, "scale": [1.0] * channels, "return_shift": 0.0, "return_scale": 1.0}
    return {"action_dim": actions, **units, **bounds}


def write_tiny(folder, guided=True, task=None, dimensions=(1, 2), stride=1, **planner):
    """Write a folder of untrained networks, of 10 noise levels and these numbers of actions and observations."""
    torch.manual_seed(0)
    actions, levels, length = dimensions[0], 10, H // stride
    channels = stride * actions + dimensions[1]
    pipeline = ValueGuidedPlannerPipeline(
        make_denoiser(channels, length, [16, 64]),
        DDPMScheduler(levels, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False),
        make_value_function(channels, length, [16, 64]) if guided else None,
        normalization=identity(actions, sum(dimensions)) | {"stride": stride},
        planner={"planning_horizon": H, "batch_size": 2, "sampler": "ddim", "num_inference_steps": 2} | planner,
        task=task or {},
    )
    return write_folder(pipeline, {"denoiser": "model: {}\n"}, Path(folder))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


PLAN_ELSEWHERE = """
import json, sys
sys.modules["vgp_lightning"] = None
import torch
from diffusers import DiffusionPipeline
folder = sys.argv[1]
pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
plan = pipeline([0.5, -0.5], generator=torch.Generator().manual_seed(7))
print(json.dumps({"settings": pipeline.resolve_settings(), "actions": plan.actions.tolist()}))
"""


def run_elsewhere(tmp_path, script, *arguments):
    """Return the JSON that a script prints last in a process of its own, without a network."""
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def settings_elsewhere(folder, tmp_path):
    """Return the settings and the plan of a process without the package, by diffusers' own class."""
    return run_elsewhere(tmp_path, PLAN_ELSEWHERE, folder)


HORIZON = 4


class Track(gymnasium.Env):
    """A point at (x, y): the action is added to x, and paid; y stays. Ends where x passes 3; the seed draws x."""

    observation_space = spaces.Box(-1e6, 1e6, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012
    slip = None  # a generator of chance that no seed decides

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.array([self.np_random.uniform(0, 1), 5.0])
        return self.place.copy(), {}

    def step(self, action):
        self.place[0] += action[0] + (self.slip.normal() if self.slip is not None else 0)
        return self.place.copy(), float(action[0]), bool(self.place[0] > 3), False, {}

    def render(self):
        return np.full((20, 30, 3), 100, np.uint8)


class Walker:
    """Plans to walk ahead by a step of its call's number / 10, and knows where that leads."""

    device, action_dim, observation_dim = torch.device("cpu"), 1, 2

    def __init__(self, step=None):
        self.step, self.calls = step, 0

    def resolve_settings(self, replan_every=1, **settings):
        return {
            "planning_horizon": HORIZON,
            "warm_start_strength": 1.0,
            "replan_every": replan_every,
            "rank_by": "value",
        }

    def __call__(self, observation, generator, conditions, warm_start, **settings):
        self.calls += 1
        step = self.calls / 10 if self.step is None else self.step
        there = torch.as_tensor(observation)[:, None].repeat(1, HORIZON, 1)
        there[:, :, 0] += step * torch.arange(HORIZON)
        actions = torch.full((len(observation), HORIZON, 1), step)
        return Plan(actions, there.float(), 10 * there[:, 0, 0])


def recorded(seeds, count=1, step=0.3, replan_every=1):
    environments = make_environments("Track-v0", count)
    agent = PlanningAgent(Walker(step), replan_every=replan_every)
    episodes = play(agent, environments, seeds, keeping=Keeping(plans=True)).episodes
    environments.close()
    return episodes


def recording(observations, rewards, plans=None, plan_steps=(), terminated=False, actions=None):
    length = len(rewards)
    return Episode(
        seed=0,
        agent_seed=0,
        observations=np.asarray(observations, dtype=np.float64),
        actions=np.zeros((length, 1), np.float32) if actions is None else np.asarray(actions, np.float32),
        rewards=np.asarray(rewards, dtype=np.float64),
        terminated=terminated,
        truncated=not terminated,
        plan_steps=np.array(plan_steps, dtype=np.int64),
        plans=np.zeros((0, 2, 2), np.float32) if plans is None else np.asarray(plans, np.float32),
        values=np.zeros(len(plan_steps), np.float32),
    )


def differences(first, second, where="checkpoint"):
    """Return where two checkpoints differ in any bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [where]
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [name for key in first for name in differences(first[key], second[key], f"{where}.{key}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        pairs = zip(first, second, strict=True)
        return [name for i, (a, b) in enumerate(pairs) for name in differences(a, b, f"{where}.{i}")]
    same = first == second or (isinstance(first, float) and math.isnan(first) and math.isnan(second))
    return [] if same else [f"{where}: {first} {second}"]


def add_critic(folder):
    """Put an untrained critic into a planner's folder, and return it."""
    torch.manual_seed(1)
    critic = Critic(ValueGuidedPlannerPipeline.from_pretrained(folder).normalization, [16], 2)
    write_critic(critic, Path(folder))
    return critic.requires_grad_(False)


def add_habit(folder, chunk=4, **settings):
    """Put an untrained habit of its planner into a folder, and return it."""
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    teacher = {
        "sha256": hash_teacher(pipeline.unet, pipeline.value_function, pipeline.normalization),
        "settings": dict(pipeline.resolve_settings(**settings)),
    }
    habit = Habit(pipeline.normalization, chunk, [16, 16], teacher)
    write_habit(habit, Path(folder))
    return habit
