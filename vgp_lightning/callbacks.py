"""The old door: configs that were saved by version 0.1 name their callbacks here. It goes with version 1.0."""

from vgp_lightning.training.callbacks import CalibrationPicture, PlanPicture, Throughput

__all__ = ["CalibrationPicture", "PlanPicture", "Throughput"]
