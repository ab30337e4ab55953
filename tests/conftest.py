"""What several test files share: nobody's data are touched, torch is seeded, and tiny datasets are made by hand."""

import signal
import warnings
from types import SimpleNamespace

import gymnasium
import lightning.pytorch as pl
import minari
import numpy as np
import pytest
import torch
from fake_hub import serve_hub
from fakes import Track
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from vgp_lightning.data.module import MinariDataModule


def pytest_configure():
    """Ctrl-C is answered also where the suite runs in a shell's background, which ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_folders_and_seed(tmp_path, monkeypatch):
    """Each test has its own datasets, its own cache and the same random numbers."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    yield
    if torch.distributed.is_initialized():  # Lightning's DDP leaves the group, and metrics would use it ever after
        torch.distributed.destroy_process_group()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on this machine, in place of the one that huggingface_hub asks."""
    with serve_hub(monkeypatch, tmp_path) as hub:
        yield hub


@pytest.fixture
def make_episode():
    """Episode ``number`` observes (100 * number + t, noise) at its step t; any array can be replaced."""

    def make(steps, number=0, terminated=False, action_dim=1, **replaced):
        rng = np.random.default_rng([number, steps])
        observations = np.stack([100.0 * number + np.arange(steps + 1), rng.normal(size=steps + 1)], axis=1)
        last = np.arange(steps) == steps - 1
        arrays = {
            "observations": observations.astype(np.float32),
            "actions": rng.uniform(-1, 1, (steps, action_dim)).astype(np.float32),
            "rewards": rng.normal(size=steps),
            "terminations": last & terminated,
            "truncations": last & (not terminated),
        }
        return EpisodeBuffer(**arrays | replaced)

    return make


@pytest.fixture
def make_dataset():
    """Write episodes as a Minari dataset."""

    def make(dataset_id, episodes, observation_space=None, action_space=None, **metadata):
        unbounded = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        with warnings.catch_warnings():
            # Minari asks for an author and an environment, which a dataset made by hand does not have.
            warnings.filterwarnings("ignore", message="`(author|author_email|code_permalink|eval_env)` is set to None")
            warnings.filterwarnings("ignore", message="env_spec is None")
            return minari.create_dataset_from_buffers(
                dataset_id,
                episodes,
                observation_space=observation_space or unbounded,
                action_space=action_space or spaces.Box(-1, 1, episodes[0].actions.shape[1:], np.float32),
                algorithm_name="by hand",
                description="tiny",
                **metadata,
            )

    return make


@pytest.fixture
def make_data(make_dataset, make_episode):
    """A data module over ``test/tiny-v0``, which has eight episodes of twelve steps, if it is not made otherwise."""

    def make(episodes=None, spaces=None, **options):
        if "dataset_id" not in options:
            episodes = episodes or [make_episode(12, number) for number in range(8)]
            make_dataset("test/tiny-v0", episodes, **spaces or {})
        options = {"dataset_id": "test/tiny-v0", "horizon": 4, "batch_size": 16} | options
        return MinariDataModule(**options)

    return make


@pytest.fixture
def make_trainer(tmp_path):
    """A silent Trainer on the CPU that writes nothing, if it is not told otherwise."""

    def make(**options):
        silent = {
            "accelerator": "cpu",
            "max_epochs": -1,
            "max_steps": 4,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "default_root_dir": tmp_path,
        }
        return pl.Trainer(**silent | options)

    return make


@pytest.fixture
def make_stub():
    """A network of no weights that answers by a function of (channels-first sample, timesteps)."""

    class Stub(torch.nn.Module):
        def __init__(self, answer):
            super().__init__()
            self.answer = answer

        def forward(self, sample, timesteps):
            return SimpleNamespace(sample=self.answer(sample, timesteps))

    return Stub


@pytest.fixture
def track():
    """Register the environment, of at most 6 steps."""
    gymnasium.register("Track-v0", entry_point=Track, max_episode_steps=6)
    yield Track
    del gymnasium.registry["Track-v0"]
