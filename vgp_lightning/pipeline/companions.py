"""Companions: small networks that lie beside a planner in its folder, and are loaded when they are asked for.

A habit answers in place of the planner, a critic ranks its candidates. Each has a subfolder of its own.
"""

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from diffusers import ModelMixin

from .inputs import as_number, shorten
from .loading import name_folder, read_object
from .weights import check_stored, find_unsound_weight

CompanionT = TypeVar("CompanionT", bound=ModelMixin)

# Far above any companion, which has to answer in less time than a denoising step takes.
_LARGEST_WIDTH, _MOST_LAYERS = 65_536, 64


class Place(NamedTuple):
    """Where a kind of companions lies in a pipeline folder.

    Attributes:
        name: What it is called, and its subfolder.
        verb: The command that makes one.
    """

    name: str
    verb: str

    @property
    def folders(self) -> tuple[str, str]:
        """The subfolder, and where the companion before it lies while it is being replaced."""
        return self.name, f"{self.name}.old"


HABIT, CRITIC = Place("habit", "vgp distill"), Place("critic", "vgp critic")


def has_companion(folder: Path, place: Place) -> bool:
    """Return whether a pipeline folder holds such a companion."""
    return any(_holds_companion(folder / name) for name in place.folders)


def find_companion(folder: Path, place: Place) -> Path:
    """Return the subfolder of a pipeline folder that holds its companion.

    Raises:
        ValueError: If it has none.
    """
    for name in place.folders:
        if _holds_companion(folder / name):
            return folder / name
    raise ValueError(f"{folder} has no {place.name}: make one by {place.verb} {folder}")


def _holds_companion(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def open_companion(kind: type[CompanionT], place: Place, origin: str | Path | None, device: torch.device) -> CompanionT:
    """Load the companion of a pipeline folder.

    Args:
        kind: Its class.
        place: Where it lies.
        origin: The folder, or the name of one on the Hugging Face Hub; None: the planner was not loaded from one.
        device: Where it shall answer.

    Raises:
        ValueError: If there is none, or a file is damaged, which the message names.
        OSError: If a file is missing.
    """
    if origin is None:
        raise ValueError(f"this planner was not loaded from a folder, so it has no {place.name}: load it from one")
    options = {"low_cpu_mem_usage": False, "use_safetensors": True, "torch_dtype": torch.float32}
    if Path(origin).is_dir():
        folder = find_companion(Path(origin), place)
        with name_folder(folder):
            _compare_with_weights(kind, place, folder)
            companion = kind.from_pretrained(folder, **options)
    else:
        companion = kind.from_pretrained(str(origin), subfolder=place.name, **options)
    if weight := find_unsound_weight(companion):
        raise ValueError(f"weight {weight} of the {place.name} in {origin} is not finite: {place.verb} {origin}")
    companion.requires_grad_(False)
    moved: CompanionT = companion.to(device).eval()
    return moved


def _compare_with_weights(kind: type[ModelMixin], place: Place, folder: Path) -> None:
    """Compare a companion with its weights' file before it is built in memory.

    Raises:
        ValueError: If its config describes none, or the weights do not fit it.
    """
    config = read_object(folder / "config.json")
    try:
        with torch.device("meta"):  # names and shapes, without memory
            network = kind.from_config(config)
    except Exception as error:  # diffusers raises whatever comes of a wrong entry
        raise ValueError(f"{folder / 'config.json'} describes no {place.name}: {error}") from error
    file = folder / "diffusion_pytorch_model.safetensors"
    if not file.is_file():
        raise ValueError(f"{file} is missing: make it anew, {place.verb} FOLDER")
    number = sum(weight.numel() for weight in network.parameters())
    if number > file.stat().st_size:  # whatever its header says
        raise ValueError(
            f"{folder / 'config.json'} describes a {place.name} of {number} weights, but {file} is smaller"
        )
    check_stored(place.name, network, folder)


def check_widths(widths: Any) -> None:
    """Refuse hidden layers that no companion has, before memory is taken for them.

    Raises:
        ValueError: If the widths are no list of whole numbers in their range.
    """
    entries = list(widths) if isinstance(widths, list | tuple) else []
    sizes = [as_number(width, whole=True) for width in entries]
    if not 1 <= len(sizes) <= _MOST_LAYERS or not all(size and 1 <= size <= _LARGEST_WIDTH for size in sizes):
        raise ValueError(
            f"widths are {shorten(widths)}: a list of 1 to {_MOST_LAYERS} whole numbers between 1 and {_LARGEST_WIDTH} "
            "is needed"
        )
