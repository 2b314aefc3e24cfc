"""Train a VGG that pays attention, freeze it, and measure how well its attended features generalize.

The names in `__init__.pyi` are the package's interface, described in docs/api.md; everything else may change. They are
imported when they are first used, so that importing the package does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
