"""The fast networks stand in for diffusers' own only where they may, and with the weights of the moment."""

import subprocess
import sys

import pytest
import torch
from diffusers import UNet1DModel
from diffusers.training_utils import EMAModel
from torch import nn

from vgp_lightning.pipeline.acceleration import accelerate_denoiser, accelerate_value_function, can_accelerate, forget
from vgp_lightning.pipeline.networks import make_denoiser, make_value_function

PAPER = (32, 64, 128, 256)
CHANNELS = 3


def test_both_recipes_can_be_accelerated():
    assert can_accelerate(make_denoiser(CHANNELS, 32, PAPER))
    assert can_accelerate(make_value_function(CHANNELS, 32, PAPER))


def test_other_networks_are_left_to_diffusers():
    recipe = dict(make_denoiser(CHANNELS, 8, (32, 32)).config)
    attention = {
        "down_block_types": ("DownResnetBlock1D", "AttnDownBlock1D"),
        "up_block_types": ("AttnUpBlock1D",),
        "mid_block_type": "UNetMidBlock1D",
    }
    for changes in (
        attention,
        {"act_fn": "silu"},
        {"time_embedding_type": "fourier"},
        {"use_timestep_embedding": False},
    ):
        assert not can_accelerate(UNet1DModel.from_config(recipe | changes)), changes


def replace_activation(network):
    network.down_blocks[0].resnets[0].conv_in.mish = nn.SiLU()


def add_hook(network):
    network.mid_block.register_forward_hook(lambda module, inputs, output: 2 * output)


def add_hook_before(network):
    network.register_forward_pre_hook(lambda module, inputs: None)


def replace_forward(network):
    network.out_block.forward = lambda hidden_states, temb: hidden_states


def replace_class(network):
    network.out_block.__class__ = type("Another", (type(network.out_block),), {})


def compile_it(network):
    network.compile(backend="eager")


CHANGES = [
    *(replace_activation, add_hook, add_hook_before, replace_forward, replace_class, compile_it, UNet1DModel.double),
    *(lambda network: network.to(torch.bfloat16), lambda network: network.to("meta")),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("before", [False, True])
def test_a_network_that_was_changed_is_left_to_diffusers_even_after_it_was_accelerated(change, before):
    network = make_denoiser(CHANNELS, 8, (16, 32))
    if before:
        assert accelerate_denoiser(network, 8) is not None
    change(network)
    assert not can_accelerate(network)
    assert accelerate_denoiser(network, 8) is None


def test_a_network_without_its_hook_is_accelerated_again():
    network = make_denoiser(CHANNELS, 8, (16, 32))
    first = accelerate_denoiser(network, 8)
    hook = network.mid_block.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert accelerate_denoiser(network, 8) is None
    hook.remove()
    assert accelerate_denoiser(network, 8) not in (None, first)
    assert_of_this_moment(network)


def test_a_network_of_inference_mode_is_left_to_diffusers():
    with torch.inference_mode():
        assert not can_accelerate(make_denoiser(CHANNELS, 8, (16, 32)))


# ---------------------------------------------------------------- the weights of the moment


def assert_of_this_moment(network):
    trajectories = torch.randn(4, 8, CHANNELS)
    with torch.no_grad():
        plain = network(trajectories.transpose(1, 2), 3).sample.transpose(1, 2)
    fast = accelerate_denoiser(network, 8)
    torch.testing.assert_close(fast(trajectories, 3), plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())


def copy_of_another_in_place(network):
    with torch.no_grad():
        weight = network.up_blocks[0].resnets[1].conv_out.conv1d.weight
        weight.copy_(torch.randn_like(weight))


def write_in_inference_mode(network):
    with torch.inference_mode():
        network.up_blocks[0].resnets[1].conv_out.conv1d.weight.mul_(1.5)


def load(network):
    network.load_state_dict(make_denoiser(CHANNELS, 8, (16, 32)).state_dict())


def train(network):
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(2, CHANNELS, 8), 3).sample.sum().backward()
    optimizer.step()


def replace_weight(network):
    network.out_block.final_conv1d_2.bias = nn.Parameter(torch.randn(CHANNELS))


def replace_module(network):
    network.out_block.final_conv1d_2 = nn.Conv1d(16, CHANNELS, 1)


def change_type_and_back(network):
    network.to(torch.bfloat16).to(torch.float32)


def copy_an_average(network):
    EMAModel(make_denoiser(CHANNELS, 8, (16, 32)).parameters()).copy_to(network.parameters())


# By ``weight.data``, which leaves no trace in torch's counters.


def merge_into_one_layer(network):
    weight = network.down_blocks[0].resnets[0].conv_in.conv1d.weight
    weight.data += 0.3 * torch.randn_like(weight)


def copy_an_average_of_a_part(network):
    weights = [weight for name, weight in network.named_parameters() if "group_norm" not in name]
    EMAModel([torch.nn.Parameter(weight + 0.3) for weight in weights]).copy_to(weights)


def scale_the_last_layer(network):
    network.out_block.final_conv1d_2.weight.data.mul_(2)


def turn_the_sign_of_a_layer(network):
    network.mid_block.resnets[0].conv_in.conv1d.weight.data.mul_(-1)


def write_by_numpy(network):
    network.up_blocks[0].resnets[0].conv_in.conv1d.weight.detach().numpy()[:] = 0.1


WRITES = [
    *(copy_of_another_in_place, write_in_inference_mode, load, train, replace_weight, replace_module),
    *(change_type_and_back, copy_an_average, merge_into_one_layer, copy_an_average_of_a_part, scale_the_last_layer),
    *(turn_the_sign_of_a_layer, write_by_numpy),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_write_to_any_weight_is_seen(write):
    network = make_denoiser(CHANNELS, 8, (16, 32))
    fast = accelerate_denoiser(network, 8)
    assert accelerate_denoiser(network, 8) is fast
    write(network)
    assert accelerate_denoiser(network, 8) is not fast
    assert_of_this_moment(network)


def test_a_write_to_a_value_function_is_seen():
    network = make_value_function(CHANNELS, 8, (16, 64))
    fast = accelerate_value_function(network, 8)
    network.out_block.final_block[2].bias.data += 1
    trajectories = torch.randn(2, 8, CHANNELS)
    torch.testing.assert_close(
        accelerate_value_function(network, 8)(trajectories, 3), fast(trajectories, 3) + 1, rtol=0, atol=1e-5
    )


def test_a_block_that_is_added_is_seen():
    network = make_value_function(CHANNELS, 8, (16, 64))
    assert accelerate_value_function(network, 8)
    assert not len(network.up_blocks)
    network.up_blocks.append(make_denoiser(CHANNELS, 8, (16, 32)).up_blocks[0])
    assert accelerate_value_function(network, 8) is None


def test_what_is_kept_stays_while_the_weights_do():
    network = make_denoiser(CHANNELS, 8, (16, 32))
    fast = accelerate_denoiser(network, 8)
    network(torch.randn(2, CHANNELS, 8), 3).sample.sum().backward()
    network.eval().requires_grad_(False).to("cpu")
    fast(torch.randn(8, 8, CHANNELS), 3)
    accelerate_denoiser(network, 4)
    assert accelerate_denoiser(network, 8) is fast


def test_what_cannot_be_seen_can_be_said():
    network = make_denoiser(CHANNELS, 8, (16, 32))
    fast = accelerate_denoiser(network, 8)
    network.mid_block.resnets[0].conv_in.conv1d.weight.data[5, 5, 1] += 3
    forget(network)
    assert accelerate_denoiser(network, 8) is not fast
    assert_of_this_moment(network)


# ---------------------------------------------------------------- other versions of the libraries

ANOTHER_DIFFUSERS = """
import diffusers.models.embeddings
from diffusers import UNet1DModel
del diffusers.models.embeddings.Timesteps  # as if another version had renamed it
from vgp_lightning.pipeline.acceleration import accelerate_denoiser
from vgp_lightning.pipeline.networks import make_denoiser
from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
print(accelerate_denoiser(make_denoiser(3, 8, (16, 32)), 8))
"""


def test_with_another_diffusers_the_networks_themselves_are_evaluated():
    done = subprocess.run([sys.executable, "-c", ANOTHER_DIFFUSERS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "None\n"), done.stderr


def test_the_private_names_of_torch_are_those_that_were_seen_in_2_13():
    module = nn.Linear(2, 2)
    for name in ("_compiled_call_impl", "_modules", "_parameters", "_forward_hooks", "_forward_pre_hooks"):
        assert hasattr(module, name), f"torch has no Module.{name} any more: see pipeline/acceleration.py"
    assert hasattr(module.weight, "_version"), "torch has no Tensor._version any more: see pipeline/acceleration.py"
