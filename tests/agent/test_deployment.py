"""Deployment: a folder's latency is measured as a control loop would see it."""

from types import SimpleNamespace

import numpy as np
from fakes import Stub, planner, zeros

from vgp_lightning.agent import deployment
from vgp_lightning.agent.deployment import measure_latency


def test_the_time_is_that_of_a_call_with_a_plan_in_hand():
    unet = Stub(zeros)
    milliseconds = measure_latency(planner(unet, num_inference_steps=5, warm_start_strength=0.4), batch_size=3)
    assert 0 < milliseconds < 1000
    calls = [int(t) for t in unet.timesteps]
    assert calls == [19, 15, 11, 7, 3] + [7, 3] * 8  # the first of nine has no plan yet
    assert {len(x) for x in unet.inputs} == {3}


def test_the_time_is_the_median_of_the_calls_after_the_first_two(monkeypatch):
    seconds = [100, 100, 1, 7, 2, 6, 3, 5, 4]
    clock = iter(np.cumsum([part for one in seconds for part in (0, one)]))
    monkeypatch.setattr(deployment, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert measure_latency(planner(Stub(zeros), num_inference_steps=1)) == 4000


def test_who_plans_once_an_episode_never_has_a_plan_in_hand():
    unet = Stub(zeros)
    measure_latency(planner(unet, num_inference_steps=5, warm_start_strength=0.4, replan_every=0))
    assert [int(t) for t in unet.timesteps] == [19, 15, 11, 7, 3] * 9
