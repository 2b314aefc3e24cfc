"""Where a study's files lie: the one place that makes a path out of names, none of which can lead out of its folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from l2a_transfer.errors import StudyError

LONGEST = 100
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._+-]{{0,{LONGEST - 1}}}")
"""What can be the name of a file on every system, and has none of the characters that join names."""
PART = re.compile(rf"{NAME.pattern}(?:@{NAME.pattern})?")
"""One part of a path: a name, or NETWORK@SOURCE."""
WEIGHTS = "*.safetensors"
"""The only pattern that a path may end in."""


def path_below(out: Path, relative: str) -> Path:
    """The path `relative`, of names joined by slashes, below the study's folder `out`.

    Raises: StudyError for a part that is not a plain name, and where the path is or crosses a link: what a study
    replaces and removes would then lie elsewhere.
    """
    *folders, last = relative.split("/")
    for part in [*folders, *([] if last == WEIGHTS and folders else [last])]:
        if not PART.fullmatch(part):
            raise StudyError(f"{out}: {relative!r:.200} is not a path in it, because of {part!r:.100}")
    path = out / relative
    real = os.path.realpath(path)
    if real != os.path.join(os.path.realpath(out), *folders, last):
        raise StudyError(f"{path}: a link leads from there to {real}", "put what it names in its place")
    return path
