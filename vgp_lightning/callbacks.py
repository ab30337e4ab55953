"""The old import path of the callbacks: configs saved by version 0.1 name it. It will be removed in version 1.0."""

from vgp_lightning.training.callbacks import Throughput
from vgp_lightning.training.pictures import CalibrationPicture, PlanPicture

__all__ = ["CalibrationPicture", "PlanPicture", "Throughput"]
