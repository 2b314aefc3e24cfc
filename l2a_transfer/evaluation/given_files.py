"""Checks on the paths of feature files before any of them is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from l2a_transfer.errors import ArgumentError, EvaluationError
from l2a_transfer.features.store.views import VerifiedFile
from l2a_transfer.inputs import check_input


def check_given(paths: Sequence[Path]) -> None:
    """Raises: ArgumentError for no paths; EvaluationError for a duplicate path, a folder, or a missing file."""
    if not paths:
        raise ArgumentError("at least one feature file is needed")
    twice = [str(path) for path, n in Counter(path.resolve() for path in paths).items() if n > 1]
    if twice:
        raise EvaluationError(f"{twice[0]}: given twice; name each feature file once")
    for path in paths:
        if path.is_dir():
            raise EvaluationError(f"{path}: is a folder; name the feature files in it")
        try:
            check_input(path)
        except FileNotFoundError as error:
            raise EvaluationError(f"{path}: no such file; create feature files with 'l2a-transfer extract'") from error
        except OSError as error:
            raise EvaluationError(f"{path}: cannot be read: {error.strerror or error}") from error


def check_contents(path: Path, file: VerifiedFile, known: dict[str, Path]) -> None:
    """Add a file's digest to `known`. Raises: EvaluationError if another path has the same content."""
    if known.setdefault(file.sha256, path) != path:
        raise EvaluationError(
            f"{path}: has the same content as {known[file.sha256]}, and a model is not compared with its own copy",
            "name one of the two",
        )
