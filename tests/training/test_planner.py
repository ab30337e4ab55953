"""Both networks in one run learn what two runs do, to the bit."""

import json
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from learners import MODULES, A, H, T, make_module
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vgp_lightning.training.callbacks import EMA
from vgp_lightning.training.checkpoints import load_module
from vgp_lightning.training.denoiser import DenoiserModule
from vgp_lightning.training.planner import PlannerModule
from vgp_lightning.training.value import ValueModule


def make_planner(**options):
    return make_module(PlannerModule, widths=[16, 16], value_widths=[16, 64], learning_rate=0.01, **options)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_both_networks_in_one_run_are_those_of_two_runs_to_the_bit(
    make_data, make_trainer, tmp_path, precision, algorithm
):
    data, limits, found = make_data(validation_share=0.25), {"norm": 0.05, "value": 0.001}, {}
    kinds = {
        PlannerModule: {"widths": [16, 16], "value_widths": [16, 64], "value_learning_rate": 3e-3},
        DenoiserModule: {},
        ValueModule: {"learning_rate": 3e-3},
    }
    for kind, options in kinds.items():
        torch.manual_seed(0)
        module, steps = make_module(kind, **{"learning_rate": 0.01, "warmup_steps": 2} | options), PartSteps()
        trainer = make_trainer(
            max_steps=8,
            callbacks=[EMA(0.9), steps],
            gradient_clip_val=limits[algorithm],
            gradient_clip_algorithm=algorithm,
            precision=precision,
            val_check_interval=3,
            check_val_every_n_epoch=None,
        )
        trainer.fit(module, data)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        for part in module.parts:
            clipped = steps.sizes[part.short_name]
            assert (
                len(clipped) == 5
            )  # of eight: validation clears gradients, and after the last step the hook is not called
            weights = {name: value for name, value in part.state_dict().items() if name.startswith("network.")}
            validation = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
            found[kind, part.short_name] = weights, steps.raw[part.short_name], clipped, validation
    for kind, name in ((DenoiserModule, "denoiser"), (ValueModule, "value_function")):
        (average, raw, sizes, validation), (own_average, own_raw, own_sizes, own_validation) = (
            found[PlannerModule, name],
            found[kind, name],
        )
        for together, alone in ((average, own_average), (raw, own_raw)):
            assert together.keys() == alone.keys()
            assert all(torch.equal(together[key], alone[key]) for key in alone)
        assert any(not torch.equal(average[key], raw[key]) for key in raw)
        assert sizes == own_sizes == pytest.approx([limits[algorithm]] * 5, rel=1e-3)  # they were larger
        assert {key: validation[key] for key in own_validation} == own_validation
    together = found[PlannerModule, "denoiser"][3]
    assert (
        together.keys() == found[DenoiserModule, "denoiser"][3].keys() | found[ValueModule, "value_function"][3].keys()
    )


class PartSteps(pl.Callback):
    """Records the size of each network's clipped gradients, and its raw weights at the end."""

    def __init__(self):
        self.sizes, self.raw = {}, {}

    def on_before_zero_grad(self, trainer, module, optimizer):
        for part in module.parts:
            gradients = [weights.grad for weights in part.network.parameters() if weights.grad is not None]
            if gradients:
                numbers = torch.cat([gradient.flatten() for gradient in gradients])
                size = (
                    numbers.norm().item() if trainer.gradient_clip_algorithm == "norm" else numbers.abs().max().item()
                )
                self.sizes.setdefault(part.short_name, []).append(size)

    def on_train_epoch_end(self, trainer, module):
        for part in module.parts:
            self.raw[part.short_name] = {f"network.{k}": v.clone() for k, v in part.network.state_dict().items()}


def test_a_run_of_both_networks_logs_what_two_runs_do(make_data, make_trainer, tmp_path):
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    module = make_planner(value_learning_rate=0.002)
    make_trainer(
        max_steps=4,
        logger=logger,
        callbacks=[LearningRateMonitor()],
        val_check_interval=2,
        check_val_every_n_epoch=None,
    ).fit(module, make_data(validation_share=0.25))
    events = EventAccumulator(logger.log_dir).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/diffusion_loss", "train/value_loss", "val/diffusion_loss", "val/value_loss"} <= tags
    assert {"train/grad_norm/denoiser", "train/grad_norm/value_function"} <= tags
    assert {"val_levels/diffusion_loss/t00", "val_levels/explained_variance/t04", "val/rank_correlation"} <= tags
    rates = {tag: events.Scalars(tag)[0].value for tag in tags if tag.startswith("train/lr")}
    assert rates == pytest.approx({"train/lr/denoiser": 0.01, "train/lr/value_function": 0.002})


def test_the_value_function_can_have_widths_and_a_learning_rate_of_its_own():
    module = make_planner(value_learning_rate=0.002, weight_decay=0.3)
    assert [part.learning_rate for part in module.parts] == [0.01, 0.002]
    assert (
        module.denoiser.network.config["block_out_channels"][:2]
        != module.value_function.network.config["block_out_channels"][:2]
    )
    module._trainer = SimpleNamespace(estimated_stepping_batches=10, precision="32-true")
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [group["name"] for group in groups] == ["denoiser", "value_function"]
    assert [group["initial_lr"] for group in groups] == [0.01, 0.002]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.3]
    weights = {id(weight) for group in groups for weight in group["params"]}
    assert weights == {id(weight) for weight in module.parameters()}


def test_without_settings_of_its_own_the_value_function_has_the_denoisers():
    module = make_module(PlannerModule, widths=[16, 64], learning_rate=0.003, warmup_steps=7, num_train_timesteps=6)
    first, second = module.parts
    for name in ("learning_rate", "weight_decay", "warmup_steps", "levels"):
        assert getattr(first, name) == getattr(second, name)
    assert second.hparams["widths"] == [16, 64]


def test_a_checkpoint_of_both_networks_holds_plain_settings_and_loads(make_data, make_trainer, tmp_path):
    module, trainer = make_planner(), make_trainer(max_steps=2)
    trainer.fit(module, make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    settings = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]
    assert json.loads(json.dumps(settings)) == settings
    assert (settings["widths"], settings["value_widths"], settings["learning_rate"]) == ([16, 16], [16, 64], 0.01)
    loaded = load_module(str(tmp_path / "a.ckpt"))
    assert type(loaded) is PlannerModule
    for name, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert loaded.denoiser.normalization == loaded.value_function.normalization == module.denoiser.normalization
    assert loaded.denoiser.hparams["horizon"] == H


@pytest.mark.parametrize("kind", MODULES)
def test_a_checkpoint_of_one_network_is_not_resumed_as_both_nor_both_as_one(make_data, make_trainer, tmp_path, kind):
    data, trainer = make_data(validation_share=0), make_trainer(max_steps=1)
    for first, second in ((make_planner(), make_module(kind)), (make_module(kind), make_planner())):
        trainer = make_trainer(max_steps=1)
        trainer.fit(first, data)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        words = f"holds a {type(first).__name__}, but the config asks for a {type(second).__name__}"
        with pytest.raises(ValueError, match=words):
            make_trainer(max_steps=2).fit(second, data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)


@pytest.mark.parametrize(("own", "expected"), [(None, [0.5, 0.5]), (0.25, [0.5, 0.25])])
def test_a_finders_learning_rate_is_that_of_each_network_without_one_of_its_own(own, expected):
    planner = PlannerModule(
        transition_dim=T, action_dim=A, horizon=H, task={}, widths=[16, 64], value_learning_rate=own
    )
    planner.learning_rate = 0.5  # as Lightning's finder does
    planner._trainer = SimpleNamespace(estimated_stepping_batches=10, precision="32-true")
    groups = planner.configure_optimizers()["optimizer"].param_groups
    assert [group["initial_lr"] for group in groups] == expected
