"""Fixtures of the training tests: a batch, and its noise. ``tests/learners.py`` has the rest."""

import pytest
import torch
from learners import B, H, T, make_batch


@pytest.fixture
def batch():
    return make_batch(3 * torch.randn(B, H, T) + 5, torch.tensor([1.0, -2.0, 4.0]))


@pytest.fixture
def noise():
    return torch.randn(B, H, T)
