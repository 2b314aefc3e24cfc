"""Detects whether a data set has changed since its features were extracted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import DataError
from l2a_transfer.study.config import Images, Study


class DataSets:
    """Fingerprints of a study's targets as they are on disk now. A target is opened when it is first needed."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._found: dict[str, str | None] = {}

    def fingerprint(self, target: str) -> str | None:
        """The fingerprint of a target, as in `extract`; None if the data set cannot be opened."""
        if target not in self._found:
            try:
                images = self.study.targets[target].images
                self._found[target] = open_source(**_options(self.study.folder, images)).fingerprint()
            except (DataError, OSError):
                self._found[target] = None
        return self._found[target]


def _options(folder: Path, images: Images) -> dict[str, Any]:
    """The arguments for `open_source`. Relative paths start at the folder of the study's file."""
    given = dict(images.options)
    kind, colon, where = images.data.partition(":")
    is_path = bool(colon) and "://" not in where
    data = f"{kind}:{folder / os.path.expanduser(where)}" if is_path else images.data
    return {
        "data": data,
        "data_dir": folder / os.path.expanduser(given["data-dir"]) if "data-dir" in given else None,
        "split": given.get("split"),
        "limit": int(given["limit"]) if "limit" in given else None,
        "split_from": given.get("split-from", "auto"),
        "verify_source": "verify-source" in given,
    }
