"""Losses by hand on networks that answer what they are told, schedules by formula, and that training learns."""

import json
import math
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from scipy.stats import spearmanr
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vgp_lightning.data.windows import Batch, Draw
from vgp_lightning.training.callbacks import EMA
from vgp_lightning.training.planner import DenoiserModule, PlannerModule, ValueModule, load_module

A, H, T, B = 1, 4, 3, 3
MODULES = [DenoiserModule, ValueModule]


def make_module(kind=DenoiserModule, **options):
    widths = [16, 16] if kind is DenoiserModule else [16, 64]
    sizes = {"transition_dim": T, "action_dim": A, "horizon": H, "task": {"env_id": "Tiny-v0"}}
    return kind(**sizes | {"widths": widths, "num_train_timesteps": 5, "warmup_steps": 0} | options)


@pytest.fixture
def batch():
    return make_batch(3 * torch.randn(B, H, T) + 5, torch.tensor([1.0, -2.0, 4.0]))


def make_batch(trajectories, returns, seed=0):
    count = len(trajectories)
    return Batch(trajectories, returns, Draw(np.arange(count), count, 0, 1, seed))


@pytest.fixture
def noise():
    return torch.randn(B, H, T)


def with_statistics(module):
    module.shift.copy_(torch.tensor([4.0, 5.0, 6.0]))
    module.scale.copy_(torch.tensor([1.0, 2.0, 4.0]))
    module.return_shift.fill_(3)
    module.return_scale.fill_(2)
    return module


def cosine_alphas(levels):
    """The products of alphas of Nichol and Dhariwal's cosine schedule, each beta at most 0.999."""
    f = [math.cos((i / levels + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(levels + 1)]
    return np.cumprod([1 - min(1 - f[i + 1] / f[i], 0.999) for i in range(levels)])


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("levels", [5, 20])
def test_noising_is_diffusers_but_the_present_observation_is_pinned(batch, noise, levels):
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


def test_noising_leaves_the_clean_trajectories_alone(batch, noise):
    before = batch.trajectories.clone()
    make_module().noised(batch.trajectories, torch.tensor([0, 2, 4]), noise)
    assert torch.equal(batch.trajectories, before)


@pytest.mark.parametrize("kind", MODULES)
def test_the_noise_schedule_clips_nothing(kind):
    config = make_module(kind).noise_scheduler.config
    assert (config["clip_sample"], config["thresholding"], config["variance_type"]) == (False, False, "fixed_small_log")


# ---------------------------------------------------------------- the denoiser's loss


def loss_by_hand(prediction, target, action_weight, loss_discount):
    """Weighted mean of squares: each step's weight is relative to their mean, the first step's are given."""
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


@pytest.mark.parametrize("kind", MODULES)
def test_the_network_sees_noised_normalised_trajectories_channels_first(batch, noise, make_stub, kind):
    module, calls = with_statistics(make_module(kind)), []
    module.network = make_stub(lambda *args: calls.append(args) or torch.zeros(B, 1, 1))
    timesteps = torch.tensor([0, 2, 4])
    method = module.loss if kind is DenoiserModule else module.predict
    method(batch, timesteps, noise)
    ((sample, seen_timesteps),) = calls
    expected = module.noised(targets(batch, timesteps, noise)["sample"], timesteps, noise)
    torch.testing.assert_close(sample, expected.transpose(1, 2))
    assert torch.equal(seen_timesteps, timesteps)


def test_training_draws_every_noise_level_and_its_own_noise(batch, make_stub, monkeypatch):
    module, levels, samples = make_module(), [], []

    def answer(sample, timesteps):
        levels.extend(timesteps.tolist())
        samples.append(sample[0, 0, 1].item())
        return sample

    module.network = make_stub(answer)
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    for number in range(40):
        module.training_step(make_batch(batch.trajectories, batch.returns, seed=number), 0)
    assert set(levels) == set(range(5))
    assert len(set(samples)) == 40


# ---------------------------------------------------------------- the value function's loss


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


# ---------------------------------------------------------------- statistics and checkpoints


@pytest.mark.parametrize("kind", MODULES)
def test_fitting_takes_the_data_modules_statistics_and_validating_keeps_ones_own(make_data, make_trainer, kind):
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


@pytest.mark.parametrize("kind", MODULES)
def test_a_checkpoint_alone_has_weights_statistics_and_plain_settings(make_data, make_trainer, tmp_path, batch, kind):
    trained, trainer, path = make_module(kind, learning_rate=0.01), make_trainer(max_steps=2), tmp_path / "a.ckpt"
    trainer.fit(trained, make_data())
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    settings = checkpoint["hyper_parameters"]
    assert json.loads(json.dumps(settings)) == settings
    assert (settings["widths"], settings["task"], settings["learning_rate"]) == (
        [16, 16] if kind is DenoiserModule else [16, 64],
        {"env_id": "Tiny-v0"},
        0.01,
    )
    loaded = load_module(str(path))
    assert type(loaded) is kind
    assert loaded.normalization == trained.normalization
    timesteps = torch.tensor([0, 2, 4])
    sample = batch.trajectories.transpose(1, 2)
    with torch.inference_mode():
        answers = [module.eval().network(sample, timesteps).sample for module in (loaded, trained)]
    assert torch.equal(*answers)
    assert not torch.equal(answers[0], make_module(kind).network(sample, timesteps).sample)


def test_a_checkpoint_that_is_missing_names_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"none\.ckpt does not exist: train one with vgp fit"):
        load_module(str(tmp_path / "none.ckpt"))


@pytest.mark.parametrize("content", ["", "# Title", "hello", "a: 1", "{}"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "a.ckpt").write_text(content)
    with pytest.raises(ValueError, match=r"a\.ckpt cannot be read as a checkpoint"):
        load_module(str(tmp_path / "a.ckpt"))


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_module(str(tmp_path))


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"vgp_module": "Other", "state_dict": {}}])
def test_another_programs_checkpoint_is_refused_by_name(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of DenoiserModule or ValueModule"):
        load_module(str(tmp_path / "a.ckpt"))


def test_a_checkpoint_of_another_lightning_module_is_refused(make_trainer, tmp_path):
    class Other(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch):
            return self.layer(batch).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = make_trainer(max_steps=1)
    trainer.fit(Other(), torch.utils.data.DataLoader(torch.ones(2, 1)))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of"):
        load_module(str(tmp_path / "a.ckpt"))


# ---------------------------------------------------------------- learning


class Steps(pl.Callback):
    """Each step's loss, and the norm of all its gradients before anything is done to them."""

    def __init__(self):
        self.losses, self.norms = [], []

    def on_after_backward(self, trainer, module):
        squares = sum((weights.grad.double() ** 2).sum() for weights in module.network.parameters())
        self.norms.append(squares.sqrt().item())

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


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


@pytest.mark.parametrize("kind", MODULES)
def test_training_in_bfloat16_is_that_in_float32_but_for_rounding(make_data, make_trainer, kind):
    data, recorded = make_data(validation_share=0), {}
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        module = make_module(kind, widths=[16, 32] if kind is DenoiserModule else [32, 64], learning_rate=1e-4)
        steps = recorded[precision] = Steps()
        make_trainer(precision=precision, max_steps=8, callbacks=[steps]).fit(module, data)
        assert {weights.dtype for weights in module.network.parameters()} == {torch.float32}
    full, half = recorded.values()
    if kind is DenoiserModule:  # the value function may stay in float32
        assert half.losses != full.losses
    assert half.losses == pytest.approx(full.losses, rel=0.05)
    assert half.norms[0] == pytest.approx(full.norms[0], rel=0.3)
    assert max(half.norms) < 10 * max(full.norms)


# ---------------------------------------------------------------- the optimizer


class LearningRates(pl.Callback):
    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("kind", MODULES)
def test_the_learning_rate_rises_in_the_warm_up_and_falls_as_a_cosine_to_zero(make_data, make_trainer, kind):
    recorder = LearningRates()
    trainer = make_trainer(max_steps=12, callbacks=[recorder], limit_val_batches=0)
    trainer.fit(make_module(kind, learning_rate=0.01, warmup_steps=4), make_data())
    rising = [0.01 * step / 4 for step in range(4)]
    falling = [0.01 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert recorder.rates == pytest.approx(rising + falling)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_the_schedule_ends_with_the_epochs_too(make_data, make_trainer):
    recorder = LearningRates()
    trainer = make_trainer(max_steps=-1, max_epochs=2, callbacks=[recorder], limit_train_batches=4, limit_val_batches=0)
    trainer.fit(make_module(learning_rate=0.01), make_data(batch_size=8))
    assert recorder.rates == pytest.approx([0.01 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)])


def test_a_warm_up_longer_than_the_training_takes_all_of_it(make_data, make_trainer):
    recorder = LearningRates()
    make_trainer(max_steps=4, callbacks=[recorder]).fit(
        make_module(learning_rate=0.01, warmup_steps=500), make_data(validation_share=0)
    )
    assert recorder.rates == pytest.approx([0, 0.0025, 0.005, 0.0075])


def test_training_without_an_end_is_refused():
    module = make_module()
    module._trainer = SimpleNamespace(estimated_stepping_batches=math.inf, precision="32-true")
    with pytest.raises(ValueError, match=r"set trainer\.max_steps or trainer\.max_epochs"):
        module.configure_optimizers()


@pytest.mark.parametrize(("precision", "fused"), [("32-true", True), ("bf16-mixed", True), ("16-mixed", False)])
def test_the_optimizer_is_fused_unless_gradients_are_scaled(precision, fused):
    module = make_module(learning_rate=0.01, weight_decay=0.3)
    module._trainer = SimpleNamespace(estimated_stepping_batches=10, precision=precision)
    optimizer = module.configure_optimizers()["optimizer"]
    assert type(optimizer) is torch.optim.AdamW
    (group,) = optimizer.param_groups
    assert (group["fused"], group["weight_decay"]) == (fused, 0.3)


@pytest.mark.parametrize(("interval", "batches"), [(1, 5), (3, 100), (3, 4)])
def test_the_logged_gradient_norm_is_that_steps_before_clipping(make_data, make_trainer, tmp_path, interval, batches):
    recorder, logger = Steps(), TensorBoardLogger(tmp_path, default_hp_metric=False)
    make_trainer(
        max_steps=7,
        gradient_clip_val=1e-3,
        callbacks=[recorder],
        logger=logger,
        log_every_n_steps=interval,
        limit_train_batches=batches,  # of an epoch
    ).fit(make_module(learning_rate=0.01), make_data(validation_share=0, batch_size=8))
    events = EventAccumulator(logger.log_dir).Reload()
    losses = {event.step for event in events.Scalars("train/diffusion_loss")}
    logged = {event.step: event.value for event in events.Scalars("train/grad_norm")}
    assert set(logged) == losses == set(range(interval - 1, 7, interval))
    assert logged == pytest.approx({step: recorder.norms[step] for step in logged}, rel=1e-4)
    assert min(logged.values()) > 1e-2


# ---------------------------------------------------------------- validation


@pytest.mark.parametrize(("levels", "chosen"), [(20, [0, 5, 10, 14, 19]), (5, [0, 1, 2, 3, 4]), (2, [0, 1]), (1, [0])])
def test_validation_measures_at_noise_levels_from_the_first_to_the_last(levels, chosen):
    assert list(make_module(num_train_timesteps=levels).validation_levels().values()) == chosen


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


def test_validation_adds_up_windows_and_not_batches(make_data, make_trainer, make_stub):
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


@pytest.mark.parametrize("kind", MODULES)
def test_a_single_held_out_window_can_be_validated(make_data, make_trainer, kind):
    module = make_module(kind, widths=[16, 64])
    (logged,) = make_trainer().validate(module, make_data(validation_windows=1), verbose=False)
    assert math.isfinite(logged["val/diffusion_loss" if kind is DenoiserModule else "val/value_loss"])


def test_compiling_is_left_to_the_network_so_that_the_keys_stay(make_data, make_trainer, monkeypatch):
    compiled, data = [], make_data(validation_share=0)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compiled.append(network))
    make_trainer(max_steps=1).fit(make_module(), data)
    assert compiled == []
    module = make_module(compile=True)
    make_trainer(max_steps=1).fit(module, data)
    assert compiled == [module.network]


# ---------------------------------------------------------------- both networks in one run


def make_planner(**options):
    return make_module(PlannerModule, widths=[16, 16], value_widths=[16, 64], learning_rate=0.01, **options)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_both_networks_in_one_run_are_those_of_two_runs_to_the_bit(
    make_data, make_trainer, tmp_path, precision, algorithm
):
    data, limits, found = make_data(validation_share=0.25), {"norm": 0.05, "value": 0.001}, {}
    kinds = {
        PlannerModule: {"widths": [16, 16], "value_widths": [16, 64], "value_learning_rate": 3e-3},
        DenoiserModule: {},
        ValueModule: {"learning_rate": 3e-3},
    }
    for kind, options in kinds.items():
        torch.manual_seed(0)
        module, steps = make_module(kind, **{"learning_rate": 0.01, "warmup_steps": 2} | options), PartSteps()
        trainer = make_trainer(
            max_steps=8,
            callbacks=[EMA(0.9), steps],
            gradient_clip_val=limits[algorithm],
            gradient_clip_algorithm=algorithm,
            precision=precision,
            val_check_interval=3,
            check_val_every_n_epoch=None,
        )
        trainer.fit(module, data)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        for part in module.parts:
            clipped = steps.sizes[part.short_name]
            assert len(clipped) == 5  # of eight: validation forgets gradients, and after the last step nobody asks
            weights = {name: value for name, value in part.state_dict().items() if name.startswith("network.")}
            validation = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
            found[kind, part.short_name] = weights, steps.raw[part.short_name], clipped, validation
    for kind, name in ((DenoiserModule, "denoiser"), (ValueModule, "value_function")):
        (average, raw, sizes, validation), (own_average, own_raw, own_sizes, own_validation) = (
            found[PlannerModule, name],
            found[kind, name],
        )
        for together, alone in ((average, own_average), (raw, own_raw)):
            assert together.keys() == alone.keys()
            assert all(torch.equal(together[key], alone[key]) for key in alone)
        assert any(not torch.equal(average[key], raw[key]) for key in raw)
        assert sizes == own_sizes == pytest.approx([limits[algorithm]] * 5, rel=1e-3)  # they were bigger
        assert {key: validation[key] for key in own_validation} == own_validation
    together = found[PlannerModule, "denoiser"][3]
    assert (
        together.keys() == found[DenoiserModule, "denoiser"][3].keys() | found[ValueModule, "value_function"][3].keys()
    )


class PartSteps(pl.Callback):
    """How big each network's gradients are as they are stepped with, and its raw weights at the end."""

    def __init__(self):
        self.sizes, self.raw = {}, {}

    def on_before_zero_grad(self, trainer, module, optimizer):
        for part in module.parts:
            gradients = [weights.grad for weights in part.network.parameters() if weights.grad is not None]
            if gradients:
                numbers = torch.cat([gradient.flatten() for gradient in gradients])
                size = (
                    numbers.norm().item() if trainer.gradient_clip_algorithm == "norm" else numbers.abs().max().item()
                )
                self.sizes.setdefault(part.short_name, []).append(size)

    def on_train_epoch_end(self, trainer, module):
        for part in module.parts:
            self.raw[part.short_name] = {f"network.{k}": v.clone() for k, v in part.network.state_dict().items()}


def test_a_run_of_both_networks_logs_what_two_runs_do(make_data, make_trainer, tmp_path):
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    module = make_planner(value_learning_rate=0.002)
    make_trainer(
        max_steps=4,
        logger=logger,
        callbacks=[LearningRateMonitor()],
        val_check_interval=2,
        check_val_every_n_epoch=None,
    ).fit(module, make_data(validation_share=0.25))
    events = EventAccumulator(logger.log_dir).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/diffusion_loss", "train/value_loss", "val/diffusion_loss", "val/value_loss"} <= tags
    assert {"train/grad_norm/denoiser", "train/grad_norm/value_function"} <= tags
    assert {"val_levels/diffusion_loss/t00", "val_levels/explained_variance/t04", "val/rank_correlation"} <= tags
    rates = {tag: events.Scalars(tag)[0].value for tag in tags if tag.startswith("train/lr")}
    assert rates == pytest.approx({"train/lr/denoiser": 0.01, "train/lr/value_function": 0.002})


def test_the_value_function_can_have_widths_and_a_learning_rate_of_its_own():
    module = make_planner(value_learning_rate=0.002, weight_decay=0.3)
    assert [part.learning_rate for part in module.parts] == [0.01, 0.002]
    assert (
        module.denoiser.network.config["block_out_channels"][:2]
        != module.value_function.network.config["block_out_channels"][:2]
    )
    module._trainer = SimpleNamespace(estimated_stepping_batches=10, precision="32-true")
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [group["name"] for group in groups] == ["denoiser", "value_function"]
    assert [group["initial_lr"] for group in groups] == [0.01, 0.002]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.3]
    weights = {id(weight) for group in groups for weight in group["params"]}
    assert weights == {id(weight) for weight in module.parameters()}


def test_without_numbers_of_its_own_the_value_function_shares_the_denoisers():
    module = make_module(PlannerModule, widths=[16, 64], learning_rate=0.003, warmup_steps=7, num_train_timesteps=6)
    first, second = module.parts
    for name in ("learning_rate", "weight_decay", "warmup_steps", "levels"):
        assert getattr(first, name) == getattr(second, name)
    assert second.hparams["widths"] == [16, 64]


def test_a_checkpoint_of_both_networks_holds_plain_settings_and_loads(make_data, make_trainer, tmp_path):
    module, trainer = make_planner(), make_trainer(max_steps=2)
    trainer.fit(module, make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    settings = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]
    assert json.loads(json.dumps(settings)) == settings
    assert (settings["widths"], settings["value_widths"], settings["learning_rate"]) == ([16, 16], [16, 64], 0.01)
    loaded = load_module(str(tmp_path / "a.ckpt"))
    assert type(loaded) is PlannerModule
    for name, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert loaded.denoiser.normalization == loaded.value_function.normalization == module.denoiser.normalization
    assert loaded.denoiser.hparams["horizon"] == H


@pytest.mark.parametrize("kind", MODULES)
def test_a_checkpoint_of_one_network_is_not_resumed_as_both_nor_both_as_one(make_data, make_trainer, tmp_path, kind):
    data, trainer = make_data(validation_share=0), make_trainer(max_steps=1)
    for first, second in ((make_planner(), make_module(kind)), (make_module(kind), make_planner())):
        trainer = make_trainer(max_steps=1)
        trainer.fit(first, data)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        words = f"holds a {type(first).__name__}, but the config asks for a {type(second).__name__}"
        with pytest.raises(ValueError, match=words):
            make_trainer(max_steps=2).fit(second, data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)


# ---------------------------------------------------------------- noise of a draw


def test_the_noise_of_a_batch_is_that_of_its_draw_whatever_happened_before():
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


def test_the_shares_losses_average_to_that_of_the_whole_batch(monkeypatch):
    module, trajectories = with_statistics(make_module()), torch.randn(7, H, T)  # 4 and 3 windows
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    whole = module.training_step(Batch(trajectories, torch.zeros(7), Draw(np.arange(7), 7, 0, 1, 5)), 0)
    losses = [
        module.training_step(
            Batch(trajectories[part::2], torch.zeros(7)[part::2], Draw(np.arange(7)[part::2], 7, part, 2, 5)), 0
        )
        for part in range(2)
    ]
    torch.testing.assert_close(sum(losses) / 2, whole)


# ---------------------------------------------------------------- going on with other data


def test_a_run_is_not_resumed_with_data_that_have_changed(
    make_data, make_dataset, make_episode, make_trainer, tmp_path
):
    trainer, module = make_trainer(max_steps=1), make_module()
    trainer.fit(module, make_data(validation_share=0))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    make_dataset("test/other-v0", [make_episode(12, number) for number in range(7)])
    other = make_data(dataset_id="test/other-v0", validation_share=0)
    with pytest.raises(ValueError, match="the data have changed since the checkpoint was written: shift is"):
        make_trainer(max_steps=2).fit(make_module(), other, ckpt_path=tmp_path / "a.ckpt", weights_only=True)


@pytest.mark.parametrize(("own", "expected"), [(None, [0.5, 0.5]), (0.25, [0.5, 0.25])])
def test_a_finders_learning_rate_is_that_of_both_networks_but_of_one_that_has_its_own(own, expected):
    planner = PlannerModule(
        transition_dim=T, action_dim=A, horizon=H, task={}, widths=[16, 64], value_learning_rate=own
    )
    planner.learning_rate = 0.5  # as Lightning's does
    planner._trainer = SimpleNamespace(estimated_stepping_batches=10, precision="32-true")
    groups = planner.configure_optimizers()["optimizer"].param_groups
    assert [group["initial_lr"] for group in groups] == expected
