"""What the tests of training share beside ``tests/learners.py``: a batch, and its noise."""

import pytest
import torch
from learners import B, H, T, make_batch


@pytest.fixture
def batch():
    return make_batch(3 * torch.randn(B, H, T) + 5, torch.tensor([1.0, -2.0, 4.0]))


@pytest.fixture
def noise():
    return torch.randn(B, H, T)
