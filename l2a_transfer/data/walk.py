"""Goes through folders of any depth, whose links may lead back into them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress


def walk_folders(
    root: str | os.PathLike[str], *, enter: Callable[[str], bool] = lambda name: True, without: Iterable[str] = ()
) -> Iterator[tuple[str, list[str]]]:
    """Each folder from `root` on, by path, with the names of its files.

    Parameters
    ----------
    root : str or path
        Where to begin.
    enter : callable
        Whether a folder of that name is looked into.
    without : iterable of str
        Paths of folders that are not looked into.

    Yields
    ------
    folder : str
        Its path, which begins with `root`. Links to folders are followed; a folder that several paths lead to comes
        once, under the first of them.
    names : list of str
        Of its files, in no order.

    Raises
    ------
    OSError
        For a folder that cannot be read.
    """
    # os.walk calls itself for each level before Python 3.12, and glob's ** does not end where two links lead back.
    visited = {_identity(path) for path in without if os.path.exists(path)}
    pending = [os.fspath(root)]
    while pending:
        here = pending.pop()
        own = _identity(here)
        if own in visited:
            continue
        visited.add(own)
        folders: list[str] = []
        names: list[str] = []
        with os.scandir(here) as entries:
            for entry in entries:
                is_folder = False
                with suppress(OSError):
                    is_folder = entry.is_dir()
                (folders if is_folder else names).append(entry.name)
        pending += [os.path.join(here, name) for name in sorted(folders, reverse=True) if enter(name)]
        yield here, names


def _identity(path: str | os.PathLike[str]) -> tuple[int, int]:
    """What tells a folder apart from all others, whatever path leads to it."""
    found = os.stat(path)
    return found.st_dev, found.st_ino
