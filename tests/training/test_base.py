"""LearningModule: schedules by formula, logged numbers, precision, compilation, and what is refused."""

import math
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from fakes import differences
from learners import MODULES, B, H, Steps, T, alone, make_batch, make_module, with_statistics
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vgp_lightning.data.windows import Batch, Draw
from vgp_lightning.pipeline.fast_toomcook import make_transforms
from vgp_lightning.training.callbacks import EMA
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.fast_layers import _Buffers, _make_matrices
from vgp_lightning.training.pictures import PlanPicture
from vgp_lightning.training.planner import PlannerModule
from vgp_lightning.training.value import ValueModule

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


def test_the_schedule_ends_with_the_last_epoch_too(make_data, make_trainer):
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


# ---------------------------------------------------------------- logged numbers


@pytest.mark.parametrize(("interval", "batches"), [(1, 5), (3, 100), (3, 4)])
def test_the_logged_gradient_norm_is_that_of_its_step_before_clipping(
    make_data, make_trainer, tmp_path, interval, batches
):
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


def test_the_shares_losses_average_to_that_of_the_whole_batch(monkeypatch):
    module, trajectories = with_statistics(make_module()), torch.randn(7, H, T)  # 4 and 3 windows
    alone(module)
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    whole = module.training_step(Batch(trajectories, torch.zeros(7), Draw(np.arange(7), 7, 0, 1, 5)), 0)
    losses = [
        module.training_step(
            Batch(trajectories[part::2], torch.zeros(7)[part::2], Draw(np.arange(7)[part::2], 7, part, 2, 5)), 0
        )
        for part in range(2)
    ]
    torch.testing.assert_close(sum(losses) / 2, whole)


# ---------------------------------------------------------------- precision and compilers


@pytest.mark.parametrize("kind", MODULES)
def test_training_in_bfloat16_differs_from_float32_by_rounding(make_data, make_trainer, kind):
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


def test_a_network_is_compiled_only_where_it_is_asked_for_and_then_the_compiled_one_trains(
    make_data, make_trainer, monkeypatch
):
    compiled, trained, data = [], [], make_data(validation_share=0)

    def compiler(network):
        compiled.append(network)
        return lambda *args: trained.append(1) or network(*args)

    monkeypatch.setattr(torch, "compile", compiler)
    make_trainer(max_steps=1).fit(make_module(), data)
    assert compiled == trained == []
    module = make_module(compile=True)
    make_trainer(max_steps=3).fit(module, data)
    assert compiled == [module.network]
    assert trained == [1, 1, 1]


# ---------------------------------------------------------------- resuming


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


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_16_bit_weights_are_refused_since_they_would_round_the_data(make_data, make_trainer, verb):
    trainer = make_trainer(precision="bf16-true")
    with pytest.raises(ValueError, match=r"it would round .* Use bf16-mixed or 16-mixed"):
        getattr(trainer, verb)(make_module(), make_data())


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "transformer-engine", "transformer-engine-float16"])
@pytest.mark.parametrize("kind", MODULES)
def test_each_precision_of_less_than_32_bit_weights_is_refused(kind, precision):
    module = make_module(kind)
    module._trainer = SimpleNamespace(precision=precision, strategy=None, datamodule=None)
    with pytest.raises(ValueError, match=f"trainer.precision is {precision}"):
        module.setup("fit")


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_other_precisions_keep_the_statistics_and_resume(make_data, make_trainer, tmp_path, precision):
    data, path = make_data(validation_share=0.25), tmp_path / "a.ckpt"
    trainer = make_trainer(max_steps=3, precision=precision, callbacks=[EMA(0.9)])
    trainer.fit(make_module(), data)
    trainer.save_checkpoint(path)
    module = make_module()
    options = {"precision": precision, "callbacks": [EMA(0.9)]}
    make_trainer(max_steps=6, **options).fit(module, data, ckpt_path=path, weights_only=True)
    for name in ("shift", "scale", "return_shift", "return_scale"):
        np.testing.assert_array_equal(np.float32(module.normalization[name]), np.float32(data.normalization[name]))


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_a_strategy_that_divides_the_weights_is_refused(strategy):
    module = make_module()
    module._trainer = SimpleNamespace(precision="32-true", strategy=strategy(), datamodule=None)
    with pytest.raises(ValueError, match=rf"trainer\.strategy is {strategy.__name__}: .* Use ddp"):
        module.setup("fit")


# ---------------------------------------------------------------- several processes


@pytest.mark.parametrize(("step", "expected"), [(8, 1.0), (9, 2.5)])  # logged every ten steps
def test_the_logged_loss_is_the_mean_over_all_processes_at_the_steps_that_are_logged(
    make_stub, monkeypatch, step, expected
):
    module, asked = make_module(ValueModule), []

    def reduce(tensor, reduce_op):
        asked.append(reduce_op)
        return (tensor + 4.0) / 2  # another process has 4

    module._trainer = SimpleNamespace(
        world_size=2, global_step=step, log_every_n_steps=10, strategy=SimpleNamespace(reduce=reduce)
    )
    module.network = make_stub(lambda sample, timesteps: torch.zeros(len(sample), 1))
    logged = {}
    monkeypatch.setattr(module, "log", lambda name, value, **kwargs: logged.update({name: value.item()}))
    module.training_step(make_batch(torch.zeros(B, H, T), torch.ones(B)), 0)
    assert logged == {"train/value_loss": expected}
    assert asked == ["mean"] * (step == 9)
    assert module.losses["train/value_loss"].item() == 1.0


# ---------------------------------------------------------------- torch's settings


def test_a_default_dtype_of_64_bits_changes_no_bit_of_training(make_data, make_trainer, monkeypatch):
    found, data = [], make_data(validation_share=0.25)
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        monkeypatch.setattr("vgp_lightning.training.fast_layers._buffers", _Buffers())  # as in a new process
        _make_matrices.cache_clear()
        make_transforms.cache_clear()
        module = make_module(PlannerModule, widths=[16, 16], value_widths=[16, 64], learning_rate=0.01)
        torch.set_default_dtype(dtype)
        try:
            make_trainer(max_steps=4, callbacks=[EMA(0.9)]).fit(module, data)
        finally:
            torch.set_default_dtype(torch.float32)
        found.append(module.state_dict())
    assert differences(*found) == []


@pytest.mark.slow
def test_both_networks_compiled_stay_below_the_limit_of_compilations(make_data, make_trainer, tmp_path, monkeypatch):
    graphs, compiler = [], torch.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda *args: compiler(*args, backend=backend))
    torch.compiler.reset()
    # 54 windows: batches of 16 and a rest of 6; validation in batches of 16 and 2.
    trainer = make_trainer(
        max_steps=8,
        callbacks=[EMA(0.9), PlanPicture(3)],
        logger=TensorBoardLogger(tmp_path, default_hp_metric=False),
        val_check_interval=4,
        check_val_every_n_epoch=None,
    )
    module = make_module(PlannerModule, widths=[16, 16], value_widths=[16, 64], compile=True)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        trainer.fit(module, make_data(validation_share=0.25))
    assert 2 <= len(graphs) <= 4
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    names = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"].keys()
    assert names == make_module(PlannerModule, widths=[16, 16], value_widths=[16, 64]).state_dict().keys()
