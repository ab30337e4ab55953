"""The private names that training uses are there, or these tests say which one is gone and who needs it."""

from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from vgp_lightning.training.internals import batches_trained, begin_new_epoch, requeue_signal

NAMES = {
    "_accelerator_connector.cluster_environment": "requeue_signal",
    "fit_loop.total_batch_idx": "batches_trained",
    "fit_loop.restarted_mid_epoch": "begin_new_epoch",
    "fit_loop.epoch_progress.current.ready": "begin_new_epoch",
    "fit_loop.reset_restart_stage": "begin_new_epoch",
}


@pytest.mark.parametrize("name", NAMES)
def test_lightning_still_has_the_names_that_are_no_promise(make_trainer, name):
    found = make_trainer()
    for part in name.split("."):
        if not hasattr(found, part):
            pytest.fail(
                f"Lightning {lightning.__version__} has no Trainer.{name} (2.6.6 had): find another way for "
                f"{NAMES[name]} in vgp_lightning/training/internals.py"
            )
        found = getattr(found, part)


@pytest.mark.parametrize("name", ["_backward_hooks", "_backward_pre_hooks"])
def test_torch_still_has_the_names_that_are_no_promise(name):
    if not hasattr(torch.nn.Linear(1, 1), name):
        pytest.fail(
            f"torch {torch.__version__} has no Module.{name} (2.13 had): find another way for _has_backward_hook in "
            "vgp_lightning/training/fast.py"
        )


@pytest.mark.parametrize(("mid_epoch", "epoch", "begins"), [(True, 2, True), (True, 1, False), (False, 2, False)])
def test_an_epoch_begins_where_the_checkpoint_is_of_an_epochs_last_step(mid_epoch, epoch, begins):
    begun = []
    progress = SimpleNamespace(current=SimpleNamespace(ready=2))
    loop = SimpleNamespace(
        restarted_mid_epoch=mid_epoch, epoch_progress=progress, reset_restart_stage=lambda: begun.append(1)
    )
    begin_new_epoch(SimpleNamespace(fit_loop=loop, current_epoch=epoch))
    assert begun == [1] * begins


def test_batches_are_counted_over_all_epochs():
    assert batches_trained(SimpleNamespace(fit_loop=SimpleNamespace(total_batch_idx=6))) == 7


def test_slurm_is_asked_to_run_the_job_again_by_its_own_signal_or_not_at_all():
    def signal_of(environment):
        connector = SimpleNamespace(cluster_environment=environment)
        return requeue_signal(SimpleNamespace(_accelerator_connector=connector))

    assert signal_of(SLURMEnvironment(requeue_signal=12)) == 12
    assert signal_of(SLURMEnvironment(auto_requeue=False)) is None
    assert signal_of(None) is None
