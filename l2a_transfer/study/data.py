"""The data sets of a study as they are on disk now: has one changed since its features were extracted?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import DataError
from l2a_transfer.study.config import Images, Study


class DataSets:
    """Fingerprints of a study's targets, each of which is opened once, and not before it is asked for."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._found: dict[str, str | None] = {}

    def fingerprint(self, target: str) -> str | None:
        """As `extract` computes it; None where the data set is not there, so that nothing can be said."""
        if target not in self._found:
            try:
                images = self.study.targets[target].images
                self._found[target] = open_source(**_options(self.study.folder, images)).fingerprint()
            except (DataError, OSError):
                self._found[target] = None
        return self._found[target]


def _options(folder: Path, images: Images) -> dict[str, Any]:
    """What `open_source` takes; paths that are relative to the study's file are seen from there."""
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
