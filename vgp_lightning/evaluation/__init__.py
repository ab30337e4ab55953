"""Returns of an agent, with confidence intervals, and comparisons of two agents."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
