"""``vgp fit`` and ``vgp validate``: LightningCLI with the callbacks of this room, and runs that can be resumed."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.report.documents import read_yaml, restrict_parsers
from vgp_lightning.report.files import refuse_links
from vgp_lightning.training.base import LearningModule
from vgp_lightning.training.callbacks import EMA
from vgp_lightning.training.checkpoints import LastCheckpoint, read_checkpoint, run_folder
from vgp_lightning.training.contents import check_form
from vgp_lightning.training.fast import keep_freed_memory
from vgp_lightning.training.health import Health

# The options that decide the weights. The number of processes does not: a batch is that of all of them together.
_DECIDING = (
    *("seed_everything", "model", "data", "ema"),
    *("trainer.max_steps", "trainer.max_epochs", "trainer.limit_train_batches", "trainer.overfit_batches"),
    *("trainer.precision", "trainer.accumulate_grad_batches"),
    *("trainer.gradient_clip_val", "trainer.gradient_clip_algorithm"),
)
_WRITTEN = ("config.yaml", "hparams.yaml", "checkpoints")  # in a run's folder, which may be the current one
_KEYWORDS = ("best", "last", "hpc")  # which Lightning resolves
_FREE = ("model.init_args.compile", "data.num_workers", "data.download", "data.cache_dir")


def run(args: list[str] | None, parse_error: Callable[..., NoReturn]) -> None:
    """Run LightningCLI: ``-c`` files first, then options; a later one overrides an earlier one.

    Args:
        args: Verb and options; None: the process's.
        parse_error: Reports what is wrong with the options, and ends the process.
    """

    class Parser(LightningArgumentParser):
        error = parse_error

    keep_freed_memory()
    restrict_parsers(classes=True)
    with warnings.catch_warnings():
        # It suspects that arguments given by code (the demo, a test) were meant for the command line.
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
        # Lightning 2.6.6 asks for torch's LeafSpec in its own loaders; torch 2.13 deprecates it.
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        _CLI(
            LearningModule,
            MinariDataModule,
            subclass_mode_model=True,
            seed_everything_default=0,
            save_config_callback=_ConfigInCheckpoint,
            save_config_kwargs={"overwrite": True},
            load_from_checkpoint_support=False,
            auto_configure_optimizers=False,
            parser_class=Parser,
            parser_kwargs={"prog": "vgp"},
            args=args,
        )


class _ConfigInCheckpoint(SaveConfigCallback):
    """Saves the merged config in the checkpoint too, so that an export or a resumed run needs nothing else."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the config, unless the run's folder has links that would let it be written elsewhere.

        Raises:
            ValueError: If the folder has a link that leads out of it.
        """
        refuse_links(run_folder(trainer), _WRITTEN)
        super().setup(trainer, pl_module, stage)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["vgp_config"] = self.parser.dump(self.config, skip_none=False)


class _CLI(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in ("transition_dim", "action_dim", "horizon", "task"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        # Groups of their own, so that an overlay or an option changes one number (a list of callbacks cannot).
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(Health, "health")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.add_argument(
            "--may_differ",
            type=list[str],
            default=[],
            help="Options in which a resumed run may differ from its checkpoint, such as trainer.max_steps.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and take the checkpoint out of the config.

        Lightning would load its hyper-parameters over those of the command line.
        """
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        self._ckpt_path, config.ckpt_path = config.ckpt_path, None

    def before_instantiate_classes(self) -> None:
        """Put the checkpoint back: for training the last one if asked for, and none of another run."""
        config, path = self.config[self.config.subcommand], self._ckpt_path
        config.weights_only = True  # a checkpoint is data, never code
        if self.config.subcommand == "fit" and path == "last":
            path = _resume_in_last_folder(config)
            if path is None:
                print("vgp: --ckpt_path last: there is no checkpoint yet, the run starts at its beginning")
        if path and path not in _KEYWORDS and "://" not in path:
            checkpoint = read_checkpoint(path)
            check_form(checkpoint, path)
            if self.config.subcommand == "fit":
                text = self.parser.dump(self.config, skip_none=False)
                _check_same(path, checkpoint.get("vgp_config"), yaml.safe_load(text)["fit"], config.may_differ)
        config.ckpt_path = path

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        self.config[self.config.subcommand].ckpt_path = None  # the saved config repeats the whole run

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = LightningCLI.subcommands()
        return {verb: skipped[verb] for verb in ("fit", "validate")}


def _resume_in_last_folder(config: Namespace) -> str | None:
    """Return the newest last.ckpt of this logger's runs, and have the logger write to that run's folder."""
    logger = config.trainer.logger
    if isinstance(logger, list):
        logger = logger[0] if logger else False
    if isinstance(logger, Namespace):
        settings = logger.init_args
        root, version = Path(settings.save_dir) / (settings.get("name") or ""), settings.get("version")
        pattern = "*" if version is None else f"version_{version}" if isinstance(version, int) else version
    else:
        # By default Lightning logs into lightning_logs; without a logger runs have no number.
        root = Path(config.trainer.default_root_dir or ".")
        pattern = "." if logger is False else "lightning_logs/*"
    found = sorted(root.glob(f"{pattern}/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        return None
    run = found[-1].parent.parent
    if not run.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"--ckpt_path last: {run} is a link to {run.resolve()}, outside of {root}: name its checkpoint"
        )
    refuse_links(run, _WRITTEN)
    if isinstance(logger, Namespace):
        name = run.name
        number = re.fullmatch(r"version_(\d+)", name)
        logger.init_args.version = int(number[1]) if number else name
    return str(found[-1])


def _check_same(path: str, text: str | None, config: dict[str, Any], may_differ: list[str]) -> None:
    """Refuse to resume a run that had other settings.

    Args:
        path: The checkpoint.
        text: Its ``vgp_config``; None: the command line has not written it.
        config: The options of this run.
        may_differ: Options that may differ.

    Raises:
        ValueError: If an option that decides the weights differs, and is not named in ``may_differ``.
    """
    if text is None:
        return
    saved = read_yaml(text, f"vgp_config of {path}")
    if not isinstance(saved, dict):
        raise ValueError(f"vgp_config of {path} holds a {type(saved).__name__}: the file is damaged")
    there, here = _flat(saved), _flat(config)
    names = [
        name
        for name in sorted(there.keys() | here.keys())
        if _under(name, _DECIDING) and not _under(name, (*_FREE, *may_differ)) and there.get(name) != here.get(name)
    ]
    if names:
        lines = "".join(f"\n  {name}: {there.get(name)} there, {here.get(name)} here" for name in names)
        raise ValueError(
            f"this run differs from that of the checkpoint {path}:{lines}\nGive the same options to resume it; to "
            f"resume with these, allow it: --may_differ '[{', '.join(names)}]'"
        )


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return flat


def _under(name: str, keys: tuple[str, ...]) -> bool:
    return any(name == key or name.startswith(f"{key}.") for key in keys)
