"""How much memory this process may still allocate, given the machine, its control groups and its own limits."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from l2a_transfer.control_groups import PROC, control_groups, fields_of, number_in
from l2a_transfer.documents import memory_of
from l2a_transfer.errors import MemoryLimitError

LIMITS = {1: ("memory.limit_in_bytes",), 2: ("memory.max", "memory.high")}
USAGE = {1: "memory.usage_in_bytes", 2: "memory.current"}
CACHE = {1: ("total_inactive_file", "total_active_file"), 2: ("inactive_file", "active_file")}
"""Per version of control groups: the files with limits and usage, and the part of the usage that is file cache."""
HIERARCHICAL_LIMIT = "hierarchical_memory_limit"
"""In memory.stat of version 1: the smallest limit of a group and its parents, also of those outside a container."""


def usable_memory(proc: Path = PROC) -> int:
    """Bytes that this process may still allocate before the kernel refuses, kills it, or swaps.

    This is the minimum of three: the memory that the machine has available (or its total memory, if only that is
    known), what is left of the limit of each memory control group of the process and its parents (version 1 or 2), and
    what is left of RLIMIT_AS and RLIMIT_DATA. Limits that cannot be read are ignored.

    Parameters
    ----------
    proc : Path
        The proc file system.

    Returns
    -------
    int
        Bytes; 0 if a limit is already exceeded.
    """
    return max(0, min([_machine_memory(proc), *_group_memory(proc), *_process_memory(proc)]))


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Raises: MemoryLimitError, before any memory is allocated, if `what` needs more bytes than are usable."""
    usable = usable_memory()
    if needed > usable:
        raise MemoryLimitError(
            f"{what} needs about {mebibytes(needed)}, and this process may use {mebibytes(usable)} more", remedy
        )


def require_memory_to_parse(content: bytes, path: str | Path) -> None:
    """Raises: MemoryLimitError if the values of a JSON document would not fit into memory. It is not parsed."""
    require_memory(memory_of(content), f"{path}: a JSON document of {mebibytes(len(content))}", "use a smaller file")


def mebibytes(count: int) -> str:
    """A number of bytes as text, rounded up: `1,537 MiB`."""
    return f"{-(-count >> 20):,} MiB"


def _machine_memory(proc: Path) -> int:
    available = fields_of(proc / "meminfo").get("MemAvailable")
    if available is not None:  # includes the file cache, which can be reclaimed; sysconf's free pages do not
        return available * 1024
    with suppress(ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return sys.maxsize


def _process_memory(proc: Path) -> Iterator[int]:
    status = fields_of(proc / "self/status")
    for limit, key in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            yield soft - status.get(key, 0) * 1024


def _group_memory(proc: Path) -> Iterator[int]:
    """Remaining bytes in each group of this process, from its own to the highest visible one."""
    for version, folder in control_groups("memory", proc):
        limits = [number_in(folder / name) for name in LIMITS[version]]
        if version == 2 and limits == [None] * len(limits):
            continue  # nothing to subtract usage from; reading memory.stat is slow, because the kernel adds it up
        stat = fields_of(folder / "memory.stat")
        cache = sum(stat.get(key, 0) for key in CACHE[version])
        used = max(0, (number_in(folder / USAGE[version]) or 0) - cache)
        yield from (limit - used for limit in (*limits, stat.get(HIERARCHICAL_LIMIT)) if limit is not None)
