"""The error tree, and the sentence that every "unknown name" error uses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Explained(BaseException):
    """What is wrong and, where there is one, a remedy; as text the two are joined by a semicolon.

    A remedy names parameters in backticks, as `overwrite=True` or `out`: the command line shows them as its options.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)  # which an exception keeps as `args`, and is pickled with
        self.problem, self.remedy = problem, remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


class L2AError(Explained, Exception):
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


class DeviceError(L2AError):
    """A device or a precision was asked for that this machine does not have."""


class OutputExistsError(L2AError):
    """The output is already there, and nobody said what to do with it."""


class TrainingError(L2AError):
    """A training run that cannot start, go on, or be resumed."""


class DamagedCheckpointError(TrainingError):
    """A checkpoint that was read and that no run has written."""


class NotFiniteError(TrainingError):
    """The loss or the weights of a run are NaN or infinite; the message names the step and the learning rate."""


class EvaluationError(L2AError):
    """Features or labels that a protocol cannot be run on."""


class MemoryLimitError(L2AError):
    """Work that takes more memory than this process may still use; raised before it begins."""


class StudyError(L2AError):
    """A study's file that says something wrong, or a study's folder that is another study's."""


class MissingExtraError(L2AError):
    """An optional package that is not installed; the message carries the command that installs it."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs the package {package}", f"install it with: pip install 'l2a-transfer[{extra}]'")
        self.args = (what, package, extra)  # what a copy by pickle is made from


class PluginError(L2AError):
    """A plugin that cannot be loaded, or that declares a name twice or one that cannot be."""


class ArgumentError(Explained, ValueError):
    """A value that an argument cannot have; the problem begins with the argument's name. The command line exits 2."""


class UnknownNameError(ArgumentError):
    """A name that is not in its table; the message carries the nearest valid ones."""


class Interrupted(Explained, KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after what was done until then was saved; the message says where."""


def wrong_kind(argument: str, expected: str, got: object) -> TypeError:
    """The error for an argument of another kind than `expected`, which says what to pass."""
    return TypeError(f"{argument} must be {expected}; got {type(got).__name__}")


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
