"""The pictures that a command line names: files and folders first, then a data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from PIL import Image

    from l2a_transfer.explain.question import Asked
    from l2a_transfer.explain.subject import Subject

TRUE = "true"
"""The name of the class option that explains the true class."""


class Pictures:
    """The pictures of the command line: files and folders first, then a data set."""

    def __init__(self, images: Sequence[Path], given: dict[str, Any]) -> None:
        from l2a_transfer.cli.maps import called, pictures_below
        from l2a_transfer.data.decode import decode_file
        from l2a_transfer.data.readers import open_source

        if not images and not given["data"]:
            raise click.UsageError("name images, folders of images, or --data")
        paths = [picture for path in images for picture in pictures_below(path)]
        self.names = called(paths)
        self.true: list[str | None] = [None] * len(paths)
        self.groups: list[str | None] = [_folder(path) for path in paths]
        self._open: list[Callable[[], Image.Image]] = [lambda path=path: decode_file(path) for path in paths]  # type: ignore[misc]
        self.name = "files"
        if given["data"]:
            keys = ("data_dir", "split", "limit", "download", "split_from", "verify_source")
            source = open_source(given["data"], **{key: given[key] for key in keys})
            self.name = source.name if not paths else f"files and {source.name}"
            self.names += source.ids
            labels = [source.classes[label] if label >= 0 else None for label in source.labels.tolist()]
            self.true += labels
            self.groups += labels
            self._open += [lambda row=row: source.image(row) for row in range(len(source))]  # type: ignore[misc]
        self.names = _told_apart(self.names)

    def targets(self, wanted: str, subject: Subject) -> list[int | None]:
        """The class of each picture. Raises: ArgumentError if the network does not know it; DataError if the true class
        was requested and a picture has no label."""
        from l2a_transfer.errors import DataError
        from l2a_transfer.explain.targets import class_index

        if wanted != TRUE or TRUE in subject.classes:
            return [class_index(wanted, subject.classes, subject.num_classes)] * len(self.names)
        found = []
        for name, label in zip(self.names, self.true, strict=True):
            if label is None:
                raise DataError(
                    f"{name}: has no label, but the class to explain is the true class",
                    "use `data` with labels, such as imagefolder:PATH, or name a class",
                )
            found.append(class_index(label, subject.classes, subject.num_classes))
        return found

    def asked(self, targets: Sequence[int | None], *, progress: bool, what: str = "maps") -> Iterator[Asked]:
        """The pictures, decoded when needed."""
        import sys

        from tqdm import tqdm

        from l2a_transfer.explain.question import Asked

        rows = zip(self.names, self._open, targets, self.groups, strict=True)
        with tqdm(total=len(self.names), desc=what, unit="image", file=sys.stderr, disable=not progress) as bar:
            for name, opened, target, group in rows:
                yield Asked(name, opened(), target, group)
                bar.update()


def _folder(path: Path) -> str:
    """The class of a picture outside a data set, which is the name of its folder."""
    from l2a_transfer.data.names import class_name

    folder = os.path.basename(os.path.dirname(os.path.abspath(path)))
    return class_name(os.fsencode(folder).decode(errors="replace")) or "/"


def _told_apart(names: Sequence[str]) -> list[str]:
    """The names, with a number after each repeated name."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
