"""A planner's folder to a habit in it: a small network that acts as the planner does, without planning."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
