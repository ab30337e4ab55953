"""What ``vgp --help``, ``vgp fit --help`` and ``vgp --version`` print. It loads nothing heavy."""

from collections.abc import Mapping

from vgp_lightning import __version__
from vgp_lightning.cli.verbs import flags_of

_LIBRARIES = ("torch", "lightning", "diffusers", "minari", "gymnasium", "mujoco", "numpy")

# The options of `vgp fit` that people use: (name, what its value stands for, meaning with unit and default).
FIT_OPTIONS = (
    ("config", "FILE", "a config, as -c; what comes later takes precedence"),
    ("output_dir", "DIR", "where runs go: DIR/NAME/version_N; by default what the config says: runs"),
    ("ckpt_path", "FILE", "a checkpoint to resume from; last: the last one of this output folder"),
    ("seed_everything", "INT", "seed of all random numbers; default: 0"),
    ("data.dataset_id", "ID", "the Minari dataset, or a list of several"),
    ("data.horizon", "STEPS", "length of a plan: a multiple of 8, at most 64"),
    ("data.discount", "FLOAT", "discount of the return; default: 0.997"),
    ("data.batch_size", "INT", "windows in a batch, of all processes together; default: 64"),
    ("model.init_args.learning_rate", "FLOAT", "the highest, after the warm-up"),
    ("model.init_args.widths", "LIST", "channels of the U-Net's levels, such as [32,64,128,256]"),
    ("trainer.max_steps", "STEPS", "length of the training, in optimizer steps"),
    ("trainer.accelerator", "NAME", "auto, cpu, gpu or mps; default: auto"),
    ("trainer.devices", "INT", "how many of them; default: auto"),
    ("trainer.precision", "NAME", "32-true, bf16-mixed or 16-mixed; default: 32-true"),
    ("trainer.val_check_interval", "STEPS", "steps between two validations"),
    ("checkpoint.every_n_train_steps", "STEPS", "steps between two checkpoints; default: 1000"),
    ("ema.decay", "FLOAT", "decay of the weights' moving average, per step; default: 0.9999"),
    ("may_differ", "LIST", "options in which a resumed run may differ from its checkpoint"),
)

_FIT = """usage: vgp {verb} -c CONFIG [-c CONFIG ...] [options]

{what}

A training is two or three configs: a model (planner.yaml, denoiser.yaml, value.yaml), a dataset
(data/hopper-medium.yaml or your own), and what the machine or the task changes (hardware/cpu.yaml,
smoke.yaml). `vgp configs` lists those that ship, `vgp configs planner.yaml > mine.yaml` copies one.

options that people use:
{options}
  -h, --help                               this page
  --help_all                               every option, with types and defaults (600 lines)
  --print_config                           print the config that all files and options make together
{flags}

examples:
{examples}

docs/training.md explains the configs, resuming, and many GPUs."""
_FIT_EXAMPLES = """  vgp fit -c planner.yaml -c data/hopper-medium.yaml
  vgp fit -c planner.yaml -c data/hopper-medium.yaml -c smoke.yaml     a run of seconds, to try
  vgp fit -c planner.yaml -c data/hopper-medium.yaml --ckpt_path last  go on after an interruption
  vgp fit -c planner.yaml -c data/hopper-medium.yaml --trainer.max_steps 100000 --dry_run"""
_VALIDATE_EXAMPLES = """  vgp validate -c planner.yaml -c data/hopper-medium.yaml --ckpt_path last"""

# What users see of the flags of all verbs: how each is written, and what it does.
FLAGS = {
    "quiet": ("--quiet", "print nothing but errors"),
    "dry_run": ("--dry_run", "print what would be done, and what it would take, measured for a moment"),
    "json": ("--json FILE", "write the report there too; -: to standard output, all else to standard error"),
}


def overview(verbs: Mapping[str, str]) -> str:
    """Return the help of the whole command.

    Args:
        verbs: Each verb, with what it does.
    """
    width = max(map(len, verbs)) + 2
    lines = "\n".join(f"  {verb:<{width}}{what}" for verb, what in verbs.items())
    return (
        f"usage: vgp VERB [options]\n\nFrom offline episodes to a planner that acts.\n\n{lines}\n\n"
        "vgp VERB --help            a verb's options, with an example; each can be in a file named with -c\n"
        "vgp --version              the versions of vgp and of the libraries that decide its results\n"
        "vgp --print_completion bash > FILE   completion for bash, or zsh, tcsh; then: source FILE\n\n"
        "Hyphens and underscores are alike in the names of options. Begin with: vgp demo"
    )


def fit_help(verb: str, what: str) -> str:
    """Return the short help of ``vgp fit`` or ``vgp validate``."""
    options = "\n".join(_line(f"--{name} {value}", meaning) for name, value, meaning in FIT_OPTIONS)
    examples = _FIT_EXAMPLES if verb == "fit" else _VALIDATE_EXAMPLES
    return _FIT.format(verb=verb, what=what, options=options, flags=flags_help(flags_of(verb)), examples=examples)


def flags_help(names: tuple[str, ...]) -> str:
    """Return the lines of the flags of these names."""
    return "\n".join(_line(*FLAGS[name]) for name in names)


def _line(option: str, meaning: str) -> str:
    return f"  {option:<41}{meaning}"


def versions() -> str:
    """Return the versions of the package, of Python, and of the libraries that decide its results."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    lines = [f"vgp_lightning {__version__}", f"python {platform.python_version()} on {platform.platform()}"]
    for name in _LIBRARIES:
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} is missing")
    return "\n".join(lines)
