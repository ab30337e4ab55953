"""Minari datasets -> batches of windows with their returns; and episodes -> Minari datasets."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
