"""From offline episodes to a planner that acts: value-guided diffusion planning.

Nouns stand here, verbs in their rooms; torch is imported when the first of them is asked for.
"""

from typing import Any

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Return a noun; they are attached at the first look, since to read their list takes as long as ``vgp --help``."""
    import lazy_loader

    attached = lazy_loader.attach_stub(__name__, __file__)
    globals().update(zip(("__getattr__", "__dir__", "__all__"), attached, strict=True))
    return attached[2] if name == "__all__" else attached[0](name)


def __dir__() -> list[str]:
    """Return the nouns."""
    return list(__getattr__("__all__"))
