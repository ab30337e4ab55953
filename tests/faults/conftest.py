"""What the suites of kills, full disks and processes side by side share."""

import pytest
from fakes import write_tiny


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setenv("TRACK_SECONDS", "0.01")


@pytest.fixture
def folder(tmp_path):
    return write_tiny(tmp_path / "planner", guided=False, batch_size=1, task={"discount": 0.9})
