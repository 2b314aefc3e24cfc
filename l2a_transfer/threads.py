"""How many threads arithmetic takes, and how they wait for each other: decided before an OpenMP runtime is loaded.

The threads of GNU's OpenMP, which torch and scikit-learn bring with them, spin for a while before they sleep. Beside
another process on the same cores that costs much of the time, because the thread that is waited for may not run.
Nothing here imports torch.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

from l2a_transfer.control_groups import PROC, control_groups, lines, number_in

WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""How long threads spin, for GNU's runtime (times around a loop) and for Intel's and LLVM's (milliseconds)."""
DECIDED = ("OMP_WAIT_POLICY", *WAITING)
"""Where one of these is set, the user has decided."""
RUNTIMES = ("torch", "sklearn", "faiss")
"""Modules that load an OpenMP runtime, after which the environment is not read again."""


def prepare_threads(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Let waiting threads sleep soon, and take no more threads than this process may use.

    Call it before `import torch`; the command line, its decoding processes, Ray's actors and torchrun's ranks do so.
    What the user has set in the environment stays: `OMP_WAIT_POLICY`, `GOMP_SPINCOUNT` or `KMP_BLOCKTIME`, and
    `OMP_NUM_THREADS`.

    Parameters
    ----------
    environment : mutable mapping
        Changed in place; that of this process by default.

    Returns
    -------
    bool
        Whether it can have an effect here: False if torch, scikit-learn or FAISS is imported already.
    """
    environment.update(waiting(environment))
    cores = usable_cores()
    if "OMP_NUM_THREADS" not in environment and cores < visible_cores():
        environment["OMP_NUM_THREADS"] = str(cores)
    return not any(name in sys.modules for name in RUNTIMES)


def waiting(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables by which threads wait: those that the environment has, or where it has none `WAITING`."""
    return {name: environment[name] for name in DECIDED if name in environment} or dict(WAITING)


def visible_cores() -> int:
    """The cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cores(proc: Path = PROC) -> int:
    """How many cores' time this process may take: those it may run on, or the quota of its control groups if less.

    Parameters
    ----------
    proc : Path
        The proc file system.

    Returns
    -------
    int
        At least 1; of a quota of 1.5 cores 2.
    """
    return max(1, min([visible_cores(), *(math.ceil(quota) for quota in _quotas(proc))]))


def _quotas(proc: Path) -> Iterator[float]:
    """Cores that each control group of this process may keep busy; none for groups without a quota."""
    for version, folder in control_groups("cpu", proc):
        if version == 2:
            text = "".join(lines(folder / "cpu.max")[:1]).split()  # `150000 100000`, or `max 100000`
            given = [int(part) for part in text if part.isascii() and part.isdecimal() and len(part) <= 20]
        else:
            numbers = (number_in(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))  # no quota is -1
            given = [number for number in numbers if number is not None]
        if len(given) == 2 and given[1] > 0 and given[0] > 0:
            yield given[0] / given[1]
