"""The joined file and the room that it is joined from are the same planner in two forms."""

import ast
import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import NUMPY_2, OBSERVATION, UNITS, H, T, denoiser, noise_schedule, planner, seeded, value_network

from vgp_lightning.pipeline import planner as planner_file
from vgp_lightning.pipeline.joining import join_pipeline
from vgp_lightning.pipeline.sampling import SAMPLERS

pytestmark = NUMPY_2


@pytest.fixture
def joined(tmp_path, monkeypatch):
    """Execute the joined file as a module of its own."""
    path = tmp_path / "joined_planner.py"
    path.write_text(join_pipeline())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def test_no_two_files_of_the_room_define_the_same_name():
    """In the joined file the second definition would take the place of the first."""
    defined = Counter()
    for path in Path(planner_file.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            targets = [name for target in getattr(node, "targets", []) for name in ast.walk(target)]
            names = [node.name] if hasattr(node, "name") else [name.id for name in targets if hasattr(name, "id")]
            defined.update(names)
    assert len(defined) > 100
    assert [name for name, count in defined.items() if count > 1] == []


def speed(observations, actions):
    return observations[:, :, 0].sum(dim=1) - actions.square().sum(dim=(1, 2))


@pytest.mark.parametrize(
    "options",
    [
        *({"sampler": sampler, "n_guide_steps": 2} for sampler in SAMPLERS),
        {"guide_on": "clean", "n_guide_steps": 1, "guide_scaling": "std", "max_grad_norm": 1.0},
        {"objectives": [(1.0, speed)], "n_guide_steps": 1, "temperature": 0.5},
        {"conditions": {-1: OBSERVATION}, "n_guide_steps": 0},
        {"warm_start": np.zeros((1, H, T), np.float32), "warm_start_strength": 0.5},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_both_plan_the_same_to_the_bit(joined, options):
    settings = {"planning_horizon": H, "batch_size": 3, "num_inference_steps": 4, "t_stopgrad": 0}
    ours = planner(value_function=value_network(), normalization=UNITS, **settings)
    theirs = joined.ValueGuidedPlannerPipeline(
        denoiser(), noise_schedule(), value_network(), UNITS, {"sampler": "ddpm"} | settings
    )
    plans = [pipeline(OBSERVATION, generator=seeded(), **options) for pipeline in (ours, theirs)]
    assert type(plans[1]) is joined.Plan
    for name in ("actions", "observations", "values"):
        assert torch.equal(getattr(plans[0], name), getattr(plans[1], name))


@pytest.mark.parametrize("option", [{"planning_horizon": 7}, {"conditions": {H: OBSERVATION}}, {"speed": 1}])
def test_both_refuse_the_same_in_the_same_words(joined, option):
    ours = planner(normalization=UNITS)
    theirs = joined.ValueGuidedPlannerPipeline(denoiser(), noise_schedule(), None, UNITS, ours.planner)
    words = []
    for pipeline in (ours, theirs):
        with pytest.raises(ValueError) as refused:  # noqa: PT011 (the words are compared)
            pipeline(OBSERVATION, **option)
        words.append(str(refused.value))
    assert words[0] == words[1]
