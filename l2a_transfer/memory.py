"""How much memory this process may still allocate, given the machine, its control groups and its own limits."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from l2a_transfer.documents import memory_of
from l2a_transfer.errors import MemoryLimitError

PROC = Path("/proc")
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
            f"{what} takes about {mebibytes(needed)}, and this process may take {mebibytes(usable)} more", remedy
        )


def require_memory_to_parse(content: bytes, path: str | Path) -> None:
    """Raises: MemoryLimitError where the values of a JSON document would not fit into memory, before it is parsed."""
    require_memory(memory_of(content), f"{path}: a JSON document of {mebibytes(len(content))}", "use a smaller file")


def mebibytes(count: int) -> str:
    """A number of bytes as text, rounded up: `1,537 MiB`."""
    return f"{-(-count >> 20):,} MiB"


def _machine_memory(proc: Path) -> int:
    available = _fields(proc / "meminfo").get("MemAvailable")
    if available is not None:  # includes the file cache, which can be reclaimed; sysconf's free pages do not
        return available * 1024
    with suppress(ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return sys.maxsize


def _process_memory(proc: Path) -> Iterator[int]:
    status = _fields(proc / "self/status")
    for limit, key in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            yield soft - status.get(key, 0) * 1024


def _group_memory(proc: Path) -> Iterator[int]:
    """What is left in each group of this process, from its own to the highest visible one."""
    for version, mount, own in _groups(proc):
        for folder in (own, *own.parents):
            stat = _fields(folder / "memory.stat")
            cache = sum(stat.get(key, 0) for key in CACHE[version])
            used = max(0, (_number(folder / USAGE[version]) or 0) - cache)
            limits = [*(_number(folder / name) for name in LIMITS[version]), stat.get(HIERARCHICAL_LIMIT)]
            yield from (limit - used for limit in limits if limit is not None)
            if folder == mount:
                break


def _groups(proc: Path) -> Iterator[tuple[int, Path, Path]]:
    """(version, mount point, folder of this process) of each mounted hierarchy that can limit memory.

    A container sees its own group at the mount point, whatever its path is outside the container.
    """
    paths = dict(_group_paths(proc))
    for line in _lines(proc / "self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        if version not in paths or (version == 1 and "memory" not in kind[2].split(",")):
            continue
        mount = Path(_unescaped(fields[4]))
        inside = PurePosixPath(paths[version]), PurePosixPath(_unescaped(fields[3]))
        seen = ".." not in inside[0].parts and inside[0].is_relative_to(inside[1])
        yield version, mount, mount / inside[0].relative_to(inside[1]) if seen else mount


def _group_paths(proc: Path) -> Iterator[tuple[int, str]]:
    """(version, path of this process's group) from /proc/self/cgroup: `4:memory:/a`, `0::/a`."""
    for line in _lines(proc / "self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/") and "memory" in controllers.split(","):
            yield 1, path
        elif path.startswith("/") and number == "0" and not controllers:
            yield 2, path


def _unescaped(text: str) -> str:
    """A path of mountinfo, in which a space is written as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _number(path: Path) -> int | None:
    """The number in a file; None if the file is missing or holds something else, as `max`."""
    text = "".join(_lines(path)).strip()
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None


def _fields(path: Path) -> dict[str, int]:
    """Numbers by name from lines such as `NAME 123` or `NAME:  123 kB`; other lines are ignored."""
    found = (re.fullmatch(r"(\w+):?\s+([0-9]{1,20})(?: kB)?\s*", line) for line in _lines(path))
    return {match[1]: int(match[2]) for match in found if match}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
