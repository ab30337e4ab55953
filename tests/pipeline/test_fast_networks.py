"""The fast networks compute what diffusers' do, row by row, and notice when they no longer may."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from diffusers import UNet1DModel
from torch import nn

from vgp_lightning.pipeline.acceleration import can_accelerate
from vgp_lightning.pipeline.fast_networks import FastDenoiser, FastValueFunction
from vgp_lightning.pipeline.fast_toomcook import make_transforms
from vgp_lightning.pipeline.networks import make_denoiser, make_value_function

PAPER = (32, 64, 128, 256)
CHANNELS = 3


def plain_output(network, trajectories, timestep):
    with torch.no_grad():
        return network(trajectories.transpose(1, 2), timestep).sample


def plain_denoised(network, trajectories, timestep):
    return plain_output(network, trajectories, timestep).transpose(1, 2)


def plain_gradient(network, trajectories, timestep):
    x = trajectories.clone().requires_grad_()
    values = network(x.transpose(1, 2), torch.full((len(x),), timestep)).sample
    return torch.autograd.grad(values.sum(), x)[0]


def plain_values(network, trajectories, timestep):
    timesteps = torch.full((len(trajectories),), timestep)
    return plain_output(network, trajectories, timesteps)[:, 0]


BOUND = 5e-5  # of the largest number: Toom-Cook's points cost a digit of float32's seven


def assert_as_exact(fast, plain, network, trajectories, timestep):
    """``fast`` is as near to the result in float64 as float32 allows, and as near to the plain network in float32."""
    result = fast(trajectories, timestep)
    exact = plain(copy.deepcopy(network).double(), trajectories.double(), timestep)
    rounded = plain(network, trajectories, timestep)
    assert result.shape == exact.shape
    assert result.dtype == torch.float32
    scale = exact.abs().max()
    error, plain_error = (result - exact).abs().max() / scale, (rounded - exact).abs().max() / scale
    assert error < max(BOUND, 10 * plain_error)
    assert (result - rounded).abs().max() / scale < max(BOUND, 10 * plain_error)


def make_affine_random(network):
    """Draw the norms' weights and biases too, which diffusers starts at one and zero."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight.normal_()
                module.bias.normal_()
    return network


DENOISERS = [
    (PAPER, 32, 5, 0),
    (PAPER, 8, 16, 19),
    ((16, 32), 2, 3, 7),
    ((48, 16, 32), 12, 1, 999),
    ((16, 32, 16), 44, 9, 1),
    ((16, 16), 66, 2, 3),
    ((16, 16, 32, 16, 32), 160, 2, 63),
]
VALUE_FUNCTIONS = [
    (PAPER, 32, 5, 0),
    (PAPER, 1, 16, 19),
    ((16, 64), 2, 3, 7),
    ((16, 64), 3, 1, 999),
    ((32, 64), 16, 9, 1),
    ((48, 16, 128), 31, 2, 2),
    ((16, 16, 16, 64), 64, 2, 3),
    ((16, 16, 16, 16, 64), 101, 2, 3),
]


@pytest.mark.parametrize(("widths", "horizon", "batch", "timestep"), DENOISERS)
def test_the_fast_denoiser_computes_what_the_network_does(widths, horizon, batch, timestep):
    network = make_affine_random(make_denoiser(CHANNELS, horizon, widths))
    trajectories = torch.randn(batch, horizon, CHANNELS)
    assert_as_exact(FastDenoiser(network, horizon), plain_denoised, network, trajectories, timestep)


@pytest.mark.parametrize(("widths", "horizon", "batch", "timestep"), VALUE_FUNCTIONS)
def test_the_fast_value_function_and_its_gradient_are_the_networks(widths, horizon, batch, timestep):
    network = make_affine_random(make_value_function(CHANNELS, horizon, widths))
    trajectories = torch.randn(batch, horizon, CHANNELS)
    fast = FastValueFunction(network, horizon)
    assert_as_exact(fast, plain_values, network, trajectories, timestep)
    assert_as_exact(fast.gradient, plain_gradient, network, trajectories, timestep)


def test_more_layers_a_block_and_other_groups_work():
    config = dict(make_denoiser(CHANNELS, 8, (16, 32)).config) | {"layers_per_block": 2, "norm_num_groups": 4}
    network = UNet1DModel.from_config(config)
    assert can_accelerate(network)
    assert_as_exact(FastDenoiser(network, 8), plain_denoised, network, torch.randn(4, 8, CHANNELS), 3)
    config = dict(make_value_function(CHANNELS, 8, (16, 64)).config) | {"layers_per_block": 3}
    network = UNet1DModel.from_config(config)
    fast = FastValueFunction(network, 8)
    assert_as_exact(fast, plain_values, network, torch.randn(4, 8, CHANNELS), 3)
    assert_as_exact(fast.gradient, plain_gradient, network, torch.randn(4, 8, CHANNELS), 3)


def test_large_biases_do_not_cost_accuracy():
    denoiser = make_denoiser(CHANNELS, 16, (16, 32, 64))
    value_function = make_value_function(CHANNELS, 16, (16, 32, 64))
    with torch.no_grad():
        for network in (denoiser, value_function):
            for module in network.modules():
                if isinstance(module, nn.Conv1d) and module.kernel_size == (5,):
                    module.bias.fill_(10.0)
    trajectories = torch.randn(8, 16, CHANNELS)
    assert_as_exact(FastDenoiser(denoiser, 16), plain_denoised, denoiser, trajectories, 3)
    assert_as_exact(FastValueFunction(value_function, 16), plain_values, value_function, trajectories, 3)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 11, 16, 32])
def test_the_transforms_are_a_correlation_and_its_transpose(length):
    transforms = make_transforms(length)
    rng = np.random.default_rng(length)
    signal, taps = rng.normal(size=length), rng.normal(size=5)
    at_points = transforms.taps.numpy() @ taps
    for spread, gather, kernel in (
        (transforms.spread, transforms.gather, taps),
        (transforms.spread_back, transforms.gather_back, taps[::-1]),
    ):
        points = (spread.double().numpy() @ signal).reshape(-1, len(at_points))
        outputs = ((points * at_points) @ gather.double().numpy().T).ravel()[:length]
        np.testing.assert_allclose(outputs, np.correlate(np.pad(signal, 2), kernel, "valid"), atol=1e-5)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("channels", [3, 5, 11, 14])
@pytest.mark.parametrize(("widths", "horizon"), [((32, 64, 128), 32), ((16, 16, 64), 12), ((16, 64), 6), ((16, 64), 4)])
def test_a_row_is_the_same_to_the_bit_in_every_batch(threads, widths, horizon, channels):
    # Three threads share the elements of 131 rows in parts that are no whole vectors.
    trajectories = torch.randn(131, horizon, channels)
    denoiser = FastDenoiser(make_denoiser(channels, horizon, widths), horizon)
    value_function = FastValueFunction(make_value_function(channels, horizon, (*widths[:-1], 64)), horizon)
    for function in (denoiser, value_function, value_function.gradient):
        together = function(trajectories, 3)
        for first, batch in ((0, 1), (130, 1), (2, 3), (0, 4), (101, 7), (8, 8), (0, 16), (98, 33), (0, 64), (3, 128)):
            rows = slice(first, first + batch)
            assert torch.equal(function(trajectories[rows], 3), together[rows]), rows


def test_a_view_of_trajectories_gives_what_its_copy_gives():
    fast = FastDenoiser(make_denoiser(CHANNELS, 8, (16, 32)), 8)
    wide = torch.randn(8, 8, 2 * CHANNELS)
    assert torch.equal(fast(wide[..., ::2], 3), fast(wide[..., ::2].contiguous(), 3))


def test_nothing_is_recorded_and_every_mode_of_torch_gives_the_same():
    fast = FastDenoiser(make_denoiser(CHANNELS, 8, (16, 32)), 8)
    value = FastValueFunction(make_value_function(CHANNELS, 8, (16, 64)), 8)
    trajectories = torch.randn(8, 8, CHANNELS)
    for function in (fast, value, value.gradient):
        with torch.inference_mode():  # first: what is kept by then must not be spoilt for the others
            within = function(trajectories, 3)
        with torch.no_grad():
            assert torch.equal(function(trajectories, 3), within)
        outside = function(trajectories.clone().requires_grad_(), 3)
        assert torch.equal(outside, within)
        assert not outside.requires_grad
        assert not outside.is_inference()


def test_trajectories_of_another_horizon_are_refused():
    fast = FastDenoiser(make_denoiser(CHANNELS, 8, (16, 32)), 8)
    with pytest.raises(ValueError, match="4 steps, but this network was prepared for 8"):
        fast(torch.randn(8, 4, CHANNELS), 3)
    with pytest.raises(ValueError, match="horizon 32 leaves 2 steps"):
        FastValueFunction(make_value_function(CHANNELS, 8, (16, 64)), 32)


def test_a_fast_network_has_the_weights_of_the_moment_at_every_timestep_that_comes_later():
    network = make_value_function(CHANNELS, 8, (16, 64))
    trajectories = torch.randn(8, 8, CHANNELS)
    before, fast = plain_values(network, trajectories, 5), FastValueFunction(network, 8)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1.0)
    torch.testing.assert_close(fast(trajectories, 5), before, rtol=0, atol=1e-4)


def test_networks_of_equal_weights_give_equal_bits_wherever_the_weights_lie():
    network = make_denoiser(CHANNELS, 8, (16, 32))
    moved = copy.deepcopy(network)
    for module in moved.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            place = torch.empty(weight.numel() + 1)[1:].view(weight.shape)  # no multiple of 16 bytes
            setattr(module, name, nn.Parameter(place.copy_(weight.detach())))
    trajectories = torch.randn(8, 8, CHANNELS)
    for timestep in range(20):
        assert torch.equal(
            FastDenoiser(network, 8)(trajectories, timestep), FastDenoiser(moved, 8)(trajectories, timestep)
        )


def test_a_fast_network_does_not_keep_the_network_alive():
    network = make_denoiser(CHANNELS, 8, (16, 32))
    fast, alive = FastDenoiser(network, 8), weakref.ref(network)
    del network
    gc.collect()
    assert alive() is None
    assert fast(torch.randn(8, 8, CHANNELS), 3).isfinite().all()
