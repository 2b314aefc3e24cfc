"""Train a VGG that pays attention, freeze it, and measure how well its attended features generalize.

The names in `__init__.pyi` are the package's interface, described in docs/api.md; everything else may change. They are
imported when they are first used, so that importing the package does not import torch.
"""

import sys

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name in __all__:
        return _load(name)
    from l2a_transfer.errors import did_you_mean

    hint = "" if name.startswith("_") else did_you_mean(name, __all__)
    # With `obj` and no `name`, Python adds no suggestion of its own to the traceback.
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", obj=sys.modules[__name__])
