"""The networks are the paper's, and every horizon that is accepted works while every other one would not."""

import pytest
import torch

from vgp_lightning.pipeline.networks import check_horizon, make_denoiser, make_value_function

PAPER = (32, 64, 128, 256)
CHANNELS = 2


def parameters(network):
    return sum(weights.numel() for weights in network.parameters())


def answer(network, horizon, batch=2):
    with torch.inference_mode():
        return network(torch.randn(batch, CHANNELS, horizon), torch.zeros(batch, dtype=torch.long)).sample


def accepted(horizon, **widths):
    try:
        check_horizon(horizon, **widths)
    except ValueError:
        return False
    return True


def test_both_have_as_many_weights_as_the_originals():
    assert parameters(make_denoiser(14, 32, PAPER)) == 3_956_302
    assert parameters(make_value_function(14, 32, PAPER)) == 2_294_817


COMMON = {
    "sample_size": 32,
    "in_channels": 14,
    "out_channels": 14,
    "down_block_types": ("DownResnetBlock1D",) * 4,
    "block_out_channels": PAPER,
    "layers_per_block": 1,
    "use_timestep_embedding": True,
    "time_embedding_type": "positional",
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "act_fn": "mish",
    "norm_num_groups": 8,
}


@pytest.mark.parametrize(
    ("make", "special"),
    [
        (
            make_denoiser,
            {
                "up_block_types": ("UpResnetBlock1D",) * 3,
                "mid_block_type": "MidResTemporalBlock1D",
                "out_block_type": "OutConv1DBlock",
                "downsample_each_block": False,
            },
        ),
        (
            make_value_function,
            {
                "up_block_types": (),
                "mid_block_type": "ValueFunctionMidBlock1D",
                "out_block_type": "ValueFunction",
                "downsample_each_block": True,
            },
        ),
    ],
)
def test_the_recipe_is_the_one_that_the_original_weights_fit(make, special):
    config = make(14, 32, list(PAPER)).config
    assert {name: config[name] for name in COMMON | special} == COMMON | special


@pytest.mark.parametrize("blocks", [2, 3, 4])
def test_every_horizon_that_is_accepted_works_in_the_denoiser_and_no_other_does(blocks):
    widths = (16,) * blocks
    network = make_denoiser(CHANNELS, 2**blocks, widths)
    silently_wrong = []
    for horizon in range(1, 71):
        if accepted(horizon, denoiser_widths=widths):
            assert answer(make_denoiser(CHANNELS, horizon, widths), horizon).shape == (2, CHANNELS, horizon)
        else:
            try:
                length = answer(network, horizon).shape[2]
            except RuntimeError:
                continue
            assert length != horizon
            silently_wrong.append(horizon)
    multiple = 2 ** (blocks - 1)
    assert silently_wrong == list(range(multiple - 1, 71, multiple)), "why a horizon has to be checked at all"


@pytest.mark.parametrize("blocks", [2, 3, 4])
def test_every_horizon_that_is_accepted_works_in_the_value_function_and_no_longer_one_does(blocks):
    widths = (16,) * (blocks - 1) + (64,)
    network = make_value_function(CHANNELS, 1, widths)
    for horizon in range(1, 71):
        if accepted(horizon, value_widths=widths):
            assert answer(make_value_function(CHANNELS, horizon, widths), horizon).shape == (2, 1)
        else:
            with pytest.raises(RuntimeError, match="cannot be multiplied"):
                answer(network, horizon)


@pytest.mark.parametrize(
    ("make", "widths"), [(make_denoiser, (16, 16)), (make_denoiser, (16, 32)), (make_value_function, (16, 64))]
)
def test_a_single_trajectory_of_any_accepted_horizon_is_answered_too(make, widths):
    for horizon in range(1, 17):
        try:
            network = make(CHANNELS, horizon, widths)
        except ValueError:
            continue
        answer(network, horizon, batch=1)


@pytest.mark.parametrize(
    ("horizon", "nearest"), [(-5, 4), (0, 4), (1, 4), (5, 4), (7, 8), (30, 32), (31, 32), (33, 32)]
)
def test_a_horizon_that_does_not_fit_the_denoiser_names_the_nearest_that_does(horizon, nearest):
    with pytest.raises(ValueError, match=rf"horizon {horizon} .* multiple of 4\. Set data\.horizon to {nearest},"):
        make_denoiser(CHANNELS, horizon, (16, 16, 16))


@pytest.mark.parametrize(("horizon", "nearest"), [(0, 1), (-1, 1), (33, 32), (1000, 32)])
def test_a_horizon_that_does_not_fit_the_value_function_names_the_nearest_that_does(horizon, nearest):
    with pytest.raises(ValueError, match=rf"horizon {horizon} .* 1 and 32\. Set data\.horizon to {nearest},"):
        make_value_function(CHANNELS, horizon, (16, 16, 64))


def test_a_horizon_has_to_fit_both_networks_where_both_are_given():
    assert accepted(16, denoiser_widths=(16, 16), value_widths=(16, 64))
    assert not accepted(18, denoiser_widths=(16, 16), value_widths=(16, 64))
    assert not accepted(15, denoiser_widths=(16, 16), value_widths=(16, 64))


@pytest.mark.parametrize("make", [make_denoiser, make_value_function])
@pytest.mark.parametrize("widths", [(), (32,), (24, 32), (8, 32), (0, 32), (-16, 32), (16, 33)])
def test_widths_that_no_group_normalisation_takes_are_refused(make, widths):
    with pytest.raises(ValueError, match="at least 2 are needed, each a positive multiple of 16"):
        make(CHANNELS, 8, widths)


def test_the_value_functions_last_width_is_a_multiple_of_64():
    with pytest.raises(ValueError, match="last width is 80: it must be a multiple of 64"):
        make_value_function(CHANNELS, 8, (16, 80))
