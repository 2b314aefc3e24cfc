"""The error tree, and the sentence that every "unknown name" error uses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class L2AError(Exception):
    """Base of every error about a file, a store, weights or a backend; the command line exits 1."""


class WeightsError(L2AError):
    """A weights file that is damaged, incomplete, or belongs to another program."""


class DataError(L2AError):
    """A data set that is missing, empty, damaged, or cannot serve the purpose asked of it."""


class SourceError(DataError):
    """Files of a data set that changed or went away while it was read: no fault of one image, and never skipped."""


class StoreError(L2AError):
    """A feature file that is truncated, changed, incomplete, unsafe, or of another schema."""


class BackendError(L2AError):
    """A device, runtime or model file that cannot run what was asked."""


class OutputExistsError(L2AError):
    """The output is already there, and nobody said what to do with it."""


class TrainingError(L2AError):
    """A training run that cannot start, go on, or be resumed."""


class NotFiniteError(TrainingError):
    """The loss or the weights of a run are NaN or infinite; the message names the step and the learning rate."""


class EvaluationError(L2AError):
    """Features or labels that a protocol cannot be run on."""


class MissingExtraError(L2AError):
    """An optional package that is not installed; the message carries the command that installs it."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs the package {package}; install it with: pip install 'l2a-transfer[{extra}]'")


class UnknownNameError(ValueError):
    """A name that is not in its table; the message carries the nearest valid ones. Exits 2."""


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that looks most like `name`, whatever its case, or None where nothing comes close."""
    folded: dict[str, str] = {}
    for candidate in valid:
        folded.setdefault(candidate.casefold(), candidate)
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return folded[found[0]] if found else None


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not in its table: all valid names, or the nearest of many."""
    names = list(valid)
    close = nearest(name, names)
    listed = ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:11])}, … ({len(names)} in all)"
    hint = f"; did you mean {close!r}?" if close else ""
    return UnknownNameError(f"{kind} must be one of {listed}; got {name!r}{hint}")
