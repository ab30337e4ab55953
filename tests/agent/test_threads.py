"""The program vgp chooses its threads, and nothing else does; plans are the same with each number of them."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from fakes import NUMPY_2, identity

from vgp_lightning.agent import threads
from vgp_lightning.agent.deployment import Deployment
from vgp_lightning.cli import main
from vgp_lightning.export.folder import write_folder
from vgp_lightning.pipeline.networks import make_denoiser, make_noise_scheduler, make_value_function
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

ACTIONS, OBSERVATIONS = 3, 11
CHANNELS = ACTIONS + OBSERVATIONS
QUIET = ("--video", "false")
NAMES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.fixture(autouse=True)
def unchanged():
    """Restore torch's threads after a test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make_planner(horizon=16, widths=(16, 16), value_widths=(16, 64), **planner):
    torch.manual_seed(0)
    return ValueGuidedPlannerPipeline(
        make_denoiser(CHANNELS, horizon, widths),
        make_noise_scheduler(20, "squaredcos_cap_v2", "sample"),
        make_value_function(CHANNELS, horizon, value_widths),
        normalization=identity(ACTIONS, CHANNELS),
        planner={"planning_horizon": horizon, "batch_size": 4, "sampler": "ddim", "num_inference_steps": 3} | planner,
        task={"env_id": "Hopper-v5"},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_folder(make_planner(), {}, tmp_path_factory.mktemp("threads") / "hopper"))


# ---------------------------------------------------------------- who chooses


def evaluate(folder, output, **environment):
    """Run ``vgp evaluate`` as a program, and return its report."""
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    command = [sys.executable, "-m", "vgp_lightning", "evaluate", folder, "--output_dir", str(output)]
    options = ["--episodes", "2", "--max_episode_steps", "3", *QUIET]
    subprocess.run([*command, *options], env=clean | environment, check=True, capture_output=True)
    return json.loads((output / "evaluation.json").read_text())


@pytest.mark.slow
def test_the_program_chooses_unless_the_user_has_and_the_numbers_are_the_same(folder, tmp_path):
    chosen = evaluate(folder, tmp_path / "chosen")
    given = evaluate(folder, tmp_path / "given", OMP_NUM_THREADS="2")  # which also wait passively
    assert chosen["threads"] in (1, 2, 4)
    assert given["threads"] == min(2, threads.count_cores())
    assert chosen["episodes"] == given["episodes"]


def test_a_process_that_has_loaded_torch_keeps_its_threads(folder, tmp_path, monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(3)
    main(["evaluate", folder, "--episodes", "1", "--output_dir", str(tmp_path), "--max_episode_steps", "2", *QUIET])
    assert torch.get_num_threads() == 3
    assert json.loads((tmp_path / "evaluation.json").read_text())["threads"] == 3
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.parametrize(
    ("given", "policy", "ours"),
    [
        ({}, "passive", True),
        ({"OMP_WAIT_POLICY": "active"}, "active", True),
        ({"GOMP_SPINCOUNT": "1000"}, None, True),
        ({"OMP_NUM_THREADS": "2"}, "passive", False),
    ],
)
def test_what_the_user_has_set_stays(given, policy, ours):
    code = "import os; from vgp_lightning.agent import threads; threads.own_threads(); "
    code += "print([os.environ.get('OMP_WAIT_POLICY'), threads._ours])"
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run([sys.executable, "-c", code], env=clean | given, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str([policy, ours])


# ---------------------------------------------------------------- the measurement


def simulate(seconds, plans=None):
    """Return what ``compare`` runs: with a number of threads a call takes so long, and plans so."""
    calls = []

    def run(number):
        calls.append(number)
        return seconds[number], torch.tensor([0.0 if plans is None else plans[number]])

    return run, calls


@pytest.mark.parametrize(
    ("seconds", "share"), [({1: 1.0, 2: 0.6}, 0.6), ({1: 1.0, 2: 1.3}, 1.3), ({1: 0.01, 2: 0.5}, math.inf)]
)
def test_threads_are_compared_by_calls_that_alternate(seconds, share):
    run, calls = simulate(seconds)
    assert threads.compare(run, 2) == pytest.approx(share)
    assert calls[1:] == [1, 2] * (len(calls) // 2)


def test_a_number_of_threads_is_given_up_after_one_call_that_takes_far_too_long():
    run, calls = simulate({1: 0.01, 2: 1.0})
    assert threads.compare(run, 2) == math.inf
    assert calls == [2, 1, 2]


def test_a_number_of_threads_with_which_plans_differ_is_not_used():
    run, _ = simulate({1: 1.0, 2: 0.5}, {1: 0.0, 2: 1e-7})
    assert threads.compare(run, 2) == math.inf


@pytest.mark.parametrize(
    ("shares", "number"),
    [({}, 1), ({2: 0.95}, 1), ({2: 0.7}, 2), ({2: 0.7, 4: 0.5}, 4), ({2: 0.5, 4: 0.6}, 2), ({2: math.inf}, 1)],
)
def test_one_thread_is_used_unless_more_are_clearly_faster(shares, number):
    assert threads.best(shares) == number


def test_what_cannot_be_planned_is_left_to_the_episodes(monkeypatch):
    monkeypatch.setattr(threads, "_ours", True)

    def plan():
        raise ValueError("no finite plan")

    threads.use_fastest(plan)
    assert torch.get_num_threads() == 1


@NUMPY_2
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver", "unipc", None])
def test_what_is_measured_is_a_call_that_every_folder_can_make(sampler, tmp_path, monkeypatch):
    folder = str(write_folder(make_planner(sampler=sampler, warm_start_strength=0.5), {}, tmp_path / "hopper"))
    shapes = []
    monkeypatch.setattr(
        "vgp_lightning.agent.deployment.use_fastest", lambda plan: shapes.extend(plan().shape for _ in range(2))
    )
    Deployment(folder).choose_threads(100, batch_size=8)
    assert shapes == [(32, 16, CHANNELS)] * 2  # of 256 plans


# ---------------------------------------------------------------- plans


PLANNING = """
import json, sys
import torch
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline

for folder in sys.argv[1:]:
    pipeline = ValueGuidedPlannerPipeline.from_pretrained(folder)
    for candidates, environments in ((1, 1), (3, 1), (16, 1), (17, 3), (16, 8)):
        observations = torch.linspace(-1, 1, environments * 11).view(environments, 11)
        plans = []
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            generators = [torch.Generator().manual_seed(i) for i in range(environments)]
            options = {"batch_size": candidates, "n_guide_steps": 1, "return_candidates": True}
            plans.append(pipeline(observations, generator=generators, **options).candidates.trajectories)
        assert torch.equal(plans[0], plans[1]), (folder, candidates, environments, 2)
        assert torch.equal(plans[0], plans[2]), (folder, candidates, environments, 4)
"""


def test_plans_are_the_same_to_the_bit_with_one_two_and_four_threads(tmp_path):
    sizes = {4: (64, 128, 128), 8: (64, 128, 128), 16: (32, 64, 128, 128), 32: (32, 64, 128, 256)}
    folders = []
    for horizon, widths in sizes.items():
        folders.append(str(write_folder(make_planner(horizon, widths, widths), {}, tmp_path / f"h{horizon}")))
    # In a process of its own, whose threads wait passively: there are more of them than cores, and other tests.
    passive = os.environ | {"OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [sys.executable, "-c", PLANNING, *folders], env=passive, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
