"""The average by hand, and throughput on a clock that the test sets."""

import numpy as np
import pytest
import torch
from learners import Recorder, assert_same, average_by_hand, copied, differ, make_module

from vgp_lightning.training.callbacks import EMA
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
    assert_same(copied(module), average)  # what is left when training has ended


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


def test_an_average_that_never_starts_leaves_the_trained_weights(make_data, make_trainer, tmp_path):
    class Never(EMA):
        def should_update(self, step_idx=None, epoch_idx=None):
            return False

    recorder, module = Recorder(), make_module(learning_rate=0.01)
    options = {"val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    trainer = make_trainer(
        max_steps=4, enable_checkpointing=True, callbacks=[Never(), recorder, LastCheckpoint(100)], **options
    )
    trainer.fit(module, make_data())
    assert_same(recorder.validating[0], recorder.steps[1])
    assert_same(copied(module), recorder.steps[-1])
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert_same(checkpoint["state_dict"], recorder.steps[-1])


# Lightning says that it restarts the epoch, and that the folder has checkpoints already.
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_resumed_run_goes_on_with_both_the_average_and_the_raw_weights(make_data, make_trainer, tmp_path):
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
