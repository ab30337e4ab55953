"""Pictures show the right numbers, and change neither training nor random states."""

import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from learners import Recorder, assert_same, average_by_hand, copied, differ, make_module
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vgp_lightning.pipeline.planner import ValueGuidedPlannerPipeline
from vgp_lightning.report.names import _NAMES, Names
from vgp_lightning.training import pictures as drawing
from vgp_lightning.training.callbacks import EMA
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.pictures import CalibrationPicture, PlanPicture
from vgp_lightning.training.planner import PlannerModule
from vgp_lightning.training.value import ValueModule

# ---------------------------------------------------------------- PlanPicture


@pytest.fixture
def fit_with_pictures(make_data, make_trainer, tmp_path):
    """Train four steps, validate after two and four, and return module, logger and recorder."""

    def fit(*pictures, kind=DenoiserModule, **options):
        torch.manual_seed(1)
        recorder, logger = Recorder(), TensorBoardLogger(tmp_path, version=None, default_hp_metric=False)
        dataset = {"dataset_id": "test/tiny-v0"} if (tmp_path / "minari").exists() else {}
        module = make_module(kind, learning_rate=0.01)
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
    drawn = images(logger)
    assert list(drawn) == ["val_pictures/plans"]
    assert [picture.step for picture in drawn["val_pictures/plans"]] == [2, 4]
    assert all(picture.encoded_image_string.startswith(b"\x89PNG") for picture in drawn["val_pictures/plans"])
    assert len({picture.encoded_image_string for picture in drawn["val_pictures/plans"]}) == 2


def test_the_plans_are_the_averages_and_start_where_the_windows_do(fit_with_pictures, monkeypatch):
    networks, drawn = [], []

    def pipeline(network, *args, **kwargs):
        networks.append({f"network.{name}": value.clone() for name, value in network.state_dict().items()})
        return ValueGuidedPlannerPipeline(network, *args, **kwargs)

    def plot(plans, windows, names, title):
        drawn.append((plans, windows, names))
        return draw(plans, windows, names, title)

    draw = drawing.plot_plans
    monkeypatch.setattr(drawing, "ValueGuidedPlannerPipeline", pipeline)
    monkeypatch.setattr(drawing, "plot_plans", plot)
    _, _, recorder = fit_with_pictures(PlanPicture(3))
    for count, network in zip((2, 4), networks, strict=True):
        average = average_by_hand(recorder.steps[:count], 0.9999)
        assert_same(network, {name: average[name] for name in network})
    for plans, windows, names in drawn:
        assert plans.shape == windows.shape == (3, 4, 3)
        assert names == ["action 0", "observation 0", "observation 1"]
        torch.testing.assert_close(plans[:, 0, 1:], windows[:, 0, 1:], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(plans[:, 1:], windows[:, 1:])


def test_a_picture_of_no_plans_is_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match="PlanPicture's plans is 0: at least 1 is needed"):
        PlanPicture(0)


@pytest.mark.parametrize("kind", [DenoiserModule, PlannerModule])
def test_dimensions_have_the_names_of_the_environments_documentation(fit_with_pictures, monkeypatch, kind):
    drawn, draw = [], drawing.plot_plans
    monkeypatch.setattr(drawing, "plot_plans", lambda *given: drawn.append(given[2]) or draw(*given))
    monkeypatch.setitem(_NAMES, "Tiny", Names(("push",), ("height", "speed")))
    fit_with_pictures(PlanPicture(3), kind=kind)
    assert drawn == [["push", "height", "speed"]] * 2


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
    monkeypatch.setattr(drawing, "plot_plans", None)  # must not be called
    _, logger, _ = fit_with_pictures(PlanPicture(), kind=ValueModule)
    assert images(logger) == {}
    fit_with_pictures(PlanPicture(), logger=False)


# ---------------------------------------------------------------- CalibrationPicture


def test_each_validation_draws_the_values_calibration_but_the_sanity_check_none(fit_with_pictures):
    _, logger, _ = fit_with_pictures(CalibrationPicture(), kind=ValueModule, num_sanity_val_steps=1)
    drawn = images(logger)
    assert set(drawn) == {"val_pictures/calibration", "val_pictures/rank_by_level"}
    for found in drawn.values():
        assert [picture.step for picture in found] == [2, 4]
        assert all(picture.encoded_image_string.startswith(b"\x89PNG") for picture in found)


def test_the_calibration_shows_every_held_out_window_in_the_environments_units(fit_with_pictures, monkeypatch):
    drawn, measured = [], []

    class Witness(pl.Callback):
        """Records what the value function predicts without noise, computed once more."""

        def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
            returns = module.predict(batch, *module.draw(batch, 0)) * module.return_scale + module.return_shift
            measured.extend(zip(returns.tolist(), batch.returns.tolist(), strict=True))

    def plot(predicted, true, curve, title):
        drawn.append((predicted, true, curve))
        return draw(predicted, true, curve, title)

    draw = drawing.plot_calibration
    monkeypatch.setattr(drawing, "plot_calibration", plot)
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

    draw = drawing.plot_bars
    monkeypatch.setattr(drawing, "plot_bars", plot)
    fit_with_pictures(CalibrationPicture(), Witness(), kind=ValueModule)
    for (bars, labels), metrics in zip(drawn, logged, strict=True):
        assert labels == ["t00", "t01", "t02", "t03", "t04"]
        np.testing.assert_allclose(bars, metrics, atol=1e-5)  # val/... sorts before val_levels/...


def test_the_value_function_inside_a_planner_is_drawn_and_a_denoiser_is_not(
    make_data, make_trainer, tmp_path, fit_with_pictures, monkeypatch
):
    sizes = {"transition_dim": 3, "action_dim": 1, "horizon": 4, "task": {}, "widths": [16, 16]}
    module = PlannerModule(value_widths=[16, 64], **sizes, num_train_timesteps=5)
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    options = {"max_steps": 2, "val_check_interval": 2, "check_val_every_n_epoch": None, "logger": logger}
    make_trainer(**options, callbacks=[CalibrationPicture()]).fit(module, make_data(validation_share=0.25))
    assert set(images(logger)) == {"val_pictures/calibration", "val_pictures/rank_by_level"}

    monkeypatch.setattr(drawing, "plot_calibration", None)  # must not be called
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


class OnAppleGPU(torch.Tensor):
    """A tensor of a device that has no float64."""

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_a_device_without_float64_has_a_calibration_too(fit_with_pictures, monkeypatch):
    measured = ValueModule.measured

    def on_apple(module):
        return {
            name: tuple(values.as_subclass(OnAppleGPU) for values in pair) for name, pair in measured(module).items()
        }

    monkeypatch.setattr(ValueModule, "measured", on_apple)
    _, logger, _ = fit_with_pictures(CalibrationPicture(), kind=ValueModule)
    assert set(images(logger)) == {"val_pictures/calibration", "val_pictures/rank_by_level"}
