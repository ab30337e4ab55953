"""A page in the browser: an environment live beside the plans that are made for it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
