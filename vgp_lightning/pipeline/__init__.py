"""An observation to a plan. What lies in this room travels: every exported folder carries it, joined to one file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
