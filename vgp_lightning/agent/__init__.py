"""From plans to actions: agents, the environments that they act in, and the episodes that they play."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
