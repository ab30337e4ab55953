"""The estimate of a dry run, with a clock of our own."""

from types import SimpleNamespace

import pytest

from vgp_lightning.training import rehearsal
from vgp_lightning.training.rehearsal import Rehearsal


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(rehearsal, "time", made)
    return made


def make_trainer(**options):
    counts = {"estimated_stepping_batches": 100, "accumulate_grad_batches": 1, "val_check_batch": 10}
    others = {"check_val_every_n_epoch": None, "sanity_checking": False, "should_stop": False}
    return SimpleNamespace(**counts | others | options)


def rehearse(clock, trainer, steps, validation=3.0):
    return train(Rehearsal(), clock, trainer, steps, validation)


def train(timed, clock, trainer, steps, validation=3.0):
    """Train steps of a second, with a validation after every tenth."""
    timed.on_train_start(trainer, None)
    for step in range(1, steps + 1):
        clock.now += 1.0
        timed.on_train_batch_end(trainer, None, None, None, step)
        if step % 10 == 0:
            timed.on_validation_start(trainer, None)
            clock.now += validation
            timed.on_validation_end(trainer, None)
        if trainer.should_stop:
            break
    return timed


def test_steps_and_validations_are_counted_apart(clock):
    trainer = make_trainer()
    timed = rehearse(clock, trainer, 100)
    assert trainer.should_stop
    assert timed.seconds(trainer) == pytest.approx(100 * 1.0 + 10 * 3.0)


def test_a_long_validation_does_not_prolong_the_rehearsal(clock):
    trainer = make_trainer()
    timed = rehearse(clock, trainer, 100, validation=1000.0)
    assert clock.now < 3000
    assert timed.seconds(trainer) == pytest.approx(100 + 10 * 1000)


def test_validations_after_several_epochs_are_fewer(clock):
    trainer = make_trainer(check_val_every_n_epoch=5)
    assert rehearse(clock, trainer, 100).seconds(trainer) == pytest.approx(100 + 2 * 3)


def test_a_training_of_few_steps_has_an_estimate(clock):
    trainer = make_trainer(estimated_stepping_batches=3)
    assert rehearse(clock, trainer, 3).seconds(trainer) == pytest.approx(3)


def test_the_validation_before_the_training_is_not_counted(clock):
    trainer, timed = make_trainer(sanity_checking=True, val_check_batch=1000), Rehearsal()
    timed.on_validation_start(trainer, None)
    clock.now += 50.0
    timed.on_validation_end(trainer, None)
    trainer.sanity_checking = False
    assert train(timed, clock, trainer, 9).seconds(trainer) == pytest.approx(100)
