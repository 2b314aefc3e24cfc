"""Set the number of threads for arithmetic, and how they wait, before an OpenMP runtime is loaded.

Threads of GNU's OpenMP, which torch and scikit-learn ship, spin for a while before they sleep. If another process uses
the same cores, this wastes much of the time, because the thread that others wait for may not be running. Nothing here
imports torch.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

from l2a_transfer.control_groups import PROC, control_groups, lines, number_in

WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""How long threads spin, for GNU's runtime (loop iterations) and for Intel's and LLVM's (milliseconds)."""
DECIDED = ("OMP_WAIT_POLICY", *WAITING)
"""If one of these is set, the user's choice is kept."""
RUNTIMES = ("torch", "sklearn", "faiss")
"""Modules that load an OpenMP runtime, after which the environment is not read again."""


def prepare_threads(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Make waiting threads sleep soon, and use no more threads than this process has cores.

    Call it before `import torch`; the command line, its decoding processes, Ray's actors and torchrun's ranks do so.
    The user's own settings in the environment are kept: `OMP_WAIT_POLICY`, `GOMP_SPINCOUNT` or `KMP_BLOCKTIME`, and
    `OMP_NUM_THREADS`.

    Parameters
    ----------
    environment : mutable mapping
        Changed in place; by default that of this process.

    Returns
    -------
    bool
        Whether this has an effect: False if torch, scikit-learn or FAISS is already imported.
    """
    environment.update(waiting(environment))
    cores = usable_cores()
    if "OMP_NUM_THREADS" not in environment and cores < visible_cores():
        environment["OMP_NUM_THREADS"] = str(cores)
    return not any(name in sys.modules for name in RUNTIMES)


def waiting(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that control how threads wait: those in the environment, or `WAITING` if there are none."""
    return {name: environment[name] for name in DECIDED if name in environment} or dict(WAITING)


def visible_cores() -> int:
    """The cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cores(proc: Path = PROC) -> int:
    """How many cores this process may use: those that it may run on, or the quota of its control groups if lower.

    Parameters
    ----------
    proc : Path
        The proc file system.

    Returns
    -------
    int
        At least 1; a quota of 1.5 cores is rounded up to 2.
    """
    return max(1, min([visible_cores(), *(math.ceil(quota) for quota in _quotas(proc))]))


def _quotas(proc: Path) -> Iterator[float]:
    """The quota in cores of each control group of this process that has one."""
    for version, folder in control_groups("cpu", proc):
        if version == 2:
            text = "".join(lines(folder / "cpu.max")[:1]).split()  # `150000 100000`, or `max 100000`
            given = [int(part) for part in text if part.isascii() and part.isdecimal() and len(part) <= 20]
        else:
            numbers = (number_in(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))  # -1: no quota
            given = [number for number in numbers if number is not None]
        if len(given) == 2 and given[1] > 0 and given[0] > 0:
            yield given[0] / given[1]
