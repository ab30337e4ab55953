"""The denoiser's loss by hand, on networks whose output is given, and a denoiser that learns."""

import numpy as np
import pytest
import torch
from learners import A, B, H, Steps, T, cosine_alphas, make_module, with_statistics


def loss_by_hand(prediction, target, action_weight, loss_discount):
    """Weighted mean of squares: each step's weight is divided by their mean, the first step's weights are given."""
    mean = sum(loss_discount**h for h in range(H)) / H
    total = 0.0
    for b in range(B):
        for h in range(H):
            for d in range(T):
                weight = loss_discount**h / mean
                if h == 0:
                    weight = action_weight if d < A else 0
                total += weight * float(prediction[b, h, d] - target[b, h, d]) ** 2
    return total / (B * H * T)


def targets(batch, timesteps, noise):
    """Return what each kind of denoiser has to predict, from the cosine schedule's formula."""
    clean = (batch.trajectories - torch.tensor([4.0, 5.0, 6.0])) / torch.tensor([1.0, 2.0, 4.0])
    alphas = torch.from_numpy(cosine_alphas(5)).float()[timesteps, None, None]
    return {
        "sample": clean,
        "epsilon": noise,
        "v_prediction": alphas.sqrt() * noise - (1 - alphas).sqrt() * clean,
    }


@pytest.mark.parametrize("loss_discount", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["sample", "epsilon", "v_prediction"])
def test_the_denoisers_loss_is_the_weighted_mean_of_squares_to_its_target(batch, noise, make_stub, kind, loss_discount):
    module = with_statistics(make_module(prediction_type=kind, action_weight=7.0, loss_discount=loss_discount))
    prediction, timesteps = torch.randn(B, H, T), torch.tensor([0, 2, 4])
    module.network = make_stub(lambda sample, timesteps: prediction.transpose(1, 2))
    losses = module.loss(batch, timesteps, noise)
    expected = loss_by_hand(prediction, targets(batch, timesteps, noise)[kind], 7.0, loss_discount)
    assert losses.shape == (B,)
    assert losses.mean().item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["sample", "epsilon", "v_prediction"])
def test_a_perfect_prediction_has_no_loss_whatever_it_says_of_the_pinned_observation(batch, noise, make_stub, kind):
    module, timesteps = with_statistics(make_module(prediction_type=kind)), torch.tensor([1, 2, 4])
    prediction = targets(batch, timesteps, noise)[kind].clone()
    prediction[:, 0, A:] = 1e3
    module.network = make_stub(lambda sample, timesteps: prediction.transpose(1, 2))
    assert module.loss(batch, timesteps, noise).tolist() == pytest.approx([0] * B, abs=1e-8)


def test_a_denoiser_learns_the_windows_that_it_is_shown(make_data, make_episode, make_trainer):
    def circle(number):
        angle = 0.4 * np.arange(13) + number
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)

    episodes = [
        make_episode(12, number, observations=circle(number), actions=circle(number)[:-1, :1]) for number in range(6)
    ]
    data, module = make_data(episodes, validation_share=0), make_module(widths=[16, 32], learning_rate=3e-3)
    steps = Steps()
    make_trainer(max_steps=150, callbacks=[steps]).fit(module, data)
    assert np.mean(steps.losses[-20:]) < 0.25 * np.mean(steps.losses[:5])


def test_validation_averages_over_windows_and_not_over_batches(make_data, make_trainer, make_stub):
    data, module = make_data(validation_share=0.25, batch_size=7), make_module(action_weight=3.0)
    data.prepare_data()
    data.setup("validate")
    module.network = make_stub(lambda sample, timesteps: torch.zeros_like(sample))  # so that the noise does not matter
    windows = data.validation_windows.batch(range(18)).trajectories  # three batches: 7, 7, 4
    weights = torch.ones(H, T)
    weights[0] = torch.tensor([3.0, 0, 0])
    expected = (weights * windows**2).mean().item()
    (logged,) = make_trainer().validate(module, data, verbose=False)
    assert logged == pytest.approx(dict.fromkeys(logged, expected), rel=1e-5)
