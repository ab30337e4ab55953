"""What Lightning 2.6.6 has no public name for: each private name that training uses stands here, with the reason.

``tests/training/test_internals.py`` says which of them a new release of Lightning no longer has.
"""

import signal

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


def begin_new_epoch(trainer: pl.Trainer) -> None:
    """Count the epoch after a checkpoint of an epoch's last step as a new one.

    Lightning would take it for the rest of the one that has ended: its counters, which are in every later checkpoint,
    would differ by one from those of a run that was not interrupted.
    """
    loop = trainer.fit_loop
    if loop.restarted_mid_epoch and trainer.current_epoch == loop.epoch_progress.current.ready:
        loop.reset_restart_stage()


def batches_trained(trainer: pl.Trainer) -> int:
    """Return the number of batches since training began, over all epochs, the present one included.

    Lightning counts an interval between validations in it; ``trainer.global_step`` counts optimizer steps.
    """
    return trainer.fit_loop.total_batch_idx + 1


def requeue_signal(trainer: pl.Trainer) -> int | None:
    """Return the signal after which SLURM is asked to run the job again, or None.

    A strategy for a single device has no public attribute for the environment that the Trainer runs in.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return environment.requeue_signal or signal.SIGUSR1
    return None


def take_next_version(logger: TensorBoardLogger | CSVLogger) -> None:
    """Have a logger choose its version again: the next number that no folder has.

    It chooses once, and looks without making the folder, so that two runs that start together choose the same.
    """
    logger._version = None
