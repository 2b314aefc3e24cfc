"""The only place that builds a study's paths from names. No path can lead out of the study's folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from l2a_transfer.errors import StudyError

LONGEST = 100
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._+-]{{0,{LONGEST - 1}}}")
"""A valid file name on every system, without the characters that join names."""
PART = re.compile(rf"{NAME.pattern}(?:@{NAME.pattern})?")
"""One part of a path: a name, or NETWORK@SOURCE."""
WEIGHTS = "*.safetensors"
"""The only pattern that a path may end in."""


def path_below(out: Path, relative: str) -> Path:
    """The path `relative`, of names joined by slashes, below the study's folder `out`.

    Raises: StudyError if a part is not a plain name, or if the path is or crosses a link, because the study would then
    replace and remove files elsewhere.
    """
    *folders, last = relative.split("/")
    for part in [*folders, *([] if last == WEIGHTS and folders else [last])]:
        if not PART.fullmatch(part):
            raise StudyError(f"{out}: {relative!r:.200} is not a valid path in this folder, because of {part!r:.100}")
    path = out / relative
    real = os.path.realpath(path)
    if real != os.path.join(os.path.realpath(out), *folders, last):
        raise StudyError(f"{path}: is or crosses a link, to {real}", "replace the link by the files themselves")
    return path
