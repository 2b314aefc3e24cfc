"""How much memory this process may still take: of the machine, its control groups and its own limits."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from l2a_transfer.errors import MemoryLimitError

PROC = Path("/proc")
LIMITS = {1: ("memory.limit_in_bytes",), 2: ("memory.max", "memory.high")}
USAGE = {1: "memory.usage_in_bytes", 2: "memory.current"}
CACHE = {1: ("total_inactive_file", "total_active_file"), 2: ("inactive_file", "active_file")}
"""Of each version of control groups: the files with limits and usage, and what of the usage gives way (file cache)."""
OF_PARENTS = "hierarchical_memory_limit"
"""Of version 1's memory.stat: the least limit of a group and its parents, those outside of a container included."""


def usable_memory(proc: Path = PROC) -> int:
    """Bytes that this process may still take before the kernel refuses them, ends it, or swaps.

    The least of what the machine has available (all of its memory, where only that is known), what is left of the limit
    of each memory control group (version 1 or 2) that holds the process, its parents' included, and what is left of
    RLIMIT_AS and RLIMIT_DATA. What cannot be read sets no limit. 0 where a limit is passed already.
    """
    return max(0, min([_of_machine(proc), *_of_groups(proc), *_of_own_limits(proc)]))


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Raises: MemoryLimitError, before the memory is asked for, where `what` takes more bytes than may be taken."""
    usable = usable_memory()
    if needed > usable:
        raise MemoryLimitError(
            f"{what} takes about {mebibytes(needed)}, and this process may take {mebibytes(usable)} more", remedy
        )


def mebibytes(count: int) -> str:
    """Bytes in words, rounded up: 1,537 MiB."""
    return f"{-(-count >> 20):,} MiB"


def _of_machine(proc: Path) -> int:
    available = _fields(proc / "meminfo").get("MemAvailable")
    if available is not None:  # free, and the file cache, which gives way; sysconf's free pages leave that out
        return available * 1024
    with suppress(ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return sys.maxsize


def _of_own_limits(proc: Path) -> Iterator[int]:
    status = _fields(proc / "self/status")
    for limit, key in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            yield soft - status.get(key, 0) * 1024


def _of_groups(proc: Path) -> Iterator[int]:
    """What is left in each group that holds this process, from its own up to the highest that can be seen."""
    for version, mount, own in _groups(proc):
        for folder in (own, *own.parents):
            stat = _fields(folder / "memory.stat")
            cache = sum(stat.get(key, 0) for key in CACHE[version])
            used = max(0, (_number(folder / USAGE[version]) or 0) - cache)
            limits = [*(_number(folder / name) for name in LIMITS[version]), stat.get(OF_PARENTS)]
            yield from (limit - used for limit in limits if limit is not None)
            if folder == mount:
                break


def _groups(proc: Path) -> Iterator[tuple[int, Path, Path]]:
    """(version, mount point, folder of this process) of each mounted hierarchy that may limit memory.

    A container sees its own group at the mount point, whatever the path is called outside of it.
    """
    paths = dict(_paths(proc))
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


def _paths(proc: Path) -> Iterator[tuple[int, str]]:
    """Version → the path of this process's group in it, as /proc/self/cgroup has them: `4:memory:/a`, `0::/a`."""
    for line in _lines(proc / "self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/") and "memory" in controllers.split(","):
            yield 1, path
        elif path.startswith("/") and number == "0" and not controllers:
            yield 2, path


def _unescaped(text: str) -> str:
    """A path of mountinfo, where a space is \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _number(path: Path) -> int | None:
    """The number that a file holds; None where it is not there, or holds something else, as `max`."""
    text = "".join(_lines(path)).strip()
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None


def _fields(path: Path) -> dict[str, int]:
    """`NAME 123` or `NAME:  123 kB`, a line each, as numbers by name; other lines are left out."""
    found = (re.fullmatch(r"(\w+):?\s+([0-9]{1,20})(?: kB)?\s*", line) for line in _lines(path))
    return {match[1]: int(match[2]) for match in found if match}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
