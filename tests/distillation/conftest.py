"""A tiny planner of the environment Track, with its dataset: what a distillation needs."""

import pytest
from fakes import write_tiny


@pytest.fixture
def folder(tmp_path, make_dataset, make_episode, track):
    make_dataset("test/tiny-v0", [make_episode(12, number) for number in range(4)])
    task = {"env_id": "Track-v0", "dataset_id": ["test/tiny-v0"], "discount": 0.9}
    return write_tiny(tmp_path / "planner", task=task)


@pytest.fixture
def strided(folder, tmp_path):
    """The same with networks that see every second observation."""
    task = {"env_id": "Track-v0", "dataset_id": ["test/tiny-v0"], "discount": 0.9}
    return write_tiny(tmp_path / "strided", task=task, stride=2)
