"""Trainings of a few steps on a tiny dataset, by the command line."""

import torch
import yaml

from vgp_lightning.shipped import CONFIGS


def fit_words(tmp_path, make_data, folder="runs"):
    """Return the words of a training of 20 steps on a tiny dataset, which is made here if it is missing.

    Args:
        tmp_path: The test's folder.
        make_data: The fixture.
        folder: Where the runs go, below the test's folder.
    """
    if not (tmp_path / "data.yaml").exists():
        make_data()
    data = {"dataset_id": "test/tiny-v0", "horizon": 4, "batch_size": 16, "validation_share": 0.25}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": data}))
    files = [CONFIGS / "denoiser.yaml", CONFIGS / "smoke.yaml", tmp_path / "data.yaml"]
    options = {
        "trainer.accelerator": "cpu",
        "trainer.enable_model_summary": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.callbacks": "[]",
        "trainer.log_every_n_steps": "1",
        "model.init_args.widths": "[16, 16]",
        "trainer.logger.init_args.save_dir": str(tmp_path / folder),
    }
    words = [word for file in files for word in ("-c", str(file))]
    return words + [word for name, value in options.items() for word in (f"--{name}", value)]


def last_of(folder, version=0):
    """Return the last checkpoint of a run in a folder of runs."""
    return torch.load(folder / f"denoiser/version_{version}/checkpoints/last.ckpt", weights_only=True)
