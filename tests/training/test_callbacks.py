"""The average by hand, and a picture that changes nothing but its file."""

import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.training import callbacks
from vgp_lightning.training.callbacks import EMA, CalibrationPicture, PlanPicture
from vgp_lightning.training.checkpoints import LastCheckpoint
from vgp_lightning.training.planner import DenoiserModule, PlannerModule, ValueModule, load_module

STATISTICS = ("shift", "scale", "action_low", "action_high", "return_shift", "return_scale")


@pytest.fixture
def make_module():
    def make(kind=DenoiserModule):
        widths = [16, 16] if kind is DenoiserModule else [16, 64]
        sizes = {"transition_dim": 3, "action_dim": 1, "horizon": 4, "task": {}, "widths": widths}
        return kind(**sizes, num_train_timesteps=5, learning_rate=0.01, warmup_steps=0)

    return make


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: name + text)


def differ(first, second):
    return any(not torch.equal(first[name], second[name]) for name in first)


class Recorder(pl.Callback):
    """The module's state after each training step, and while and after each validation."""

    def __init__(self):
        self.start, self.steps, self.validating, self.sanity, self.after = None, [], [], [], []

    def on_train_start(self, trainer, module):
        self.start = copied(module)

    def on_train_batch_end(self, trainer, module, *args):
        self.steps.append(copied(module))

    def on_validation_batch_end(self, trainer, module, *args):
        (self.sanity if trainer.sanity_checking else self.validating).append(copied(module))

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.after.append(copied(module))


def average_by_hand(steps, decay):
    """The average starts at the first step's weights; of k steps in it, it keeps min(decay, (1 + k) / (10 + k))."""
    average = {name: value.double() for name, value in steps[0].items()}
    for k, weights in enumerate(steps[1:], start=1):
        kept = min(decay, (1 + k) / (10 + k))
        for name, value in average.items():
            average[name] = kept * value + (1 - kept) * weights[name].double()
    return {name: value.float() for name, value in average.items()}


# ---------------------------------------------------------------- EMA


@pytest.mark.parametrize("kind", [DenoiserModule, ValueModule])
@pytest.mark.parametrize("decay", [0.9999, 0.3, 0.0])  # 0.3 is reached after three steps
def test_a_checkpoint_has_the_average_by_hand_the_raw_weights_and_the_statistics(
    make_data, make_trainer, make_module, tmp_path, kind, decay
):
    recorder, data = Recorder(), make_data(validation_share=0)
    trainer = make_trainer(
        max_steps=6, enable_checkpointing=True, callbacks=[EMA(decay), recorder, LastCheckpoint(100)]
    )
    module = make_module(kind)
    trainer.fit(module, data)
    path = tmp_path / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    average = average_by_hand(recorder.steps, decay)
    assert_same(checkpoint["state_dict"], average)
    assert_same(checkpoint["current_model_state"], recorder.steps[-1])
    assert differ(checkpoint["state_dict"], checkpoint["current_model_state"]) == (decay > 0)
    for state in ("state_dict", "current_model_state"):
        for name in STATISTICS:
            np.testing.assert_array_equal(checkpoint[state][name], np.float32(data.normalization[name]))
    assert_same(copied(load_module(str(path))), average)
    assert_same(copied(module), average)  # what is left when training has ended


def test_statistics_are_copied_and_not_averaged(make_data, make_trainer, make_module, tmp_path):
    data = make_data(validation_share=0)
    data._bounds = {"action_low": [None], "action_high": [None]}  # an average of infinities is NaN
    make_trainer(max_steps=4, enable_checkpointing=True, callbacks=[EMA(), LastCheckpoint(100)]).fit(
        make_module(), data
    )
    assert load_module(str(tmp_path / "checkpoints/last.ckpt")).normalization["action_low"] == [None]
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert (checkpoint["state_dict"]["action_low"], checkpoint["state_dict"]["action_high"]) == (-torch.inf, torch.inf)


def test_validation_has_the_average_and_leaves_the_raw_weights(make_data, make_trainer, make_module):
    recorder = Recorder()
    trainer = make_trainer(
        max_steps=4,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        limit_val_batches=1,
        callbacks=[EMA(0.9999), recorder],
    )
    trainer.fit(make_module(), make_data())
    assert len(recorder.validating) == 2
    for count, validating, after in zip((2, 4), recorder.validating, recorder.after, strict=True):
        assert_same(validating, average_by_hand(recorder.steps[:count], 0.9999))
        assert_same(after, recorder.steps[count - 1])
        assert differ(validating, after)


def test_validation_before_the_first_step_has_the_raw_weights_and_the_statistics(make_data, make_trainer, make_module):
    recorder, module, data = Recorder(), make_module(), make_data()
    before = copied(module)
    trainer = make_trainer(max_steps=2, num_sanity_val_steps=1, callbacks=[EMA(), recorder])
    trainer.fit(module, data)
    (sanity,) = recorder.sanity
    expected = before | {name: torch.tensor(data.normalization[name]) for name in STATISTICS}
    assert_same(sanity, expected)
    assert_same(recorder.start, expected)


def test_an_average_that_never_starts_leaves_the_trained_weights(make_data, make_trainer, make_module, tmp_path):
    class Never(EMA):
        def should_update(self, step_idx=None, epoch_idx=None):
            return False

    recorder, module = Recorder(), make_module()
    options = {"val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    trainer = make_trainer(
        max_steps=4, enable_checkpointing=True, callbacks=[Never(), recorder, LastCheckpoint(100)], **options
    )
    trainer.fit(module, make_data())
    assert_same(recorder.validating[0], recorder.steps[1])
    assert_same(copied(module), recorder.steps[-1])
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert_same(checkpoint["state_dict"], recorder.steps[-1])


# Lightning says that it restarts the epoch, and that the folder has checkpoints already.
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_resumed_run_goes_on_with_both_the_average_and_the_raw_weights(
    make_data, make_trainer, make_module, tmp_path
):
    first, second, data = Recorder(), Recorder(), make_data(validation_share=0)
    options = {"enable_checkpointing": True}
    make_trainer(max_steps=3, callbacks=[EMA(0.9), first, LastCheckpoint(100)], **options).fit(make_module(), data)
    path, module = tmp_path / "checkpoints/last.ckpt", make_module()
    trainer = make_trainer(max_steps=6, callbacks=[EMA(0.9), second, LastCheckpoint(100)], **options)
    trainer.fit(module, data, ckpt_path=path, weights_only=True)
    assert_same(second.start, first.steps[-1])
    assert_same(torch.load(path, weights_only=True)["state_dict"], average_by_hand(first.steps + second.steps, 0.9))


@pytest.mark.parametrize("decay", [-0.1, 1, 1.5])
def test_a_decay_outside_zero_to_one_is_refused(decay):
    with pytest.raises(ValueError, match=rf"ema\.decay is {decay}: it must lie in \[0, 1\)"):
        EMA(decay)


# ---------------------------------------------------------------- PlanPicture


@pytest.fixture
def fit_with_pictures(make_data, make_trainer, make_module, tmp_path):
    """Train four steps, validate after two and four, and return module, logger and recorder."""

    def fit(*pictures, kind=DenoiserModule, **options):
        torch.manual_seed(1)
        recorder, logger = Recorder(), TensorBoardLogger(tmp_path, version=None, default_hp_metric=False)
        dataset = {"dataset_id": "test/tiny-v0"} if (tmp_path / "minari").exists() else {}
        module = make_module(kind)
        trainer = make_trainer(
            **{
                "max_steps": 4,
                "val_check_interval": 2,
                "check_val_every_n_epoch": None,
                "callbacks": [*pictures, EMA(), recorder],
                "logger": logger,
            }
            | options
        )
        trainer.fit(module, make_data(validation_share=0.25, batch_size=7, **dataset))
        return module, logger, recorder

    return fit


def images(logger):
    events = EventAccumulator(logger.log_dir).Reload()
    return {tag: events.Images(tag) for tag in events.Tags()["images"]}


def test_each_validation_draws_one_picture_of_plans_but_the_sanity_check_none(fit_with_pictures):
    _, logger, _ = fit_with_pictures(PlanPicture(3), num_sanity_val_steps=1)
    pictures = images(logger)
    assert list(pictures) == ["plan/denoised"]
    assert [picture.step for picture in pictures["plan/denoised"]] == [2, 4]
    assert all(picture.encoded_image_string.startswith(b"\x89PNG") for picture in pictures["plan/denoised"])
    assert len({picture.encoded_image_string for picture in pictures["plan/denoised"]}) == 2


def test_the_plans_are_the_averages_and_start_where_the_windows_do(fit_with_pictures, monkeypatch):
    networks, drawn = [], []

    def pipeline(network, *args, **kwargs):
        networks.append({f"network.{name}": value.clone() for name, value in network.state_dict().items()})
        return ValueGuidedPlannerPipeline(network, *args, **kwargs)

    def plot(plans, windows, names, title):
        drawn.append((plans, windows, names))
        return draw(plans, windows, names, title)

    draw = callbacks.plot_plans
    monkeypatch.setattr(callbacks, "ValueGuidedPlannerPipeline", pipeline)
    monkeypatch.setattr(callbacks, "plot_plans", plot)
    _, _, recorder = fit_with_pictures(PlanPicture(3))
    for count, network in zip((2, 4), networks, strict=True):
        average = average_by_hand(recorder.steps[:count], 0.9999)
        assert_same(network, {name: average[name] for name in network})
    for plans, windows, names in drawn:
        assert plans.shape == windows.shape == (3, 4, 3)
        assert names == ["action 0", "observation 0", "observation 1"]
        torch.testing.assert_close(plans[:, 0, 1:], windows[:, 0, 1:], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(plans[:, 1:], windows[:, 1:])


def test_pictures_change_neither_the_training_nor_any_random_state(fit_with_pictures):
    ends = []
    for pictures in ([], [PlanPicture()]):
        random.seed(2)
        np.random.seed(2)  # the global state is what must not change
        module, _, recorder = fit_with_pictures(*pictures)
        state = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
        ends.append((copied(module), recorder.validating, state))
    (without, validating, random_state), (with_pictures, *others) = ends
    assert not differ(without, with_pictures)
    assert not any(differ(*pair) for pair in zip(validating, others[0], strict=True))
    assert random_state == others[1]


def test_without_a_denoiser_or_without_tensorboard_there_is_no_picture(fit_with_pictures, monkeypatch):
    monkeypatch.setattr(callbacks, "plot_plans", None)  # must not be called
    _, logger, _ = fit_with_pictures(PlanPicture(), kind=ValueModule)
    assert images(logger) == {}
    fit_with_pictures(PlanPicture(), logger=False)


# ---------------------------------------------------------------- CalibrationPicture


def test_each_validation_draws_the_values_calibration_but_the_sanity_check_none(fit_with_pictures):
    _, logger, _ = fit_with_pictures(CalibrationPicture(), kind=ValueModule, num_sanity_val_steps=1)
    pictures = images(logger)
    assert set(pictures) == {"value/calibration", "value/rank_by_level"}
    for drawn in pictures.values():
        assert [picture.step for picture in drawn] == [2, 4]
        assert all(picture.encoded_image_string.startswith(b"\x89PNG") for picture in drawn)


def test_the_calibration_shows_every_held_out_window_in_the_environments_units(fit_with_pictures, monkeypatch):
    drawn, measured = [], []

    class Witness(pl.Callback):
        """What the value function predicts without noise, found once more."""

        def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
            returns = module.predict(batch, *module.draw(batch, 0)) * module.return_scale + module.return_shift
            measured.extend(zip(returns.tolist(), batch.returns.tolist(), strict=True))

    def plot(predicted, true, curve, title):
        drawn.append((predicted, true, curve))
        return draw(predicted, true, curve, title)

    draw = callbacks.plot_calibration
    monkeypatch.setattr(callbacks, "plot_calibration", plot)
    fit_with_pictures(Witness(), CalibrationPicture(), kind=ValueModule)
    # Two of the eight episodes are held out, with 9 windows each, at two validations.
    assert [len(predicted) for predicted, _, _ in drawn] == [18, 18]
    found = [pair for predicted, true, _ in drawn for pair in zip(predicted, true, strict=True)]
    np.testing.assert_allclose(found, measured, rtol=1e-4)
    for predicted, true, curve in drawn:
        assert np.ptp(true) > 1  # not normalised: rewards are standard normal
        np.testing.assert_allclose(np.mean(curve[0][0]), np.sort(predicted)[:2].mean())


def test_the_bars_are_the_rank_correlations_that_lightning_logs(fit_with_pictures, monkeypatch):
    drawn, logged = [], []

    class Witness(pl.Callback):
        def on_validation_end(self, trainer, module):
            metrics = trainer.callback_metrics
            logged.append([float(value) for name, value in sorted(metrics.items()) if "rank_correlation" in name])

    def plot(groups, labels, axis, title):
        drawn.append((groups["held-out windows"], labels))
        return draw(groups, labels, axis, title)

    draw = callbacks.plot_bars
    monkeypatch.setattr(callbacks, "plot_bars", plot)
    fit_with_pictures(CalibrationPicture(), Witness(), kind=ValueModule)
    for (bars, labels), metrics in zip(drawn, logged, strict=True):
        assert labels == ["t00", "t01", "t02", "t03", "t04"]
        np.testing.assert_allclose(bars, metrics, atol=1e-5)  # val/... sorts before val_levels/...


def test_the_value_function_inside_a_planner_is_drawn_and_a_denoiser_is_not(
    make_data, make_trainer, make_module, tmp_path, fit_with_pictures, monkeypatch
):
    sizes = {"transition_dim": 3, "action_dim": 1, "horizon": 4, "task": {}, "widths": [16, 16]}
    module = PlannerModule(value_widths=[16, 64], **sizes, num_train_timesteps=5)
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    options = {"max_steps": 2, "val_check_interval": 2, "check_val_every_n_epoch": None, "logger": logger}
    make_trainer(**options, callbacks=[CalibrationPicture()]).fit(module, make_data(validation_share=0.25))
    assert set(images(logger)) == {"value/calibration", "value/rank_by_level"}

    monkeypatch.setattr(callbacks, "plot_calibration", None)  # must not be called
    _, logger, _ = fit_with_pictures(CalibrationPicture(), kind=DenoiserModule)
    assert images(logger) == {}
    fit_with_pictures(CalibrationPicture(), kind=ValueModule, logger=False)


def test_a_picture_of_values_changes_neither_the_training_nor_the_metrics(fit_with_pictures):
    ends = []
    for pictures in ([], [CalibrationPicture()]):
        module, logger, _ = fit_with_pictures(*pictures, kind=ValueModule)
        events = EventAccumulator(logger.log_dir).Reload()
        found = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        ends.append((copied(module), {tag: numbers for tag, numbers in found.items() if tag.startswith("val")}))
    (without, metrics), (with_pictures, others) = ends
    assert not differ(without, with_pictures)
    assert metrics == others != {}
