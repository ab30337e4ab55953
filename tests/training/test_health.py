"""A run that goes wrong ends, names the windows of the bad step, and keeps the weights from before it."""

import copy
import math
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from vgp_lightning.cli import main
from vgp_lightning.data.order import DrawOrder
from vgp_lightning.data.windows import Draw
from vgp_lightning.shipped import CONFIGS
from vgp_lightning.training.callbacks import EMA
from vgp_lightning.training.checkpoints import LastCheckpoint, load_module
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.health import Health
from vgp_lightning.training.planner import PlannerModule


def make_module(kind=DenoiserModule, **options):
    sizes = {"transition_dim": 3, "action_dim": 1, "horizon": 4, "task": {}}
    widths = {"widths": [16, 16]} | ({"value_widths": [16, 64]} if kind is PlannerModule else {})
    return kind(**sizes, **widths, **{"num_train_timesteps": 5, "learning_rate": 0.01, "warmup_steps": 0} | options)


class Spoil(pl.Callback):
    """Makes numbers of a batch not finite, and records the raw weights before each step."""

    def __init__(self, step, value=math.nan, field="trajectories"):
        self.step, self.value, self.field, self.weights = step, value, field, []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step + 1 == self.step:
            getattr(batch, self.field)[0] = self.value
        self.weights.append({name: value.clone() for name, value in module.state_dict().items()})


class Elsewhere(Health):
    """Checks several steps together, as on a device other than the CPU."""

    def on_before_backward(self, trainer, module, loss):
        self._unchecked.append((trainer.global_step + 1, self._draw, module.losses))


@pytest.fixture
def fault(make_data, make_trainer, tmp_path):
    """Train until it goes wrong; return the message, the fault's checkpoint and the last one before."""

    def fit(*callbacks, health=None, kind=DenoiserModule, interval=3, max_steps=30, **options):
        torch.manual_seed(3)
        callbacks = [EMA(0.9), health or Health(), LastCheckpoint(interval), *callbacks]
        trainer = make_trainer(max_steps=max_steps, enable_checkpointing=True, callbacks=callbacks, **options)
        fit.data = make_data(validation_share=0, batch_size=10)
        with pytest.raises(FloatingPointError) as raised:
            trainer.fit(make_module(kind), fit.data)
        fit.folder = tmp_path / "checkpoints"
        last, bad = fit.folder / "last.ckpt", fit.folder / "fault.ckpt"
        loaded = torch.load(last, weights_only=True) if last.exists() else None
        return str(raised.value), torch.load(bad, weights_only=True), loaded

    return fit


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


# ---------------------------------------------------------------- not a number


@pytest.mark.parametrize("health", [Health, Elsewhere])
@pytest.mark.parametrize(("step", "value"), [(1, math.nan), (8, math.inf), (13, math.nan)])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step_and_its_windows(fault, health, step, value):
    message, checkpoint, _ = fault(Spoil(step, value), health=health())
    assert message.startswith("train/diffusion_loss is ")
    assert f"at step {step}." in message
    order = DrawOrder(fault.data.train_windows, 10, shuffle=True, seed=3)
    order.drawn = step - 1
    windows = next(iter(order)).windows.tolist()
    assert checkpoint["vgp_fault"]["step"] == step
    assert checkpoint["vgp_fault"]["windows"].tolist() == windows
    shown = ", ".join(map(str, windows[:8])) + " and 2 more" * (len(windows) == 10)  # an epoch's last batch has two
    assert f"The batch's windows, by index: {shown} (" in message
    assert str(fault.folder / "fault.ckpt") in message


def test_the_faults_checkpoint_has_the_weights_from_before_and_the_last_one_is_untouched(fault):
    spoil = Spoil(8)
    _, checkpoint, last = fault(spoil)
    assert checkpoint["global_step"] == 7
    assert_equal(checkpoint["current_model_state"], spoil.weights[7])
    assert last["global_step"] == 6
    assert "vgp_fault" not in last
    assert_equal(last["current_model_state"], spoil.weights[6])
    assert all(value.isfinite().all() for value in load_module(str(fault.folder / "fault.ckpt")).network.parameters())


def test_a_wrong_return_ends_the_run_of_both_networks_and_names_the_value_loss(fault):
    message, checkpoint, _ = fault(Spoil(4, field="returns"), kind=PlannerModule)
    assert message.startswith("train/value_loss is nan at step 4.")
    assert checkpoint["vgp_fault"]["what"] == "train/value_loss is nan"


def test_a_weight_that_is_not_finite_ends_the_run_too(fault):
    class Break(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 4:
                next(module.network.parameters()).data.fill_(math.nan)

    message, checkpoint, last = fault(Break())
    assert "train/diffusion_loss is nan at step 5." in message
    assert last["global_step"] == 3
    assert checkpoint["global_step"] == 4


@pytest.mark.parametrize(("step", "interval"), [(3, 3), (5, 3), (7, 2), (19, 100), (20, 100)])
def test_steps_that_are_checked_together_let_no_faulty_weights_replace_good_ones(fault, step, interval):
    _, checkpoint, last = fault(Spoil(step), health=Elsewhere(), interval=interval)
    assert checkpoint["vgp_fault"]["step"] == step
    if last is None:
        assert step <= interval
    else:
        assert last["global_step"] == (step - 1) // interval * interval
        assert all(value.isfinite().all() for value in last["current_model_state"].values())


def test_steps_that_are_checked_together_are_checked_within_twenty(fault):
    spoil = Spoil(2)
    fault(spoil, health=Elsewhere(), interval=100, max_steps=200)
    assert len(spoil.weights) <= 22


# ---------------------------------------------------------------- growth


def stopped_at(health, losses, name="train/loss"):
    """Return the number of the first loss that the callback reports."""
    draw = Draw(np.arange(3), 3, 0, 1, 0)
    return next((i for i, loss in enumerate(losses, 1) if health._compare(i, draw, {name: float(loss)})), None)


def growth_by_hand(losses, limit):
    """Return the first step after 100 at which the weighted sum of all losses exceeds the limit."""
    first = np.mean(losses[:100])
    for count in range(101, len(losses) + 1):
        weights = 0.02 * 0.98 ** np.arange(count - 101, -1, -1)
        if weights @ losses[100:count] + 0.98 ** (count - 100) * first > limit * first:
            return count
    return None


@pytest.mark.parametrize("limit", [2.0, 10.0])
def test_a_loss_that_grows_is_stopped_where_its_average_by_hand_is_above_the_limit(limit):
    losses = np.random.default_rng(0).uniform(0.5, 1.5, 600)
    losses[300:] *= np.exp(0.02 * np.arange(300))
    expected = growth_by_hand(losses, limit)
    assert 300 < expected < 600
    assert stopped_at(Health(limit), losses) == expected


def test_neither_one_spike_nor_a_start_at_a_high_loss_is_growth():
    calm = np.ones(400)
    spike = calm.copy()
    spike[250] = 400  # 0.02 * 400 = 8 in the average
    assert stopped_at(Health(), calm) is None
    assert stopped_at(Health(), spike) is None
    assert stopped_at(Health(), 1000 * np.exp(-0.05 * np.arange(400))) is None
    assert stopped_at(Health(), np.r_[1e6, np.ones(399)]) is None
    spike[250] = 600
    assert stopped_at(Health(), spike) == 251


def test_growth_within_the_first_hundred_steps_is_allowed():
    assert stopped_at(Health(2.0), np.exp(0.1 * np.arange(100))) is None


def test_what_a_loss_is_compared_with_survives_a_resume():
    losses = np.r_[np.ones(150), np.exp(0.02 * np.arange(300))]
    whole = stopped_at(Health(), losses)
    first, second = Health(), Health()
    assert stopped_at(first, losses[: whole - 5]) is None
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert stopped_at(second, losses[whole - 5 :]) == 5


def test_a_checkpoint_includes_the_steps_that_were_not_checked_yet(make_data, make_trainer, tmp_path):
    states = []
    for health in (Health(), Elsewhere()):
        torch.manual_seed(3)
        callbacks = [health, LastCheckpoint(100)]
        make_trainer(max_steps=7, enable_checkpointing=True, callbacks=callbacks).fit(
            make_module(), make_data(validation_share=0, **({"dataset_id": "test/tiny-v0"} if states else {}))
        )
        checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
        states.append(checkpoint["callbacks"][type(health).__qualname__])
    assert states[0] == states[1]
    assert states[0]["count"] == 7


def test_each_network_is_compared_with_itself():
    health, draw = Health(), Draw(np.arange(3), 3, 0, 1, 0)
    for i in range(200):
        assert health._compare(i, draw, {"train/small": 0.01, "train/big": 100.0}) is None
    for i in range(200, 300):
        if wrong := health._compare(i, draw, {"train/small": 1.0, "train/big": 100.0}):
            break
    assert wrong["what"].startswith("train/small has grown to 0.1")
    assert wrong["what"].endswith("from 0.01 in the first 100 steps")


def test_a_run_whose_loss_grows_is_ended(fault, monkeypatch):
    class Grow(pl.Callback):
        """Makes the network worse at each step."""

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step >= 10:
                for value in module.network.out_block.parameters():
                    value.data.mul_(1.5)

    monkeypatch.setattr("vgp_lightning.training.health._FIRST", 10)
    message, checkpoint, _ = fault(Grow(), health=Health(3.0), max_steps=100)
    assert "train/diffusion_loss has grown to" in message
    assert "in the first 10 steps at step" in message
    assert checkpoint["global_step"] == checkpoint["vgp_fault"]["step"] - 1 > 10


@pytest.mark.parametrize("limit", [1, 0.5, -3, math.nan])
def test_a_limit_that_every_loss_exceeds_is_refused(limit):
    with pytest.raises(ValueError, match=rf"health\.max_growth is {limit}: it must be above 1"):
        Health(limit)


# ---------------------------------------------------------------- through the front door


def test_a_learning_rate_far_too_high_ends_with_one_message(make_data, tmp_path, capfd):
    make_data()
    options = ["--data.dataset_id", "test/tiny-v0", "--data.horizon", "8", "--trainer.accelerator", "cpu"]
    options += ["--trainer.logger.init_args.save_dir", str(tmp_path / "runs"), "--trainer.max_steps", "300"]
    options += [
        "--model.init_args.learning_rate",
        "1e30",
        "--trainer.gradient_clip_val",
        "null",
        "--trainer.log_every_n_steps",
        "1",
    ]
    files = [word for name in ("denoiser", "smoke") for word in ("-c", str(CONFIGS / f"{name}.yaml"))]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *files, *options])
    message = capfd.readouterr().err
    assert ended.value.code == 2
    assert "Traceback" not in message
    (line,) = [line for line in message.splitlines() if line.startswith("vgp: ")]
    assert "train/diffusion_loss is" in line
    assert "A lower --model.init_args.learning_rate often helps" in line
    assert (tmp_path / "runs/denoiser/version_0/checkpoints/fault.ckpt").exists()


# ---------------------------------------------------------------- several processes


def two_processes(monkeypatch, other, other_fault=None):
    """Return a Trainer of two processes, of which the other has these losses (steps, names)."""

    def gather(found, fault):
        found[:] = [fault, other_fault]

    def reduce(tensor, reduce_op):
        assert reduce_op == "mean"
        return (tensor + torch.tensor(other)) / 2

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    return SimpleNamespace(world_size=2, strategy=SimpleNamespace(reduce=reduce))


def unchecked(losses):
    draw = Draw(np.arange(3), 6, 0, 2, 0)
    return [(step, draw, {"train/loss": torch.tensor(loss)}) for step, loss in enumerate(losses, 1)]


def test_growth_is_that_of_the_loss_of_all_processes(monkeypatch):
    monkeypatch.setattr("vgp_lightning.training.health._FIRST", 2)
    health = Health()
    health._unchecked = unchecked([1.0, 1.0, 1.0])
    health._check(two_processes(monkeypatch, [[3.0], [5.0], [7.0]]))
    assert health.state_dict() == {
        "first": {"train/loss": 2.5},  # of 2 and 3
        "recent": {"train/loss": pytest.approx(0.98 * 2.5 + 0.02 * 4)},
        "count": 3,
    }


@pytest.mark.parametrize("own", [True, False])
def test_a_loss_of_one_process_that_is_not_finite_ends_all_by_its_windows(monkeypatch, own):
    stopped, health = [], Health()
    monkeypatch.setattr(health, "_stop", lambda trainer, fault: stopped.append(fault))
    theirs = {"what": "train/loss is nan", "step": 2, "windows": torch.tensor([7])}
    losses = [[1.0, math.nan, 1.0], [1.0, 1.0, 1.0]]
    health._unchecked = unchecked(losses[not own])
    other = [[loss] for loss in losses[own]]
    health._check(two_processes(monkeypatch, other, None if own else theirs))
    (fault,) = stopped
    assert (fault["what"], fault["step"]) == ("train/loss is nan", 2)
    assert fault["windows"].tolist() == ([0, 1, 2] if own else [7])
    assert all(math.isfinite(value) for value in health.state_dict()["first"].values())
