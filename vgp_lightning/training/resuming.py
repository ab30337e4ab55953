"""Resuming: whether a run has the settings of the checkpoint that it goes on from."""

from typing import Any

from vgp_lightning.report.documents import read_yaml

# The options that decide the weights. The number of processes does not: a batch is that of all of them together.
_DECIDING = (
    *("seed_everything", "model", "data", "ema"),
    *("trainer.max_steps", "trainer.max_epochs", "trainer.limit_train_batches", "trainer.overfit_batches"),
    *("trainer.precision", "trainer.accumulate_grad_batches"),
    *("trainer.gradient_clip_val", "trainer.gradient_clip_algorithm"),
)
# Options that earlier versions did not have, with what those did.
_LATER = {"model.init_args.stride": 1}
_FREE = ("model.init_args.compile", "data.num_workers", "data.on_device", "data.download", "data.cache_dir")


def check_same(path: str, text: str | None, config: dict[str, Any], may_differ: list[str]) -> None:
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
        return  # not written by the command line
    saved = read_yaml(text, f"vgp_config of {path}")
    if not isinstance(saved, dict):
        raise ValueError(f"vgp_config of {path} holds a {type(saved).__name__}: the file is damaged")
    here = _flat(config)
    there = {name: value for name, value in _LATER.items() if name in here} | _flat(saved)
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
