"""The value function's loss and metrics by hand, and that it ranks what it has not seen."""

import numpy as np
import pytest
import torch
from learners import A, make_module, with_statistics
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
    monkeypatch.setattr(module, "log", lambda name, value, **kwargs: logged.update({name: value.item()}))
    loss = module.training_step(batch, 0)
    assert loss.item() == pytest.approx((1**2 + 3.5**2 + 1**2) / 3)
    assert logged == {"train/value_loss": loss.item()}


def test_a_value_function_ranks_what_it_has_not_seen(make_data, make_episode, make_trainer):
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
    # The present observation has no noise, so what is predicted is known: its second number.
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
