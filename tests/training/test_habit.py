"""HabitModule: its loss by hand, what it learns against a closed form, and which samples it learns from."""

import pytest
import torch
from fakes import UNITS, A, O

from vgp_lightning.training.habit import HabitModule, make_loaders

C = 2


def samples(count=400):
    """Actions that are a linear map of the observations, both in units of their own."""
    generator = torch.Generator().manual_seed(1)
    normalised = torch.randn(count, O, generator=generator)
    actions = (normalised @ torch.randn(O, C * A, generator=generator)).view(count, C, A)
    shift, scale = torch.tensor(UNITS["shift"]), torch.tensor(UNITS["scale"])
    return normalised * scale[A:] + shift[A:], actions * scale[:A] + shift[:A]


def train(make_trainer, steps=300, seed=0, **options):
    torch.manual_seed(seed)
    module = HabitModule(UNITS, C, [32], learning_rate=1e-2, warmup_steps=10, **options)
    trainer = make_trainer(max_steps=steps)
    trainer.fit(module, *make_loaders(samples(), 0.1, 64, steps, torch.Generator().manual_seed(seed)))
    return module, trainer


def test_the_loss_is_the_squared_error_of_normalised_actions():
    observations, actions = samples(5)
    module = HabitModule(UNITS, C, [8])
    for layer in module.network.layers:
        if hasattr(layer, "weight"):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    expected = ((actions - torch.tensor([0.5, -0.5])) / torch.tensor([0.1, 2.0])) ** 2
    torch.testing.assert_close(module.errors((observations, actions)), expected)


def test_it_learns_what_it_is_taught(make_trainer):
    module, trainer = train(make_trainer)
    observations, actions = samples()
    variance = module.errors((observations, actions.mean(0).expand_as(actions))).mean()
    assert trainer.callback_metrics["val/habit_loss"] < 0.02 * variance
    assert {"train/habit_loss", "val/habit_loss", "val/habit_first_action"} <= set(trainer.callback_metrics)
    module.network.eval()
    torch.testing.assert_close(module.network.answer(observations), actions, atol=1.5, rtol=0.2)


def test_the_same_seed_gives_the_same_weights_to_the_bit(make_trainer):
    first, second = (train(make_trainer, steps=20)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = train(make_trainer, steps=20, seed=1)[0].state_dict()
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(("share", "held_out"), [(0.1, 40), (0.0, 1)])
def test_held_out_samples_are_never_trained_on(share, held_out):
    observations = torch.arange(400.0)[:, None]
    training, validation = make_loaders((observations, observations[:, None]), share, 50, 40, torch.Generator())
    seen = torch.cat([batch[0] for batch in training]).flatten().tolist()
    kept = torch.cat([batch[0] for batch in validation]).flatten().tolist()
    assert len(kept) == held_out
    assert not set(seen) & set(kept)
    assert [len(batch[0]) for batch in training] == [50] * 40
