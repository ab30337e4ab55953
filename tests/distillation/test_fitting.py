"""The training of a small network on a finished folder."""

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from vgp_lightning.distillation.fitting import fit


class Counter(pl.LightningModule):
    """Reports at which step it was validated."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch, index):
        self.log("val/step", float(self.global_step))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_what_is_reported_is_of_the_last_step(tmp_path):
    for steps in (7, 503):
        loaders = [DataLoader(TensorDataset(torch.ones(count, 1))) for count in (steps, 2)]
        assert fit(Counter(), tuple(loaders), tmp_path, str(steps), steps) == {"val/step": steps}
