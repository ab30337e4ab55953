"""The value function's loss and metrics by hand, and a value function that ranks held-out windows."""

import math

import numpy as np
import pytest
import torch
from learners import MODULES, A, B, H, T, alone, make_module, with_statistics
from scipy.stats import spearmanr

from vgp_lightning.training.value import ValueModule


def test_the_value_functions_prediction_is_one_number_a_window_and_its_loss_is_by_hand(
    batch, noise, make_stub, monkeypatch
):
    module = with_statistics(make_module(ValueModule))
    module.network = make_stub(lambda sample, timesteps: torch.tensor([[0.0], [1.0], [-0.5]]))
    assert module.predict(batch, torch.tensor([0, 2, 4]), noise).tolist() == [0, 1, -0.5]
    # (1 - 3) / 2 = -1;  (-2 - 3) / 2 = -2.5;  (4 - 3) / 2 = 0.5
    assert module.normalised_returns(batch).tolist() == [-1, -2.5, 0.5]
    logged = {}
    alone(module)
    monkeypatch.setattr(module, "log", lambda name, value, **kwargs: logged.update({name: value.item()}))
    loss = module.training_step(batch, 0)
    assert loss.item() == pytest.approx((1**2 + 3.5**2 + 1**2) / 3)
    assert logged == {"train/value_loss": loss.item()}


def test_a_value_function_ranks_held_out_windows(make_data, make_episode, make_trainer):
    wealth = np.random.default_rng(0).permutation(np.linspace(-2, 2, 40))
    left = np.arange(6, -1, -1)  # the return is wealth * (1 - 0.9 ** left) / (1 - 0.9)
    episodes = [
        make_episode(
            6,
            number,
            observations=np.stack([np.full(7, wealth[number]), left], axis=1).astype(np.float32),
            rewards=np.full(6, wealth[number]),
        )
        for number in range(40)
    ]
    data = make_data(episodes, discount=0.9, validation_share=0.25)
    module = make_module(ValueModule, learning_rate=3e-3)
    make_trainer(max_steps=120, limit_val_batches=0).fit(module, data)
    held_out = data.validation_windows.batch(range(len(data.validation_windows)))
    with torch.inference_mode():
        values = module.eval().predict(held_out, *module.draw(held_out, level=1))
    assert spearmanr(values, held_out.returns).statistic > 0.8


def test_a_value_functions_metrics_are_those_of_all_windows_together(make_data, make_trainer, make_stub):
    data, module = make_data(validation_share=0.25, batch_size=7), make_module(ValueModule)
    data.prepare_data()
    data.setup("validate")
    # The current observation has no noise: this network predicts its second number exactly.
    module.network = make_stub(lambda sample, timesteps: sample[:, A + 1, :1])
    windows = data.validation_windows.batch(range(18))
    predictions, returns = windows.trajectories[:, 0, A + 1].numpy(), windows.returns.numpy()
    expected = {
        "value_loss": np.mean((predictions - returns) ** 2),
        "explained_variance": 1 - np.var(returns - predictions) / np.var(returns),
        "rank_correlation": spearmanr(predictions, returns).statistic,
    }
    (logged,) = make_trainer().validate(module, data, verbose=False)
    assert logged == pytest.approx({name: expected[name.split("/")[1]] for name in logged}, rel=1e-4, abs=1e-5)


def test_validation_on_a_gpu_is_not_in_16_bits_and_training_is(make_stub, monkeypatch, batch):
    module, seen = make_module(ValueModule), []

    def answer(sample, timesteps):
        seen.append(torch.is_autocast_enabled("cuda"))
        return torch.zeros(len(sample), 1)

    module.network = make_stub(answer)
    monkeypatch.setattr(ValueModule, "device", torch.device("cuda"))  # as far as the module knows
    monkeypatch.setattr(
        module, "draw", lambda batch, level=None: (torch.zeros(B, dtype=torch.long), torch.zeros(B, H, T))
    )
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)  # as Lightning's bf16-mixed does around each step
    try:
        module.training_loss(batch)
        module.eval().measure(batch)
    finally:
        torch.set_autocast_enabled("cuda", before)
    assert seen == [True] + [False] * 5


@pytest.mark.parametrize("kind", MODULES)
def test_measuring_does_not_wait_for_the_device_to_look_for_nan(make_stub, monkeypatch, batch, kind):
    module = make_module(kind)
    module.network = make_stub(lambda sample, timesteps: sample[:, 0, :1] if kind is ValueModule else sample)
    monkeypatch.setattr(torch, "isnan", lambda tensor: pytest.fail("looked for NaN"))
    module.measure(batch)
    assert math.isfinite(module.validation_loss.compute())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", MODULES)
def test_a_validation_loss_that_is_not_a_number_is_logged_as_nan(make_stub, batch, kind):
    module = make_module(kind)
    module.network = make_stub(
        lambda sample, timesteps: math.nan * (sample[:, 0, :1] if kind is ValueModule else sample)
    )
    module.measure(batch)
    assert math.isnan(module.validation_loss.compute())
