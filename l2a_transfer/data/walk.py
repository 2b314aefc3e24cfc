"""Walk through folders of any depth, even if links in them form cycles."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress


def walk_folders(
    root: str | os.PathLike[str], *, enter: Callable[[str], bool] = lambda name: True, without: Iterable[str] = ()
) -> Iterator[tuple[str, list[str]]]:
    """Yield `root` and all folders below it by path, with the names of their files.

    Parameters
    ----------
    root : str or path
        Where to start.
    enter : callable
        Whether to enter a folder of this name.
    without : iterable of str
        Paths of folders to skip.

    Yields
    ------
    folder : str
        Its path, which begins with `root`. Links to folders are followed; a folder with several paths is yielded once,
        under the first of them.
    names : list of str
        The names of its files, in no particular order.

    Raises
    ------
    OSError
        If a folder cannot be read.
    """
    # Before Python 3.12, os.walk is recursive; and glob's ** never ends if two links lead back.
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
    """A unique identity of a folder, independent of the path."""
    found = os.stat(path)
    return found.st_dev, found.st_ino
