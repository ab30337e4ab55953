"""From offline episodes to a planner that acts: value-guided diffusion planning.

Nouns stand here, verbs in their rooms; torch is imported when the first of them is asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.2.0"
