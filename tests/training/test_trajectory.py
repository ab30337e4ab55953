"""TrajectoryModule: noise against diffusers and by formula, statistics, validation levels, hooks."""

import math

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from learners import MODULES, A, B, H, T, alone, cosine_alphas, make_batch, make_module, with_statistics

from vgp_lightning.data.windows import Batch, Draw
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.value import ValueModule

# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("levels", [5, 20])
def test_noising_is_that_of_diffusers_with_the_current_observation_pinned(batch, noise, levels):
    module, timesteps = make_module(num_train_timesteps=levels), torch.tensor([0, 2, levels - 1])
    clean = batch.trajectories
    noised = module.noised(clean, timesteps, noise)
    scheduler = DDPMScheduler(levels, beta_schedule="squaredcos_cap_v2")
    expected = scheduler.add_noise(clean, noise, timesteps)
    expected[:, 0, A:] = clean[:, 0, A:]
    torch.testing.assert_close(noised, expected)
    alphas = torch.from_numpy(cosine_alphas(levels)).float()[timesteps, None, None]
    by_formula = alphas.sqrt() * clean + (1 - alphas).sqrt() * noise
    torch.testing.assert_close(noised[:, 1:], by_formula[:, 1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(noised[:, 0, :A], by_formula[:, 0, :A], rtol=1e-4, atol=1e-5)


def test_noising_does_not_change_the_clean_trajectories(batch, noise):
    before = batch.trajectories.clone()
    make_module().noised(batch.trajectories, torch.tensor([0, 2, 4]), noise)
    assert torch.equal(batch.trajectories, before)


@pytest.mark.parametrize("kind", MODULES)
def test_the_noise_schedule_clips_nothing(kind):
    config = make_module(kind).noise_scheduler.config
    assert (config["clip_sample"], config["thresholding"], config["variance_type"]) == (False, False, "fixed_small_log")


@pytest.mark.parametrize("kind", MODULES)
def test_the_network_sees_noised_normalised_trajectories_channels_first(batch, noise, make_stub, kind):
    module, calls = with_statistics(make_module(kind)), []
    module.network = make_stub(lambda *args: calls.append(args) or torch.zeros(B, 1, 1))
    timesteps = torch.tensor([0, 2, 4])
    method = module.loss if kind is DenoiserModule else module.predict
    method(batch, timesteps, noise)
    ((sample, seen_timesteps),) = calls
    clean = (batch.trajectories - torch.tensor([4.0, 5.0, 6.0])) / torch.tensor([1.0, 2.0, 4.0])
    expected = module.noised(clean, timesteps, noise)
    torch.testing.assert_close(sample, expected.transpose(1, 2))
    assert torch.equal(seen_timesteps, timesteps)


def test_training_draws_every_noise_level_and_its_own_noise(batch, make_stub, monkeypatch):
    module, levels, samples = make_module(), [], []

    def answer(sample, timesteps):
        levels.extend(timesteps.tolist())
        samples.append(sample[0, 0, 1].item())
        return sample

    module.network = make_stub(answer)
    alone(module)
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    for number in range(40):
        module.training_step(make_batch(batch.trajectories, batch.returns, seed=number), 0)
    assert set(levels) == set(range(5))
    assert len(set(samples)) == 40


def test_the_noise_of_a_batch_depends_on_its_draw_alone():
    module, trajectories = make_module(), torch.randn(4, H, T)
    batch = make_batch(trajectories, torch.zeros(4), seed=5)
    first = module.draw(batch)
    torch.randn(3)
    assert all(torch.equal(a, b) for a, b in zip(first, module.draw(batch), strict=True))
    others = [
        make_batch(trajectories, torch.zeros(4), seed=6),
        make_batch(trajectories, torch.zeros(4), seed=2**64 - 1),
    ]
    noises = [first[1], *(module.draw(other)[1] for other in others), module.draw(batch, level=0)[1]]
    noises += [module.draw(batch, level=1)[1], make_module(ValueModule).draw(batch)[1]]
    assert len({noise.sum().item() for noise in noises}) == len(noises)


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("level", [None, 3])
def test_processes_share_the_noise_that_a_single_one_has(parts, level):
    module, trajectories = make_module(), torch.randn(8, H, T)
    timesteps, noise = module.draw(Batch(trajectories, torch.zeros(8), Draw(np.arange(8), 8, 0, 1, 5)), level)
    for part in range(parts):
        share = slice(part, None, parts)
        draw = Draw(np.arange(8)[share], 8, part, parts, 5)
        own_timesteps, own_noise = module.draw(Batch(trajectories[share], torch.zeros(8)[share], draw), level)
        assert torch.equal(own_timesteps, timesteps[share])
        assert torch.equal(own_noise, noise[share])


# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize("kind", MODULES)
def test_fitting_takes_the_data_modules_statistics_and_validating_keeps_the_checkpoints(make_data, make_trainer, kind):
    data, module = make_data(), make_module(kind)
    make_trainer(limit_val_batches=1).validate(module, data, verbose=False)
    assert module.shift.tolist() == [0] * T
    make_trainer(max_steps=1, limit_val_batches=0).fit(module, data)
    for name in ("shift", "scale", "return_shift", "return_scale"):
        np.testing.assert_array_equal(getattr(module, name), np.float32(data.normalization[name]))
        np.testing.assert_array_equal(module.normalization[name], np.float32(data.normalization[name]))
    assert [module.normalization[name] for name in ("action_dim", "action_low", "action_high")] == [A, [-1], [1]]
    assert module.shift.count_nonzero() == T


def test_missing_action_bounds_are_infinite_in_the_module_and_none_outside(make_data, make_trainer):
    data, module = make_data(), make_module()
    data._bounds = {"action_low": [None], "action_high": [2.0]}
    make_trainer(max_steps=1, limit_val_batches=0).fit(module, data)
    assert (module.action_low.tolist(), module.action_high.tolist()) == ([-math.inf], [2])
    assert (module.normalization["action_low"], module.normalization["action_high"]) == ([None], [2])


# ---------------------------------------------------------------- validation levels


@pytest.mark.parametrize(("levels", "chosen"), [(20, [0, 5, 10, 14, 19]), (5, [0, 1, 2, 3, 4]), (2, [0, 1]), (1, [0])])
def test_validation_measures_at_noise_levels_from_the_first_to_the_last(levels, chosen):
    assert list(make_module(num_train_timesteps=levels).validation_levels().values()) == chosen


@pytest.mark.parametrize("kind", MODULES)
def test_what_is_logged_by_a_levels_name_was_measured_at_that_level(make_data, make_trainer, make_stub, kind):
    data, module = make_data(validation_share=0.25), make_module(kind, num_train_timesteps=256)
    data.prepare_data()
    data.setup("validate")
    if kind is DenoiserModule:  # its error grows with the level
        module.network = make_stub(lambda sample, timesteps: sample * 0 + 1e3 * timesteps[:, None, None])
    else:  # it is right up to level 128, and wrong above
        sign = {0: 1, 64: 1, 128: 1, 191: -1, 255: -1}
        module.network = make_stub(lambda sample, t: sample[:, A + 1, :1] * torch.tensor([[sign[int(i)]] for i in t]))
    (logged,) = make_trainer().validate(module, data, verbose=False)
    names = {"t00": 0, "t64": 64, "t128": 128, "t191": 191, "t255": 255}
    if kind is DenoiserModule:
        for name, level in names.items():
            assert (logged[f"val_levels/diffusion_loss/{name}"] > 1e6 * (level - 1) ** 2) == (level > 0), name
            assert logged[f"val_levels/diffusion_loss/{name}"] < 1e9 * (level + 1) ** 2
    else:
        clean = logged["val/rank_correlation"]
        for name in ("t64", "t128", "t191", "t255"):
            expected = clean if names[name] < 150 else -clean
            assert logged[f"val_levels/rank_correlation/{name}"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (DenoiserModule, ["val/diffusion_loss", *(f"val_levels/diffusion_loss/t{t:02d}" for t in (0, 5, 10, 14, 19))]),
        (
            ValueModule,
            [
                "val/value_loss",
                *("val/explained_variance", "val/rank_correlation"),  # of the cleanest level
                *(
                    f"val_levels/{m}/t{t:02d}"
                    for m in ("explained_variance", "rank_correlation")
                    for t in (5, 10, 14, 19)
                ),
            ],
        ),
    ],
)
def test_validation_logs_a_loss_and_each_metric_at_each_level_and_twice_the_same(make_data, make_trainer, kind, names):
    module, data, trainer = make_module(kind, num_train_timesteps=20), make_data(validation_share=0.25), make_trainer()
    trainer.fit(module, data)  # takes the statistics
    (first,) = trainer.validate(module, data, verbose=False)
    torch.manual_seed(5)
    (second,) = trainer.validate(module, data, verbose=False)
    assert sorted(first) == sorted(names)
    assert all(math.isfinite(value) for value in first.values())
    assert first == second


@pytest.mark.parametrize("kind", MODULES)
def test_a_single_held_out_window_can_be_validated(make_data, make_trainer, kind):
    module = make_module(kind, widths=[16, 64])
    (logged,) = make_trainer().validate(module, make_data(validation_windows=1), verbose=False)
    assert math.isfinite(logged["val/diffusion_loss" if kind is DenoiserModule else "val/value_loss"])


# ---------------------------------------------------------------- hooks


@pytest.mark.parametrize("moment", ["on_fit_start", "on_train_start", "on_train_epoch_start"])
@pytest.mark.parametrize("kind", MODULES)
def test_hooks_that_a_callback_adds_are_called_at_each_step(make_data, make_trainer, kind, moment):
    forwards, backwards = [], []

    class Hooks(pl.Callback):
        def add(self, trainer, module):
            if trainer.current_epoch == (moment == "on_train_epoch_start"):  # then at the second epoch's start
                block = module.network.down_blocks[0].resnets[0]
                block.register_forward_hook(lambda *args: forwards.append(trainer.global_step))
                block.register_full_backward_hook(lambda *args: backwards.append(trainer.global_step))

    setattr(Hooks, moment, Hooks.add)
    make_trainer(max_steps=8, callbacks=[Hooks()]).fit(make_module(kind), make_data(validation_share=0, batch_size=18))
    expected = list(range(4 if moment == "on_train_epoch_start" else 0, 8))
    assert forwards == backwards == expected


def test_hooks_that_are_added_for_validation_are_called(make_data, make_trainer):
    module, calls = make_module(), []

    class Hooks(pl.Callback):
        def on_validation_start(self, trainer, module):
            module.network.mid_block.register_forward_hook(lambda *args: calls.append(1))

    data = make_data(validation_share=0.25)
    make_trainer(max_steps=2, callbacks=[Hooks()], val_check_interval=2, check_val_every_n_epoch=None).fit(module, data)
    assert len(calls) == 2 * 5  # two batches, five levels
