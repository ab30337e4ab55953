"""Recordings to windows: Minari datasets, cached, normalised, and drawn in batches with their returns."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
