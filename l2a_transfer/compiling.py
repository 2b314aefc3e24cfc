"""Compiling with torch.compile: whether this machine can, and where the compiled code is kept."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from l2a_transfer.errors import BackendError

CACHE = "TORCHINDUCTOR_CACHE_DIR"
COMPILERS = ("g++", "clang++")


def can_compile() -> bool:
    """Whether there is a C++ compiler: the one that the variable `CXX` names, else g++ or clang++."""
    return any(map(shutil.which, [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS))


def compiled(function: Callable[..., Any], device: str, **options: Any) -> Any:
    """`function`, compiled by torch.compile for each shape that it is called with.

    The compiler's default cache is a folder with a predictable name below /tmp, from which it loads machine code, so
    another user could put code there. Unless the variable `TORCHINDUCTOR_CACHE_DIR` names a folder, the cache is
    private to this process instead and removed at its end.

    Parameters
    ----------
    function : callable
        A function or a module.
    device : str
        Where it runs, "cpu" or "cuda".
    **options
        Passed to `torch.compile`.

    Raises
    ------
    BackendError
        On a CPU, if there is no C++ compiler.
    """
    import torch

    if device == "cpu" and not can_compile():
        raise BackendError(
            "torch.compile needs a C++ compiler, and neither g++ nor clang++ is in the PATH",
            "install one, or do without `compile`",
        )
    if _is_shared(os.environ.get(CACHE, "")):
        os.environ[CACHE] = tempfile.mkdtemp(prefix="l2a-transfer-")
        atexit.register(shutil.rmtree, os.environ[CACHE], ignore_errors=True)
    return torch.compile(function, dynamic=False, **options)


def _is_shared(cache: str) -> bool:
    """Whether this is the compiler's default. Importing it sets the variable to `torchinductor_USER` below /tmp."""
    folder, name = os.path.split(cache)
    return not cache or (folder == tempfile.gettempdir() and name.startswith("torchinductor_"))
