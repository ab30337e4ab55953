"""Windows and their order: each once an epoch over any number of processes, pseudo-random, and resumable."""

import pickle
from collections import Counter
from itertools import chain, islice, pairwise
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from vgp_lightning.data.cache import Episodes
from vgp_lightning.data.order import DrawOrder, WindowLoader, shuffled
from vgp_lightning.data.windows import WindowDataset
from vgp_lightning.training.denoiser import DenoiserModule

# On a machine of one core torch warns of more workers than that.
two_workers = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")


def make_windows(*lengths, horizon=1, per_dataset=None, chosen=None):
    """Return the windows of episodes of these lengths; row r holds (r, r), and its return is r."""
    lengths = np.array(lengths)
    count = int((lengths + 1).sum())
    rows = np.repeat(np.arange(count, dtype=np.float32)[:, None], 2, axis=1)
    per_dataset = np.array([len(lengths)] if per_dataset is None else per_dataset)
    terminated = np.zeros(len(lengths), dtype=bool)
    episodes = Episodes(rows, np.zeros(count, dtype=np.float32), lengths, terminated, per_dataset)
    chosen = np.arange(len(lengths)) if chosen is None else np.array(chosen)
    return WindowDataset(episodes, rows[:, 0], chosen, horizon, "none")


def epochs(order, count=1):
    """Return the draws of ``count`` epochs, as a run takes them."""
    found = []
    for _ in range(count):
        found.append(list(order))
        order.drawn += len(found[-1])
    return found


def joined(lists):
    return list(chain.from_iterable(lists))


def drawn(draws):
    return [int(window) for draw in draws for window in draw.windows]


def plain(draws):
    """Return draws in a form that ``==`` compares."""
    return [(draw.windows.tolist(), *draw[1:]) for draw in draws]


# ---------------------------------------------------------------- one permutation


@pytest.mark.parametrize("total", [*range(1, 71), 1000, 4**5 - 1, 4**5, 4**5 + 1, 123_457])
def test_shuffling_is_a_permutation(total):
    assert sorted(shuffled(np.arange(total), total, 3, 4).tolist()) == list(range(total))


def test_the_place_of_an_index_does_not_depend_on_the_other_indices():
    for total in (50, 2**40 + 7):
        index = np.random.default_rng(0).integers(total, size=30)
        together = shuffled(index, total, 1, 2)
        assert together.tolist() == [int(shuffled(np.array([i]), total, 1, 2)[0]) for i in index]
        assert 0 <= together.min() <= together.max() < total


def test_different_keys_make_different_permutations():
    found = {tuple(shuffled(np.arange(40), 40, *key).tolist()) for key in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 0, 1)]}
    assert len(found) == 5


@pytest.mark.parametrize("total", [2, 3, 5, 7, 20])
def test_places_of_indices_and_of_pairs_are_uniformly_distributed(total):
    found = np.stack([shuffled(np.arange(total), total, 8, key) for key in range(1200)])
    for places in found.T:
        assert chisquare(np.bincount(places, minlength=total)).pvalue > 1e-4
    pairs = Counter(zip(found[:, 0].tolist(), found[:, 1].tolist(), strict=True))
    assert chisquare([pairs[a, b] for a in range(total) for b in range(total) if a != b]).pvalue > 1e-4


def test_neighbours_and_epochs_are_uncorrelated():
    total, count = 1000, 100
    found = [shuffled(np.arange(total), total, 0, epoch).astype(float) for epoch in range(count)]

    def correlations(pairs):  # times sqrt(total): standard normal if there is none
        return np.array([np.corrcoef(a, b)[0, 1] for a, b in pairs]) * np.sqrt(total)

    for pairs in (
        [(places[:-1], places[1:]) for places in found],
        [(places, np.arange(total)) for places in found],
        list(pairwise(found)),
    ):
        scores = correlations(pairs)
        assert abs(scores.mean()) < 4 / np.sqrt(len(scores))
        assert 0.8 < scores.std() < 1.2
    same = [np.count_nonzero(a == b) for a, b in pairwise(found)]  # Poisson with mean 1
    assert 0.6 < np.mean(same) < 1.4


# ---------------------------------------------------------------- an epoch


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [10, 11, 16, 100])
def test_every_window_is_drawn_once_an_epoch_by_one_of_the_processes(parts, batch_size):
    for total in (5, 16, 17, 18, 23, 33):
        windows = make_windows(*[1] * total)
        orders = [DrawOrder(windows, batch_size, part, parts, shuffle=True, seed=2) for part in range(parts)]
        one = DrawOrder(windows, batch_size, shuffle=True, seed=2)
        assert [sorted(drawn(epoch)) for epoch in epochs(one, 2)] == [list(range(total))] * 2
        for number in range(2):
            shares = [epochs(order)[0] for order in orders]
            assert {len(share) for share in shares} == {len(orders[0])}
            assert sorted(drawn(joined(shares))) == list(range(total))
            for draws in zip(*shares, strict=True):
                sizes = [len(draw.windows) for draw in draws]
                assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1
                assert {(draw.total, draw.seed, draw.parts) for draw in draws} == {(sum(sizes), draws[0].seed, parts)}
                assert [draw.part for draw in draws] == list(range(parts))
                # Only what is left over makes a batch smaller: the last one, and perhaps the one before it.
                assert sum(sizes) == batch_size or any(draws[0] is draw for draw in shares[0][-2:]), number


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("total", [40, 41, 44, 47, 53])  # 53 = 20 + 20 + 13, 41 = 20 + 11 + 10
def test_processes_share_the_batch_that_a_single_one_has(parts, total):
    windows = make_windows(*[1] * total)
    (whole,) = epochs(DrawOrder(windows, 20, shuffle=True, seed=9))
    shares = [epochs(DrawOrder(windows, 20, part, parts, shuffle=True, seed=9))[0] for part in range(parts)]
    for draw, *parted in zip(whole, *shares, strict=True):
        whole_batch = np.full(draw.total, -1)
        for part, share in enumerate(parted):
            whole_batch[part::parts] = share.windows
        assert whole_batch.tolist() == draw.windows.tolist()
        assert {share.seed for share in parted} == {draw.seed}


def sizes(total, batch_size, parts=1):
    return [draw.total for draw in DrawOrder(make_windows(*[1] * total), batch_size, 0, parts, shuffle=True)]


@pytest.mark.parametrize(
    ("total", "expected"),
    [(20, [10, 10]), (25, [10, 10, 5]), (29, [10, 10, 9]), (24, [10, 7, 7]), (21, [10, 6, 5]), (11, [6, 5]), (7, [7])],
)
def test_half_a_batch_that_is_left_over_is_a_batch_and_less_shares_the_batch_before_it(total, expected):
    assert sizes(total, 10) == expected


@pytest.mark.parametrize("batch_size", [9, 10, 16])
def test_the_number_of_processes_does_not_change_how_an_epoch_is_divided(batch_size):
    for total in range(5, 60):
        alone = sizes(total, batch_size)
        assert len(alone) == -(-total // batch_size)
        assert len(alone) == 1 or 2 * min(alone) >= batch_size  # no step is taken on a few windows
        assert [sizes(total, batch_size, parts) for parts in (2, 3, 4, 5)] == [alone] * 4


def test_more_processes_than_windows_in_the_last_batch_are_an_error_that_says_which_batch_size_fits():
    assert sizes(13, 5, 3) == [5, 5, 3]
    with pytest.raises(ValueError, match=r"last batch .* 3 of 13 windows, fewer than the 4 .*batch_size to 8 or more"):
        sizes(13, 5, 4)
    assert all(min(sizes(total, 8, 4)) >= 4 for total in range(4, 40))


def test_fewer_windows_than_processes_are_an_error():
    DrawOrder(make_windows(2), 16, 1, 2)
    with pytest.raises(ValueError, match="2 windows cannot be divided among 3 processes: each needs one"):
        DrawOrder(make_windows(2), 16, 0, 3)


def test_a_batch_of_fewer_windows_than_processes_is_an_error():
    DrawOrder(make_windows(9), 3, 1, 3)
    with pytest.raises(ValueError, match=r"data\.batch_size is 2: it must be at least 3"):
        DrawOrder(make_windows(9), 2, 0, 3)


def test_each_epoch_and_each_seed_has_its_own_order():
    windows = make_windows(40)
    orders = [DrawOrder(windows, 7, shuffle=True, seed=seed) for seed in (0, 1)]
    found = [tuple(drawn(epoch)) for order in orders for epoch in epochs(order, 3)]
    assert len(set(found)) == 6
    assert len({frozenset(epoch[:7]) for epoch in found}) == 6


def test_the_order_does_not_depend_on_batch_size_nor_on_how_many_batches_are_computed_at_a_time(monkeypatch):
    windows = make_windows(*[1] * 150)
    small = drawn(list(DrawOrder(windows, 1, shuffle=True, seed=4)))  # 150 batches: more than are computed at a time
    assert small == drawn(list(DrawOrder(windows, 64, shuffle=True, seed=4)))
    monkeypatch.setattr("vgp_lightning.data.order._AHEAD", 1)
    assert small == drawn(list(DrawOrder(windows, 1, shuffle=True, seed=4)))


def test_no_two_draws_of_one_or_of_several_runs_have_the_same_seed():
    windows = make_windows(30)
    seeds = [
        draw.seed
        for seed in range(20)
        for epoch in epochs(DrawOrder(windows, 4, shuffle=True, seed=seed), 25)
        for draw in epoch
    ]
    assert len(set(seeds)) == len(seeds) == 20 * 25 * 8
    # A generator on the CPU uses 32 bits of its seed.
    one = [draw.seed % 2**32 for epoch in epochs(DrawOrder(windows, 4, shuffle=True), 25) for draw in epoch]
    assert len(set(one)) == len(one)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_without_shuffling_the_order_is_that_of_the_windows():
    order = DrawOrder(make_windows(10), 4, seed=3)
    first, second = epochs(order, 2)
    assert drawn(first) == list(range(10))
    assert plain(first) == plain(second)
    assert len({draw.seed for draw in first}) == 3  # but each batch has its own noise


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("weights", "counts"),
    [((1, 1, 2), (5, 5, 10)), ((0, 1, 3), (0, 5, 15)), ((1, 1, 1), (7, 6, 7)), ((0.999, 0.001, 0), (20, 0, 0))],
)
def test_an_epoch_has_each_datasets_share_of_the_draws(weights, counts):
    windows = make_windows(3, 4, 13, per_dataset=[1, 1, 1])
    assert windows.per_dataset.tolist() == [3, 4, 13]
    order = DrawOrder(windows, 6, shuffle=True, weights=weights)
    for epoch in epochs(order, 4):
        dataset = np.searchsorted([3, 7, 20], drawn(epoch), side="right")
        assert np.bincount(dataset, minlength=3).tolist() == list(counts)


def test_a_dataset_draws_all_its_windows_before_it_repeats_one():
    windows = make_windows(3, 4, 13, per_dataset=[1, 1, 1])
    order, counts = DrawOrder(windows, 6, shuffle=True, weights=[1, 1, 2], seed=1), np.zeros(20, dtype=int)
    for epoch in epochs(order, 30):
        for window in drawn(epoch):
            counts[window] += 1
        for own in (counts[:3], counts[3:7], counts[7:]):
            assert own.max() - own.min() <= 1
    assert [int(own.sum()) for own in (counts[:3], counts[3:7], counts[7:])] == [150, 150, 300]


def test_the_order_of_an_epoch_and_that_within_a_dataset_are_not_the_same_permutation():
    # All draws of the first epoch are those of the first dataset's first round: one permutation after another.
    windows = make_windows(*[1] * 40, per_dataset=[40, 0])
    for seed in range(3):
        (epoch,) = epochs(DrawOrder(windows, 40, shuffle=True, weights=[1, 0], seed=seed))
        twice = shuffled(shuffled(np.arange(40), 40, seed, 0), 40, seed, 0)
        assert drawn(epoch) != twice.tolist()


def test_the_datasets_are_mixed_within_an_epoch():
    windows = make_windows(500, 500, per_dataset=[1, 1])
    (epoch,) = epochs(DrawOrder(windows, 100, shuffle=True, weights=[1, 1]))
    for draw in epoch:
        assert 25 < np.count_nonzero(draw.windows < 500) < 75  # 50 +- 4.7


def test_weighted_processes_share_the_batch_that_a_single_one_has():
    windows = make_windows(3, 4, 13, per_dataset=[1, 1, 1])
    orders = [DrawOrder(windows, 6, part, 2, shuffle=True, weights=[1, 1, 2], seed=1) for part in range(2)]
    one = DrawOrder(windows, 6, shuffle=True, weights=[1, 1, 2], seed=1)
    for whole, first, second in zip(*(joined(epochs(order, 3)) for order in (one, *orders)), strict=True):
        assert first.windows.tolist() == whole.windows[::2].tolist()
        assert second.windows.tolist() == whole.windows[1::2].tolist()


def test_a_weight_for_a_dataset_without_a_window_is_an_error():
    windows = make_windows(3, 9, horizon=4, per_dataset=[1, 1])  # no window of four steps fits three
    assert sorted(drawn(DrawOrder(windows, 6, shuffle=True, weights=[0, 1]))) == list(range(6))
    with pytest.raises(
        ValueError, match=r"data\.weights is \[1, 1\], but the datasets have \[0, 6\] windows.*the weight 0"
    ):
        DrawOrder(windows, 6, shuffle=True, weights=[1, 1])


# ---------------------------------------------------------------- resuming


@two_workers
@pytest.mark.parametrize("weights", [None, [1, 2]])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_at_every_position(weights, workers):
    windows = make_windows(12, 11, per_dataset=[1, 1])

    def loader(seed, workers=0):
        order = DrawOrder(windows, 5, shuffle=True, weights=weights, seed=seed)
        return WindowLoader(windows, order, workers)

    def taken(loader, counts):  # each from an iterator of its own, as each of Lightning's epochs
        return [plain([batch.draw for batch in islice(iter(loader), count)]) for count in counts]

    whole = joined(taken(loader(6), [5, 5, 5]))
    for position in range(11) if workers == 0 else (3, 5, 7):
        first = loader(6, workers)
        full, begun = divmod(position, 5)
        before = joined(taken(first, [5] * full + [begun]))
        state = first.state_dict()
        assert state == {"drawn": position, "seed": 6}  # not what workers have fetched ahead
        second = loader(99, workers)
        second.load_state_dict(state)
        after = joined(taken(second, [5 - begun]))
        assert before + after == whole[: len(before) + len(after)]


def test_the_next_of_several_short_epochs_continues_where_the_last_stopped():
    windows = make_windows(20)
    loader = WindowLoader(windows, DrawOrder(windows, 4, shuffle=True, seed=1), 0)
    seen = [batch.draw for _ in range(5) for batch in islice(loader, 2)]  # as with limit_train_batches 2
    first, second = seen[:5], seen[5:]
    assert sorted(drawn(first)) == sorted(drawn(second)) == list(range(20))


@two_workers
def test_workers_change_nothing_in_a_batch():
    windows = make_windows(9, 8, horizon=3)
    epoch = [list(WindowLoader(windows, DrawOrder(windows, 4, shuffle=True, seed=1), workers)) for workers in (0, 2)]
    for alone, helped in zip(*epoch, strict=True):
        assert torch.equal(alone.trajectories, helped.trajectories)
        assert torch.equal(alone.returns, helped.returns)
        assert plain([alone.draw]) == plain([helped.draw])


# ---------------------------------------------------------------- windows


def test_windows_start_at_the_rows_of_their_steps():
    windows = make_windows(5, 4, 3, 6, horizon=3, chosen=[0, 2, 3])
    starts = [(0, 0), (0, 1), (0, 2), (2, 0), (3, 0), (3, 1), (3, 2), (3, 3)]  # episode and step
    begins = np.cumsum([0, 6, 5, 4])  # an episode of n steps has n + 1 rows
    rows = [begins[episode] + step for episode, step in starts]
    assert windows.first_rows(0, 8).tolist() == rows
    assert windows.first_rows(3, 100).tolist() == rows[3:]
    batch = windows.batch(range(8))
    assert batch.returns.tolist() == rows
    assert batch.trajectories[:, :, 0].tolist() == [[row, row + 1, row + 2] for row in rows]


def test_a_limit_takes_windows_at_even_distances():
    windows = make_windows(60, 40)
    few = windows.limited(10)
    assert (len(few), few.total, len(windows)) == (10, 100, 100)
    rows = few.batch(range(10)).returns.tolist()
    assert rows == [*range(0, 60, 10), *range(61, 101, 10)]
    assert len(windows.limited(1000)) == 100


def test_a_worker_that_is_spawned_maps_the_rows_again_and_gets_no_copy_of_them(make_data, make_episode):
    data = make_data([make_episode(500, number) for number in range(8)], validation_share=0.5)
    data.prepare_data()
    data.setup("fit")
    for windows in (data.train_windows, data.validation_windows):
        sent = pickle.dumps(windows)
        assert len(sent) < 4000 < 8 * 501 * 3 * 4  # bytes of all rows
        found, every = pickle.loads(sent), range(len(windows))
        assert isinstance(found.rows, np.memmap)
        assert isinstance(found.returns, np.memmap)
        assert len(found) == len(windows)
        for given, expected in zip(found.batch(every)[:2], windows.batch(every)[:2], strict=True):
            assert torch.equal(given, expected)


# ---------------------------------------------------------------- through Lightning


class Seen(pl.Callback):
    """Note the windows of each training step, epoch by epoch."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_start(self, trainer, module):
        self.epochs.append([])

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.epochs[-1].append(batch.trajectories[:, 0, 1].int().tolist())  # 100 * episode + step


@pytest.fixture
def epochs_of_training(make_data, make_trainer):
    def fit(data=None, **options):
        seen = Seen()
        trainer = make_trainer(max_steps=-1, max_epochs=3, limit_val_batches=0, callbacks=[seen], **options)
        data = data or make_data(batch_size=10, validation_share=0)  # 72 windows
        sizes = {"transition_dim": 3, "action_dim": 1, "horizon": 4, "task": {}, "widths": [16, 16]}
        trainer.fit(DenoiserModule(**sizes, num_train_timesteps=2, warmup_steps=0), data)
        return seen.epochs

    return fit


def test_training_sees_every_window_once_an_epoch(epochs_of_training):
    every = sorted(100 * episode + step for episode in range(8) for step in range(9))
    found = epochs_of_training()
    assert [sorted(joined(epoch)) for epoch in found] == [every] * 3
    assert found[0] != found[1] != found[2]


def test_short_epochs_of_training_are_parts_of_a_whole_one(epochs_of_training):
    found = epochs_of_training(limit_train_batches=4)
    assert [len(epoch) for epoch in found] == [4, 4, 4]
    assert len(set(joined(joined(found)[:8]))) == 72


@pytest.mark.parametrize(("overfit", "batches"), [(1, 1), (2, 2)])
def test_overfitting_shows_the_same_few_windows_in_every_epoch(epochs_of_training, overfit, batches):
    found = epochs_of_training(overfit_batches=overfit)
    assert [len(epoch) for epoch in found] == [batches] * 3
    windows = [sorted(joined(epoch)) for epoch in found]
    assert windows[0] == windows[1] == windows[2]
    assert len(set(windows[0])) == 10 * batches


def test_a_fraction_of_the_batches_is_refused(epochs_of_training):
    with pytest.raises(ValueError, match=r"overfit_batches is 0\.5: give a whole number"):
        epochs_of_training(overfit_batches=0.5)


def test_overfitting_ignores_the_weights(epochs_of_training, make_data, make_dataset, make_episode):
    make_dataset("test/other-v0", [make_episode(12, 50)])
    data = make_data(validation_share=0, batch_size=10)
    data = make_data(dataset_id=["test/tiny-v0", "test/other-v0"], weights=[0, 1], validation_share=0, batch_size=5)
    found = epochs_of_training(data=data, overfit_batches=1)
    assert sorted(found[0][0]) == sorted(found[1][0]) == sorted(found[2][0])


def test_weights_hold_in_training(epochs_of_training, make_data, make_dataset, make_episode):
    make_data()
    make_dataset("test/other-v0", [make_episode(12, 50)])
    data = make_data(dataset_id=["test/tiny-v0", "test/other-v0"], weights=[1, 2], validation_share=0)
    for epoch in epochs_of_training(data=data):
        seen = joined(epoch)
        assert len(seen) == 81
        assert sum(first >= 5000 for first in seen) == 54


@pytest.mark.parametrize(("accelerator", "pinned"), [("cpu", False), ("cuda", True)])
def test_batches_are_pinned_where_the_trainer_uses_a_gpu_and_not_where_the_machine_only_has_one(
    make_data, monkeypatch, accelerator, pinned
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    data = make_data(on_device=False)
    data.prepare_data()
    data.setup("fit")
    strategy = SimpleNamespace(root_device=torch.device(accelerator), broadcast=lambda seed: seed)
    data.trainer = SimpleNamespace(strategy=strategy, overfit_batches=0, global_rank=0, world_size=1)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert loader._loader.pin_memory is pinned
    data.trainer = None  # as in a notebook
    assert data.train_dataloader()._loader.pin_memory is False
