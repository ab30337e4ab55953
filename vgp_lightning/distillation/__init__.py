"""A planner's folder to a small network in it: a habit that acts in its place, or a critic that ranks its plans."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
