"""Outputs and gradients of the fast networks are those of diffusers' own, to rounding."""

import copy
import hashlib
import subprocess
import sys
import threading

import pytest
import torch
from diffusers import UNet1DModel
from torch import nn

from vgp_lightning.pipeline.networks import make_denoiser, make_value_function
from vgp_lightning.training.fast import can_forward, forward, keep_freed_memory
from vgp_lightning.training.fast_layers import multiply

CHANNELS = 3


def plain(network, sample, timesteps):
    return network(sample, timesteps).sample


def train(network, function, sample, timesteps, target):
    """Return the output and the gradients, of the parameters and the sample, of a loss."""
    network.zero_grad()
    sample = sample.to(target.dtype).requires_grad_()
    out = function(network, sample, timesteps)
    (out - target).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {"output": out.detach(), "sample": sample.grad, **gradients}


def assert_trains_alike(network, horizon, batch):
    sample, timesteps = torch.randn(batch, CHANNELS, horizon), torch.randint(0, 1000, (batch,))
    target = torch.randn_like(plain(network, sample, timesteps))
    double = copy.deepcopy(network).double()
    exact = train(double, plain, sample.double(), timesteps, target.double())
    rounded = train(network, plain, sample.clone(), timesteps, target)
    fast = train(network, forward, sample.clone(), timesteps, target)
    assert fast.keys() == exact.keys()
    # A gradient may be zero except for rounding (before a norm of one step): errors are relative to the largest too.
    largest = max(value.norm() for name, value in exact.items() if name != "output")
    scales = {name: value.norm() + (0 if name == "output" else 1e-3 * largest) for name, value in exact.items()}
    plain_errors = {name: (rounded[name] - value).norm() / scales[name] for name, value in exact.items()}
    worst = max(plain_errors.values())
    for name, value in exact.items():
        assert fast[name].shape == value.shape
        assert fast[name].is_contiguous() or name in ("output", "sample")
        error = (fast[name] - value).norm() / scales[name]
        assert error < max(2e-5, 10 * plain_errors[name], 3 * worst), name


def trained(network, horizon):
    """Return the network after some steps with a large learning rate, which have changed every weight."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.GroupNorm):
                module.weight.normal_()
                module.bias.normal_()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(8):
        sample, timesteps = torch.randn(4, CHANNELS, horizon), torch.randint(0, 1000, (4,))
        out = forward(network, sample, timesteps)
        optimizer.zero_grad()
        (out - torch.randn_like(out)).square().mean().backward()
        optimizer.step()
    return network


DENOISERS = [
    ((32, 64, 128, 256), 32, 4),
    ((32, 64, 128), 16, 5),
    ((16, 32), 2, 3),
    ((16, 32), 4, 1),
    ((48, 16, 32), 12, 2),
    ((16, 32), 22, 3),
    ((16, 16), 66, 2),
    ((16, 16, 32, 16), 160, 4),
]
VALUE_FUNCTIONS = [
    ((32, 64, 128, 256), 32, 4),
    ((32, 64, 128), 16, 5),
    ((16, 64), 1, 4),
    ((16, 64), 3, 1),
    ((16, 64), 4, 2),
    ((48, 16, 128), 31, 2),
    ((16, 16, 16, 16, 64), 101, 3),
]


@pytest.mark.parametrize(("widths", "horizon", "batch"), DENOISERS)
def test_a_denoiser_gets_the_gradients_that_diffusers_gives_it(widths, horizon, batch):
    network = make_denoiser(CHANNELS, horizon, widths)
    assert_trains_alike(network, horizon, batch)
    assert_trains_alike(trained(network, horizon), horizon, batch)


@pytest.mark.parametrize(("widths", "horizon", "batch"), VALUE_FUNCTIONS)
def test_a_value_function_gets_the_gradients_that_diffusers_gives_it(widths, horizon, batch):
    network = make_value_function(CHANNELS, horizon, widths)
    assert_trains_alike(network, horizon, batch)
    assert_trains_alike(trained(network, horizon), horizon, batch)


def test_more_layers_a_block_and_other_groups_work():
    for network in (make_denoiser(CHANNELS, 8, (16, 32)), make_value_function(CHANNELS, 8, (16, 64))):
        config = dict(network.config) | {"layers_per_block": 2, "norm_num_groups": 4}
        other = UNet1DModel.from_config(config)
        assert can_forward(other, 8)
        assert_trains_alike(other, 8, 3)


def test_large_biases_do_not_cost_accuracy():
    network = make_denoiser(CHANNELS, 16, (16, 32, 64))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv1d) and module.kernel_size == (5,):
                module.bias.fill_(10.0)
    assert_trains_alike(network, 16, 8)


DIGEST = """
import hashlib, torch
from vgp_lightning.training.fast import forward
from vgp_lightning.pipeline.networks import make_denoiser, make_value_function
def digest():
    torch.manual_seed(0)
    content = hashlib.sha256()
    for make in (make_denoiser, make_value_function):
        network, sample = make(3, 20, (16, 32, 64)), torch.randn(16, 3, 20)
        out = forward(network, sample, torch.arange(16))
        out.square().mean().backward()
        for tensor in (out, *(parameter.grad for parameter in network.parameters())):
            content.update(tensor.detach().numpy().tobytes())
    return content.hexdigest()
"""


def test_two_steps_are_the_same_to_the_bit_and_in_another_process_too():
    scope = {}
    exec(DIGEST, scope)
    first = scope["digest"]()
    forward(make_denoiser(CHANNELS, 64, (16, 128)), torch.randn(7, CHANNELS, 64), torch.arange(7)).sum().backward()
    assert scope["digest"]() == first
    script = f"{DIGEST}\nballast = [torch.randn(n) for n in range(1, 99)]\n"
    script += f"torch.set_num_threads({torch.get_num_threads()})\nprint(digest())"
    other = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert other.stdout.strip() == first
    assert first != hashlib.sha256().hexdigest()


@pytest.mark.parametrize("make", [make_denoiser, make_value_function])
def test_without_gradients_the_output_is_the_same_to_the_bit_and_nothing_is_recorded(make):
    network = make(CHANNELS, 16, (16, 64))
    sample, timesteps = torch.randn(4, CHANNELS, 16), torch.arange(4)
    with torch.inference_mode():  # first: buffers made here must be usable by the others
        within = forward(network, sample, timesteps)
    with torch.no_grad():
        silent = forward(network, sample, timesteps)
    recorded = forward(network, sample, timesteps)
    assert not silent.requires_grad
    assert recorded.requires_grad
    torch.testing.assert_close(within, recorded.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(silent, recorded.detach(), rtol=1e-5, atol=1e-5)
    recorded.sum().backward()


def test_frozen_parameters_get_no_gradient_and_the_others_theirs():
    network, timesteps = make_denoiser(CHANNELS, 16, (16, 32)), torch.arange(4)
    sample = torch.randn(4, CHANNELS, 16)
    forward(network, sample, timesteps).square().mean().backward()
    whole = {name: parameter.grad for name, parameter in network.named_parameters()}
    for offset in range(3):
        network.zero_grad()
        for index, parameter in enumerate(network.parameters()):
            parameter.requires_grad_(index % 3 == offset)
        forward(network, sample, timesteps).square().mean().backward()
        for name, parameter in network.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad
            assert parameter.grad is None or torch.equal(parameter.grad, whole[name])


def test_a_graph_can_be_used_twice_only_if_it_was_retained_and_then_gives_the_same():
    network, timesteps = make_value_function(CHANNELS, 16, (16, 64)), torch.arange(4)
    parameters = list(network.parameters())
    loss = forward(network, torch.randn(4, CHANNELS, 16), timesteps).square().mean()
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    forward(network, torch.randn(9, CHANNELS, 13), torch.arange(9)).sum().backward()  # overwrites the buffers
    again = torch.autograd.grad(loss, parameters)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, parameters)


def test_writing_to_a_weight_before_the_backward_pass_is_an_error():
    network = make_denoiser(CHANNELS, 8, (16, 32))
    loss = forward(network, torch.randn(4, CHANNELS, 8), torch.arange(4)).sum()
    with torch.no_grad():
        network.mid_block.resnets[0].conv_in.conv1d.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_parameters_hooks_see_their_gradients_and_gradients_add_up():
    network, seen = make_denoiser(CHANNELS, 8, (16, 32)), set()
    for name, parameter in network.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.add(name))
    sample, timesteps = torch.randn(4, CHANNELS, 8), torch.arange(4)
    forward(network, sample, timesteps).sum().backward()
    assert seen == {name for name, _ in network.named_parameters()}
    once = [parameter.grad.clone() for parameter in network.parameters()]
    forward(network, sample, timesteps).sum().backward()
    assert all(torch.equal(p.grad, 2 * g) for p, g in zip(network.parameters(), once, strict=True))


def test_under_autocast_it_is_the_networks_own_result():
    network = make_denoiser(CHANNELS, 8, (16, 32))
    sample, timesteps = torch.randn(4, CHANNELS, 8), torch.arange(4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(forward(network, sample, timesteps), plain(network, sample, timesteps))


def test_keeping_freed_memory_changes_no_result():
    network, sample = make_denoiser(CHANNELS, 8, (16, 32)), torch.randn(4, CHANNELS, 8)
    before = forward(network, sample, torch.arange(4))
    keep_freed_memory()
    assert torch.equal(forward(network, sample, torch.arange(4)), before)


def test_only_an_unchanged_network_of_a_recipe_in_float32_is_replaced():
    def changed(change):
        network = make_denoiser(CHANNELS, 8, (16, 32))
        change(network)
        return network

    def replace_activation(network):
        network.down_blocks[0].resnets[0].conv_in.mish = nn.SiLU()

    def add_hook(network):
        network.mid_block.register_forward_hook(lambda module, inputs, output: 2 * output)

    def add_backward_hook(network):
        network.mid_block.register_full_backward_hook(lambda module, inputs, outputs: None)

    def add_backward_pre_hook(network):
        network.mid_block.register_full_backward_pre_hook(lambda module, outputs: None)

    def compile_it(network):
        network.compile(backend="eager")

    assert can_forward(changed(lambda network: None), 8)
    assert can_forward(make_value_function(CHANNELS, 8, (16, 64)), 8)
    hooks = (add_hook, add_backward_hook, add_backward_pre_hook)
    for change in (*hooks, replace_activation, compile_it, UNet1DModel.double, lambda n: n.to(torch.bfloat16)):
        assert not can_forward(changed(change), 8)
    attention = {
        "down_block_types": ("DownResnetBlock1D", "AttnDownBlock1D"),
        "up_block_types": ("AttnUpBlock1D",),
        "mid_block_type": "UNetMidBlock1D",
    }
    recipe = dict(make_denoiser(CHANNELS, 8, (32, 32)).config)
    assert not can_forward(UNet1DModel.from_config(recipe | attention), 8)


@pytest.mark.parametrize(("horizon", "threads", "quicker"), [(32, 2, True), (33, 2, False), (160, 1, True)])
def test_a_long_horizon_is_left_to_diffusers_where_there_are_threads(horizon, threads, quicker):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert can_forward(make_denoiser(CHANNELS, horizon - horizon % 2, (16, 32)), horizon) == quicker
    finally:
        torch.set_num_threads(before)


def test_a_thread_does_not_write_to_the_buffers_of_another():
    a, b = torch.randn(4, 3, 5), torch.randn(4, 5, 6)
    product = multiply("points", a, b)
    thread = threading.Thread(target=lambda: multiply("points", 2 * a, b))
    thread.start()
    thread.join()
    assert torch.equal(product, a @ b)


def test_two_threads_that_train_at_once_get_the_gradients_that_they_get_alone():
    networks = [make_denoiser(CHANNELS, 16, (16, 32)), make_value_function(CHANNELS, 16, (16, 64))]
    samples = [torch.randn(16, CHANNELS, 16) for _ in networks]
    gates = threading.Barrier(2)

    def gradients(number):
        networks[number].zero_grad()
        forward(networks[number], samples[number], torch.arange(16)).square().mean().backward()
        return [parameter.grad.clone() for parameter in networks[number].parameters()]

    def train(number):
        for _ in range(20):
            gates.wait()
            found = gradients(number)
            if not all(torch.equal(a, b) for a, b in zip(found, expected[number], strict=True)):
                wrong.append(number)

    expected, wrong = [gradients(number) for number in range(2)], []
    threads = [threading.Thread(target=train, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
