"""Explanations: which exceptions are a user's to cure, and in which words."""

import errno
import importlib.util
import os
import pickle
import re
import tempfile
import traceback

from vgp_lightning import __version__

# Other packages' words for a user's error: class and module, because this file imports none of them.
_USERS = {
    ("MisconfigurationException", "lightning"),
    ("Error", "gymnasium"),
    ("SafetensorError", "safetensors_rust"),
    ("SafetensorError", "safetensors"),
}
_EXTRAS = {"gymnasium_robotics": "'vgp_lightning[maze]'"}
_CAUSES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "the permission is missing",
    errno.EPERM: "the permission is missing",
    errno.EROFS: "it is on a read-only file system",
    errno.ENOENT: "it does not exist",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.EEXIST: "it exists already, and is no folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EFBIG: "it is larger than the system allows",
    errno.EMFILE: "too many files are open (ulimit -n)",
}


def explain(error: BaseException) -> str | None:
    """Return what a user can read and cure, or None if the exception is not one that a user causes.

    Args:
        error: What a verb raised.
    """
    if isinstance(error, MemoryError) or _lacks_memory(error):
        return (
            "there is not enough memory: use smaller numbers, such as --batch_size, --environments or --data.horizon"
            f" ({_first_line(error) or type(error).__name__})"
        )
    if isinstance(error, ModuleNotFoundError):
        return _missing_package(error)
    if isinstance(error, ImportError) and "pip install" in str(error):
        return _first_line(error)
    if isinstance(error, OSError) and error.errno is not None:
        return _of_the_system(error)
    if _is_of_renderer(error):
        here = os.environ.get("MUJOCO_GL", "")
        return (
            f"MuJoCo cannot draw with MUJOCO_GL={here}: {_first_line(error)}. Set MUJOCO_GL to egl, osmesa or glfw, "
            "whichever is installed here, or leave it unset"
        )
    if isinstance(error, RuntimeError) and re.search(r"CUDA|cuDNN|NCCL", str(error)):
        cpu = "--device cpu, or, for vgp fit, --trainer.accelerator cpu, works without one"
        return f"the GPU failed: {_first_line(error)}. {cpu}"
    if isinstance(error, ValueError | OSError | FloatingPointError | pickle.UnpicklingError):
        return _own_words(error)
    names = {(kind.__name__, kind.__module__.partition(".")[0]) for kind in type(error).__mro__}
    return str(error) if names & _USERS else None


def mark_as_bug(error: BaseException) -> None:
    """Add to an exception that no user has caused what its traceback is to end with."""
    error.add_note(
        f"vgp: this is a bug, of vgp_lightning {__version__} or of what the last lines name. Please report it with all "
        "of these lines. (VGP_TRACEBACK=1 shows such lines for every error.)"
    )


def _own_words(error: BaseException) -> str:
    """Return the words of the error that this package raised, where jsonargparse has wrapped it in its own."""
    cause: BaseException | None = error
    while cause is not None:
        frames = list(traceback.walk_tb(cause.__traceback__))
        if frames and frames[-1][0].f_globals.get("__name__", "").startswith("vgp_lightning."):
            return str(cause)
        cause = cause.__cause__
    return str(error) or type(error).__name__


def _of_the_system(error: OSError) -> str:
    path = error.filename if error.filename is not None else None
    cause = _CAUSES.get(error.errno or 0, error.strerror)
    if path is None:
        return f"{cause} ({error}); temporary files go to {tempfile.gettempdir()}"
    return f"{os.fsdecode(path) if isinstance(path, str | bytes) else path}: {cause} ({error.strerror})"


def _missing_package(error: ModuleNotFoundError) -> str | None:
    """Return how to install what is missing, unless it is this package's own."""
    name = (error.name or "").partition(".")[0]
    if not name or name == "vgp_lightning" or importlib.util.find_spec(name) is not None:
        return None
    return f"the package {name} is not installed: pip install {_EXTRAS.get(name, name.replace('_', '-'))}"


def _lacks_memory(error: BaseException) -> bool:
    """Return whether torch could not get the memory that it asked for."""
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    )


def _is_of_renderer(error: BaseException) -> bool:
    """Return whether MuJoCo found no way to draw."""
    if "MUJOCO_GL" not in os.environ or not isinstance(error, RuntimeError | ImportError | AttributeError):
        return False
    modules = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
    return any(name.startswith(("mujoco", "OpenGL", "gymnasium.envs.mujoco")) for name in modules)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else ""
