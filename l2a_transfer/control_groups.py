"""The control groups of this process, which limit the resources of a container (Linux cgroups, versions 1 and 2)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc")


def control_groups(controller: str, proc: Path = PROC) -> Iterator[tuple[int, Path]]:
    """(version, folder) of each group of this process, from its own up to the highest visible one.

    A container sees its own group at the mount point, regardless of its path outside the container.

    Parameters
    ----------
    controller : str
        The limited resource, such as ``"memory"`` or ``"cpu"``.
    proc : Path
        The proc file system.
    """
    paths = dict(_own_paths(controller, proc))
    for line in lines(proc / "self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        if version not in paths or (version == 1 and controller not in kind[2].split(",")):
            continue
        mount = Path(_unescaped(fields[4]))
        inside = PurePosixPath(paths[version]), PurePosixPath(_unescaped(fields[3]))
        seen = ".." not in inside[0].parts and inside[0].is_relative_to(inside[1])
        own = mount / inside[0].relative_to(inside[1]) if seen else mount
        for folder in (own, *own.parents):
            yield version, folder
            if folder == mount:
                break


def _own_paths(controller: str, proc: Path) -> Iterator[tuple[int, str]]:
    """(version, path of this process's group) from /proc/self/cgroup: `4:memory:/a`, `0::/a`."""
    for line in lines(proc / "self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/") and controller in controllers.split(","):
            yield 1, path
        elif path.startswith("/") and number == "0" and not controllers:
            yield 2, path


def _unescaped(text: str) -> str:
    """A path from mountinfo, where a space is written as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def number_in(path: Path) -> int | None:
    """The number in a file; None if the file is missing or contains something else, such as `max`."""
    text = "".join(lines(path)).strip()
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None


def fields_of(path: Path) -> dict[str, int]:
    """Numbers by name from lines such as `NAME 123` or `NAME:  123 kB`; other lines are ignored."""
    found = (re.fullmatch(r"(\w+):?\s+([0-9]{1,20})(?: kB)?\s*", line) for line in lines(path))
    return {match[1]: int(match[2]) for match in found if match}


def lines(path: Path) -> list[str]:
    """The lines of a file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
