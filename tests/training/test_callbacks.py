"""EMA against an average computed by hand, and throughput on a clock that the test sets."""

from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from fakes import differences
from learners import Recorder, assert_same, average_by_hand, copied, differ, make_module
from lightning.pytorch.callbacks import EMAWeightAveraging

from vgp_lightning.training.callbacks import EMA, Throughput
from vgp_lightning.training.checkpoints import LastCheckpoint, load_module
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.value import ValueModule

STATISTICS = ("shift", "scale", "action_low", "action_high", "return_shift", "return_scale")


# ---------------------------------------------------------------- EMA


@pytest.mark.parametrize("kind", [DenoiserModule, ValueModule])
@pytest.mark.parametrize("decay", [0.9999, 0.3, 0.0])  # 0.3 is reached after three steps
def test_a_checkpoint_has_the_average_by_hand_the_raw_weights_and_the_statistics(
    make_data, make_trainer, tmp_path, kind, decay
):
    recorder, data = Recorder(), make_data(validation_share=0)
    trainer = make_trainer(
        max_steps=6, enable_checkpointing=True, callbacks=[EMA(decay), recorder, LastCheckpoint(100)]
    )
    module = make_module(kind, learning_rate=0.01)
    trainer.fit(module, data)
    path = tmp_path / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    average = average_by_hand(recorder.steps, decay)
    assert_same(checkpoint["state_dict"], average)
    assert_same(checkpoint["current_model_state"], recorder.steps[-1])
    assert differ(checkpoint["state_dict"], checkpoint["current_model_state"]) == (decay > 0)
    for state in ("state_dict", "current_model_state"):
        for name in STATISTICS:
            np.testing.assert_array_equal(checkpoint[state][name], np.float32(data.normalization[name]))
    assert_same(copied(load_module(str(path))), average)
    assert_same(copied(module), average)  # what training leaves in the module


def test_an_ema_that_trained_before_averages_the_next_training_too(make_data, make_trainer):
    ema, data = EMA(0.9), make_data(validation_share=0)
    for _ in range(2):
        recorder, module = Recorder(), make_module(learning_rate=0.01)
        make_trainer(max_steps=4, callbacks=[ema, recorder]).fit(module, data)
        assert_same(copied(module), average_by_hand(recorder.steps, 0.9))


def test_statistics_are_copied_and_not_averaged(make_data, make_trainer, tmp_path):
    data = make_data(validation_share=0)
    data._bounds = {"action_low": [None], "action_high": [None]}  # an average of infinities is NaN
    make_trainer(max_steps=4, enable_checkpointing=True, callbacks=[EMA(), LastCheckpoint(100)]).fit(
        make_module(learning_rate=0.01), data
    )
    assert load_module(str(tmp_path / "checkpoints/last.ckpt")).normalization["action_low"] == [None]
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert (checkpoint["state_dict"]["action_low"], checkpoint["state_dict"]["action_high"]) == (-torch.inf, torch.inf)


def test_validation_has_the_average_and_leaves_the_raw_weights(make_data, make_trainer):
    recorder = Recorder()
    trainer = make_trainer(
        max_steps=4,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        limit_val_batches=1,
        callbacks=[EMA(0.9999), recorder],
    )
    trainer.fit(make_module(learning_rate=0.01), make_data())
    assert len(recorder.validating) == 2
    for count, validating, after in zip((2, 4), recorder.validating, recorder.after, strict=True):
        assert_same(validating, average_by_hand(recorder.steps[:count], 0.9999))
        assert_same(after, recorder.steps[count - 1])
        assert differ(validating, after)


def test_validation_before_the_first_step_has_the_raw_weights_and_the_statistics(make_data, make_trainer):
    recorder, module, data = Recorder(), make_module(learning_rate=0.01), make_data()
    before = copied(module)
    trainer = make_trainer(max_steps=2, num_sanity_val_steps=1, callbacks=[EMA(), recorder])
    trainer.fit(module, data)
    (sanity,) = recorder.sanity
    expected = before | {name: torch.tensor(data.normalization[name]) for name in STATISTICS}
    assert_same(sanity, expected)
    assert_same(recorder.start, expected)


# Lightning warns that it restarts the epoch, and that the folder already has checkpoints.
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_resumed_run_has_both_the_average_and_the_raw_weights(make_data, make_trainer, tmp_path):
    first, second, data = Recorder(), Recorder(), make_data(validation_share=0)
    options = {"enable_checkpointing": True}
    make_trainer(max_steps=3, callbacks=[EMA(0.9), first, LastCheckpoint(100)], **options).fit(
        make_module(learning_rate=0.01), data
    )
    path, module = tmp_path / "checkpoints/last.ckpt", make_module(learning_rate=0.01)
    trainer = make_trainer(max_steps=6, callbacks=[EMA(0.9), second, LastCheckpoint(100)], **options)
    trainer.fit(module, data, ckpt_path=path, weights_only=True)
    assert_same(second.start, first.steps[-1])
    assert_same(torch.load(path, weights_only=True)["state_dict"], average_by_hand(first.steps + second.steps, 0.9))


@pytest.mark.parametrize("decay", [-0.1, 1, 1.5])
def test_a_decay_outside_zero_to_one_is_refused(decay):
    with pytest.raises(ValueError, match=rf"ema\.decay is {decay}: it must lie in \[0, 1\)"):
        EMA(decay)


def average_at_intervals(steps, decay, interval):
    """As ``average_by_hand``, with an update after steps 1, 1 + n, 1 + 2 n, ..., each of which counts as n."""
    average = {name: value.double() for name, value in steps[0].items()}
    for k in range(interval, len(steps), interval):
        kept = min(decay, (1 + k) / (10 + k)) ** interval
        for name, value in average.items():
            average[name] = kept * value + (1 - kept) * steps[k][name].double()
    return {name: value.float() for name, value in average.items()}


@pytest.mark.parametrize("decay", [0.9999, 0.5])
@pytest.mark.parametrize(("interval", "updates"), [(1, 9), (2, 5), (3, 3), (4, 3), (10, 1)])
def test_an_average_at_intervals_is_that_by_hand_and_counts_its_updates(
    make_data, make_trainer, tmp_path, decay, interval, updates
):
    recorder, module = Recorder(), make_module(learning_rate=0.01)
    trainer = make_trainer(max_steps=9, callbacks=[EMA(decay, interval), recorder])
    trainer.fit(module, make_data(validation_share=0))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert_same(checkpoint["state_dict"], average_at_intervals(recorder.steps, decay, interval))
    assert checkpoint["averaging_state"] == {"n_averaged": updates}
    assert checkpoint["callbacks"]["EMA"] == {"latest_update_step": (updates - 1) * interval + 1}


class StopAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step == self.step


@pytest.mark.parametrize("interval", [1, 3])
def test_an_average_at_intervals_resumes_to_the_bit(make_data, make_trainer, tmp_path, interval):
    data, ends, path = make_data(validation_share=0), [], tmp_path / "checkpoints/last.ckpt"
    for stops in ([9], [5, 9]):
        for number, stop in enumerate(stops):
            torch.manual_seed(3)
            callbacks = [EMA(0.9, interval), LastCheckpoint(100), StopAt(stop)]
            trainer = make_trainer(max_steps=9, callbacks=callbacks, enable_checkpointing=True)
            module = make_module(learning_rate=0.01, warmup_steps=2)
            trainer.fit(module, data, ckpt_path=path if number else None, weights_only=True)
        ends.append({name: value for name, value in torch.load(path, weights_only=True).items() if "state" in name})
    assert differences(*ends) == []


@pytest.mark.parametrize("interval", [-1, 0])
def test_an_interval_below_one_is_refused(interval):
    with pytest.raises(ValueError, match=rf"ema\.every_n_steps is {interval}: it must be at least 1"):
        EMA(every_n_steps=interval)


def test_the_layout_of_a_checkpoint_is_that_of_lightnings_own_average(make_data, make_trainer, tmp_path):
    found, data = [], make_data(validation_share=0)
    for callback in (EMA(0.9), EMAWeightAveraging(use_buffers=False, decay=0.9)):
        trainer = make_trainer(max_steps=2, callbacks=[callback])
        trainer.fit(make_module(learning_rate=0.01), data)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        found.append(torch.load(tmp_path / "a.ckpt", weights_only=True))
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    for name in ("state_dict", "current_model_state", "averaging_state"):
        assert list(ours[name]) == list(theirs[name])
        assert all(ours[name][key].dtype == value.dtype for key, value in theirs[name].items())
    assert list(ours["callbacks"]["EMA"]) == list(theirs["callbacks"]["EMAWeightAveraging"]) == ["latest_update_step"]


def test_a_checkpoint_from_before_the_first_step_leaves_no_average_of_what_was_tried_since():
    module, average, trainer = make_module(), EMA(0.9), SimpleNamespace(global_step=1, state=SimpleNamespace(fn="fit"))
    average.on_train_batch_end(trainer, module, None, None, 0)
    average.on_load_checkpoint(trainer, module, {"state_dict": module.state_dict()})
    checkpoint = {"state_dict": module.state_dict()}
    average.on_save_checkpoint(trainer, module, checkpoint)
    assert list(checkpoint) == ["state_dict"]


def test_an_update_reads_nothing_back_from_the_device():
    # Tensors of the device "meta" have no numbers: reading one is an error.
    module, average = make_module().to("meta"), EMA(0.9)
    average.setup(None, module, "fit")
    for step in (1, 2, 3):
        average.on_train_batch_end(SimpleNamespace(global_step=step), module, None, None, step - 1)
    assert average.state_dict() == {"latest_update_step": 3}


def test_validation_leaves_the_raw_weights_to_the_bit_in_64_bits_too(make_data, make_trainer):
    recorder = Recorder()
    options = {"val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    trainer = make_trainer(max_steps=4, precision="64-true", callbacks=[EMA(0.9), recorder], **options)
    trainer.fit(make_module(learning_rate=0.01), make_data())
    for count, after in zip((2, 4), recorder.after, strict=True):
        assert differences(after, recorder.steps[count - 1]) == []


# ---------------------------------------------------------------- Throughput


@pytest.mark.parametrize("interval", [1, 2])
def test_throughput_counts_training_and_neither_validation_nor_the_sanity_check(
    make_data, make_trainer, monkeypatch, interval
):
    clock, logged = [0.0], []

    class Hours(pl.Callback):
        """A step takes 2 seconds, a batch of validation an hour."""

        def on_train_batch_start(self, trainer, *args):
            clock[0] += 2

        def on_validation_batch_start(self, trainer, *args):
            clock[0] += 3600

    class Logged(pl.Callback):
        def on_train_batch_start(self, trainer, *args):
            metrics = trainer.callback_metrics
            if "train/steps_per_second" in metrics:
                logged.append([metrics[f"train/{name}_per_second"].item() for name in ("steps", "windows")])

    monkeypatch.setattr("vgp_lightning.training.callbacks.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    make_trainer(
        max_steps=6,
        num_sanity_val_steps=2,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        log_every_n_steps=interval,
        callbacks=[Logged(), Hours(), Throughput()],
    ).fit(make_module(), make_data(validation_share=0.25, batch_size=9))  # 54 windows: six batches of 9
    assert logged == [[0.5, 4.5]] * (6 - interval)
