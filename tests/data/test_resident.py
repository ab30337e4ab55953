"""Rows on the device that trains: the batches are those from the host, and only rows that fit go there.

``tests/fake_device.py`` stands for a GPU; its tensors have no numbers, so numbers are compared on the CPU.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_device import DEVICE, fake_device

from vgp_lightning.data import resident
from vgp_lightning.data.order import DrawOrder, WindowLoader
from vgp_lightning.data.resident import ResidentWindows, can_reside, copy_to

CPU, CUDA, OTHER = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.fixture
def prepared(make_data):
    def make(**options):
        data = make_data(**options)
        data.prepare_data()
        data.setup("fit")
        return data

    return make


def on(data, device):
    """Give a data module a trainer on a device, which is all that it asks it for."""
    strategy = SimpleNamespace(root_device=torch.device(device), broadcast=lambda seed: seed)
    data.trainer = SimpleNamespace(strategy=strategy, global_rank=0, world_size=1, overfit_batches=0)
    return data


@pytest.mark.parametrize("horizon", [1, 4, 20])
@pytest.mark.parametrize(("part", "parts"), [(0, 1), (1, 2)])
def test_batches_are_those_from_the_host_to_the_bit(prepared, horizon, part, parts):
    data = prepared(horizon=horizon, padding="all", validation_share=0.25, validation_windows=7)
    for windows in (data.train_windows, data.validation_windows):
        copied = ResidentWindows(windows, copy_to(CPU, windows.rows), copy_to(CPU, windows.returns))
        loaders = [
            WindowLoader(source, DrawOrder(windows, 5, part, parts, shuffle=True, seed=3))
            for source in (windows, copied)
        ]
        assert len(copied) == len(windows)
        for host, there in zip(*loaders, strict=True):
            assert torch.equal(there.trajectories, host.trajectories)
            assert torch.equal(there.returns, host.returns)
            assert there.draw.windows.tolist() == host.draw.windows.tolist()
            assert there.draw[1:] == host.draw[1:]
        assert loaders[0].state_dict() == loaders[1].state_dict()


def test_a_mapped_array_is_copied_in_parts(monkeypatch, tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32))
    monkeypatch.setattr(resident, "_CHUNK", 6)  # two rows
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    np.testing.assert_array_equal(copy_to(CPU, rows).numpy(), rows)
    assert copy_to(CPU, rows[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("on_device", "device", "size", "workers", "resides"),
    [
        ("auto", CUDA, 250, 0, True),
        ("auto", CUDA, 251, 0, False),
        ("auto", CUDA, 250, 1, False),
        ("auto", CPU, 1, 0, False),
        ("auto", OTHER, 1, 0, False),
        (True, CUDA, 1000, 0, True),
        (True, OTHER, 10**9, 0, True),
        (True, CPU, 1, 2, False),
        (False, CUDA, 1, 0, False),
    ],
)
def test_rows_go_to_a_gpu_of_whose_free_memory_they_take_a_quarter_at_most_or_where_the_user_says(
    monkeypatch, on_device, device, size, workers, resides
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 8000))
    assert can_reside(on_device, device, size, workers) is resides


def test_true_where_it_cannot_be_done_is_refused_with_the_sizes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * 10**9, 8 * 10**9))
    with pytest.raises(ValueError, match=r"takes 2\.5 GB, and 2\.0 GB of cuda:0 are free: set data\.on_device"):
        can_reside(True, CUDA, 25 * 10**8, 0)
    with pytest.raises(ValueError, match=r"data\.num_workers is 2: .*Set data\.num_workers to 0, or"):
        can_reside(True, CUDA, 1, 2)


@pytest.mark.parametrize("value", ["cuda", "true", None, 1])
def test_another_value_is_refused(make_data, value):
    with pytest.raises(ValueError, match=r"data\.on_device is .*choose from \('auto', true, false\)"):
        make_data(on_device=value)


def test_on_a_device_a_batch_is_gathered_there_without_a_wait_and_both_loaders_share_the_rows(prepared):
    data = on(prepared(on_device=True, validation_share=0.25), DEVICE)
    with fake_device() as device:
        loaders = data.train_dataloader(), data.val_dataloader()
        copied = device.waits.total()
        batches = [batch for loader in loaders for batch in loader]
        assert device.waits.total() == copied == 2  # one part of rows and one of returns
    assert {tensor.device for batch in batches for tensor in batch[:2]} == {DEVICE}
    assert [len(batch.trajectories) for batch in batches] == [len(batch.draw.windows) for batch in batches]
    assert batches[0].trajectories.shape == (16, 4, 3)
    assert data.train_dataloader()._loader.dataset._rows is loaders[1]._loader.dataset._rows


@pytest.mark.parametrize("on_device", [True, "auto", False])
def test_on_a_cpu_batches_are_gathered_from_the_mapped_rows_whatever_is_asked_for(prepared, on_device):
    data = on(prepared(on_device=on_device), CPU)
    assert data.train_dataloader()._loader.dataset is data.train_windows


def test_rows_that_are_there_stay_there_though_less_memory_is_free_for_the_next_loader(prepared, monkeypatch):
    data = on(prepared(validation_share=0.25), DEVICE)
    free = iter([10**6, 0])
    monkeypatch.setattr(resident, "_free_memory", lambda device: next(free))
    with fake_device():
        for loader in (data.train_dataloader(), data.val_dataloader()):
            assert isinstance(loader._loader.dataset, ResidentWindows)
