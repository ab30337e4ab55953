"""Windows to checkpoints: the modules that ``vgp fit`` trains, and what Lightning lacks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
