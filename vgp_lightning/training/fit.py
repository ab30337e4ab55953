"""``vgp fit`` and ``vgp validate``: LightningCLI with the callbacks of this room, and runs that can be resumed."""

import time
import traceback
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback

from vgp_lightning.data.module import MinariDataModule
from vgp_lightning.report.documents import restrict_parsers
from vgp_lightning.report.files import refuse_links
from vgp_lightning.report.streams import silenced
from vgp_lightning.training.base import LearningModule, check_kind
from vgp_lightning.training.board import describe_run
from vgp_lightning.training.callbacks import EMA
from vgp_lightning.training.checkpoints import LastCheckpoint, read_checkpoint, run_folder
from vgp_lightning.training.contents import check_form
from vgp_lightning.training.fast import keep_freed_memory
from vgp_lightning.training.health import Health
from vgp_lightning.training.rehearsal import Rehearsal
from vgp_lightning.training.resuming import check_same
from vgp_lightning.training.runs import WRITTEN, find_checkpoint, is_main_process, last_checkpoint, own_folder
from vgp_lightning.training.terminal import plain_output, say_next, silence_lightning
from vgp_lightning.training.trainers import check_trainer

# What Lightning and torch raise at the state of a training that is damaged.
_OF_DAMAGE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_LINKED = ("transition_dim", "action_dim", "horizon", "task")  # arguments of the modules that follow from the data


def run(args: list[str] | None, parse_error: Callable[..., NoReturn]) -> None:
    """Run LightningCLI: ``-c`` files first, then options; a later one overrides an earlier one.

    Args:
        args: Verb and options; None: the process's.
        parse_error: Reports what is wrong with the options, and ends the process.
    """
    _run(args, parse_error)


def rehearse(args: list[str], parse_error: Callable[..., NoReturn]) -> None:
    """Train some steps in a temporary folder, and print what the whole training would take.

    Args:
        args: Verb and options.
        parse_error: Reports what is wrong with the options, and ends the process.
    """
    rehearsal = Rehearsal()
    with TemporaryDirectory(prefix="vgp-dry-run-") as folder, silenced():
        cli = _run([*args, "--output_dir", folder, "--ckpt_path", "null"], parse_error, [rehearsal])
    rehearsal.say(cli.trainer, cli.model, cli.datamodule)


def try_training(args: list[str], parse_error: Callable[..., NoReturn]) -> float:
    """Train some steps, which leaves a run with a checkpoint, and return the seconds that the whole would take.

    Args:
        args: Verb and options, among which is where the run goes.
        parse_error: Reports what is wrong with the options, and ends the process.
    """
    start, rehearsal = time.monotonic(), Rehearsal()
    cli = _run(args, parse_error, [rehearsal])
    return time.monotonic() - start + rehearsal.seconds(cli.trainer)


def _run(args: list[str] | None, parse_error: Callable[..., NoReturn], callbacks: Sequence[pl.Callback] = ()) -> "_CLI":

    class Parser(LightningArgumentParser):
        error = parse_error

    keep_freed_memory()
    restrict_parsers(classes=True)
    with silence_lightning():
        return _CLI(
            LearningModule,
            MinariDataModule,
            subclass_mode_model=True,
            seed_everything_default=0,
            save_config_callback=_ConfigInCheckpoint,
            save_config_kwargs={"overwrite": True},
            load_from_checkpoint_support=False,
            auto_configure_optimizers=False,
            # The line at the start says what matters of the summary.
            trainer_defaults={"enable_model_summary": False, "callbacks": list(callbacks)},
            parser_class=Parser,
            parser_kwargs={"prog": "vgp", "allow_abbrev": False},
            args=args,
        )


class _ConfigInCheckpoint(SaveConfigCallback):
    """Saves the merged config in the checkpoint too, so that an export or a resumed run needs nothing else."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the config, unless the run's folder has links that would let it be written elsewhere.

        Raises:
            ValueError: If the folder has a link that leads out of it.
        """
        refuse_links(run_folder(trainer), WRITTEN)
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the config in TensorBoard, with what follows from it."""
        describe_run(trainer, pl_module, self.parser.dump(self.config, skip_none=True))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["vgp_config"] = self.parser.dump(self.config, skip_none=False)


class _CLI(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in _LINKED:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        # Groups of their own, so that an overlay or an option changes one number (a list of callbacks cannot).
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(Health, "health")
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.add_argument(
            "--output_dir",
            type=str | None,
            default=None,
            help="Where runs go, as the first logger's save_dir: OUTPUT_DIR/NAME/version_N.",
        )
        parser.add_argument(
            "--may_differ",
            type=list[str],
            default=[],
            help="Options in which a resumed run may differ from its checkpoint, such as trainer.max_steps.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and find the checkpoint that is asked for; for training one of another run is refused.

        Raises:
            ValueError: If there is nothing to validate, or the checkpoint cannot be read or is of another run.
        """
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        _check_seed(config.seed_everything)
        _check_linked(config.model)
        _drop_progress_bar(config.trainer)
        _place_output(config)
        self._logger_config = _first_logger(config.trainer)
        self._version = None if self._logger_config is None else self._logger_config.init_args.get("version")
        config.weights_only = True  # a checkpoint is data, never code
        asked, config.ckpt_path = config.ckpt_path, None
        if self.config.subcommand == "validate" and not asked:
            raise ValueError(
                "vgp validate needs --ckpt_path, the checkpoint to measure: without one it would measure random "
                "weights. Give --ckpt_path RUN/checkpoints/last.ckpt, or --ckpt_path last for this logger's last run"
            )
        self._checkpoint = self._choose_checkpoint(asked) if asked else None
        self._resumes = "last" if asked == "last" and self._checkpoint is None else self._checkpoint

    def before_instantiate_classes(self) -> None:
        """Put the checkpoint into the config; Lightning loads its hyper-parameters over the command line's before."""
        self.config[self.config.subcommand].ckpt_path = self._checkpoint

    def _choose_checkpoint(self, asked: str) -> str | None:
        """Return the checkpoint, after a look into it; None where training has left none yet."""
        config, fits = self.config[self.config.subcommand], self.config.subcommand == "fit"
        if asked == "last":
            path, version = last_checkpoint(config.trainer)
            if path is None and fits:
                print("vgp: --ckpt_path last: there is no checkpoint yet, the run starts at its beginning")
                return None
            if path is None:
                raise ValueError(
                    "--ckpt_path last: this logger has no run with a checkpoint: give the checkpoint's path"
                )
            if fits and self._logger_config is not None:
                self._logger_config.init_args.version = version
        else:
            path = find_checkpoint(asked, "--ckpt_path")
        checkpoint = read_checkpoint(path, ": train one with vgp fit")
        check_form(checkpoint, path)
        if fits:
            text = self.parser.dump(self.config, skip_none=False)
            check_same(path, checkpoint.get("vgp_config"), yaml.safe_load(text)["fit"], config.may_differ)
        check_kind(checkpoint, config.model.class_path.rpartition(".")[2])
        if fits and is_main_process():
            print(f"vgp: resuming from {path}, step {checkpoint.get('global_step')}")
        return path

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        # The saved config repeats the whole run, in a folder of its own.
        self.config[self.config.subcommand].ckpt_path = None
        if self._logger_config is not None:
            self._logger_config.init_args.version = self._version

    def instantiate_trainer(self, **options: Any) -> pl.Trainer:
        """Make the Trainer.

        Raises:
            ValueError: If one of its options has no meaning; Lightning raises a TypeError for some.
        """
        try:
            return super().instantiate_trainer(**options, **plain_output(self._get(self.config_init, "trainer")))
        except TypeError as error:
            raise ValueError(f"trainer: {error}") from error

    def fit(self, **options: Any) -> None:
        """Train, in a folder that no other process trains in."""
        check_trainer(self.trainer, trains=True)
        start = time.monotonic()
        try:
            with own_folder(self.trainer, self._version, self._resumes):
                self.trainer.fit(**options)
        except _OF_DAMAGE as error:
            # Lightning takes over the state of a training as it is, and fails anywhere if that is damaged.
            if self._checkpoint is None or self._has_trained() or _is_own(error):
                raise
            raise ValueError(
                f"{self._checkpoint} cannot be resumed: its state of the training is damaged "
                f"({type(error).__name__}: {error}). Resume from another checkpoint, or start anew without --ckpt_path"
            ) from error
        except SystemExit as end:
            # So the Trainer ends after a second Ctrl-C.
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from end
            raise
        say_next(self.trainer, self.model, time.monotonic() - start)

    def _has_trained(self) -> bool:
        """Return whether a batch has been trained, in this process."""
        return any(one.has_trained for one in self.trainer.callbacks if isinstance(one, LastCheckpoint))  # type: ignore[attr-defined]

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = LightningCLI.subcommands()
        return {verb: skipped[verb] for verb in ("fit", "validate")}


def _is_own(error: BaseException) -> bool:
    """Return whether this package raised an error, or the memory did not suffice: such words need no others."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    ours = frame.f_globals.get("__name__", "").startswith("vgp_lightning.") and isinstance(error, ValueError)
    return ours or isinstance(error, torch.OutOfMemoryError)


def _check_seed(seed: Any) -> None:
    """Refuse a seed that numpy does not take, before it is used."""
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed < 2**32:
        raise ValueError(f"seed_everything is {seed}: a whole number from 0 to {2**32 - 1} is needed")


def _check_linked(model: Namespace) -> None:
    """Refuse arguments that follow from the data: the parser would replace them without a word."""
    for name in _LINKED:
        if (value := model.get("init_args", {}).get(name)) is not None:
            raise ValueError(
                f"model.init_args.{name} is {value}: it follows from the data, so leave it out"
                + ", and set data.horizon" * (name == "horizon")
            )


def _first_logger(trainer_config: Namespace) -> Namespace | None:
    """Return the options of the logger whose folder is the run's; None: Lightning's default, or no logger."""
    logger = trainer_config.logger
    if isinstance(logger, list):
        logger = logger[0] if logger else None
    return logger if isinstance(logger, Namespace) else None


def _place_output(config: Namespace) -> None:
    """Move ``output_dir`` to where Lightning has it, so that a saved config holds it once.

    Raises:
        ValueError: If it is empty, or the logger has no folder.
    """
    folder, config.output_dir = config.output_dir, None
    if folder is None:
        return
    if not folder:
        raise ValueError("output_dir is empty: give a value, or leave it out (is a variable of the shell not set?)")
    logger = _first_logger(config.trainer)
    if logger is None:
        config.trainer.default_root_dir = folder
    elif "save_dir" in logger.get("init_args", {}):
        logger.init_args.save_dir = folder
    else:
        raise ValueError(f"output_dir is {folder}, but {logger.class_path} has no save_dir: leave --output_dir out")


def _drop_progress_bar(trainer_config: Namespace) -> None:
    """Leave the configs' progress bar out where ``trainer.enable_progress_bar`` is false, which Lightning refuses."""
    if trainer_config.enable_progress_bar is False and isinstance(trainer_config.callbacks, list):
        trainer_config.callbacks = [
            one for one in trainer_config.callbacks if not one.class_path.endswith("ProgressBar")
        ]
