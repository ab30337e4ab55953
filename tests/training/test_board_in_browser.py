"""TensorBoard in a browser: what its pages show first of a training."""

import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.request import urlopen

import pytest
import torch
from browser import open_page
from learners import make_module

from vgp_lightning.training.board import RunLogger, describe_run
from vgp_lightning.training.pictures import CalibrationPicture, PlanPicture
from vgp_lightning.training.planner import PlannerModule

pytestmark = pytest.mark.browser


@contextmanager
def tensorboard(folder):
    """Serve a folder, and return the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1", "--port", port]
    with subprocess.Popen([*command, "--load_fast=false"], stderr=subprocess.DEVNULL) as server:
        try:
            address, until = f"http://127.0.0.1:{port}", time.monotonic() + 90
            while time.monotonic() < until:
                try:
                    if b"train/value_loss" in urlopen(f"{address}/data/plugin/scalars/tags").read():
                        break
                except OSError:
                    pass
                time.sleep(0.5)
            yield address
        finally:
            server.terminate()


def test_the_first_page_begins_with_the_losses_and_custom_scalars_has_training_and_validation_in_one_chart(
    make_data, make_trainer, tmp_path
):
    torch.manual_seed(1)
    module, data = make_module(PlannerModule, learning_rate=0.01), make_data(validation_share=0.25, batch_size=7)
    trainer = make_trainer(
        val_check_interval=2,
        check_val_every_n_epoch=None,
        callbacks=[PlanPicture(3), CalibrationPicture()],
        logger=RunLogger(tmp_path / "runs", default_hp_metric=False),
    )
    trainer.fit(module, data)
    describe_run(trainer, module, "")
    trainer.logger.experiment.flush()
    with tensorboard(tmp_path / "runs") as address:
        with open_page(address) as visit:
            groups = visit.page.locator("metrics-main-view metrics-card-groups metrics-card-group-toolbar")
            groups.nth(3).wait_for(timeout=60_000)
            names = [re.match(r"[a-z_]+", text.strip())[0] for text in groups.all_inner_texts()]
            first = visit.page.locator("card-view").first.inner_text().replace("\n", "")
        with open_page(f"{address}/#custom_scalars") as visit:
            title = visit.page.get_by_text("diffusion loss: ■ training, ◆ validation")
            title.wait_for(timeout=60_000)
            below = title.bounding_box()["y"]
    assert names[:4] == ["train", "val", "val_levels", "val_pictures"]
    assert first.startswith("train/diffusion_loss")
    assert below < 450  # on the first screen
