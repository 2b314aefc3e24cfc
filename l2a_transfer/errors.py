"""The exceptions of this package, and the message for an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Explained(BaseException):
    """An exception with a problem and an optional remedy. As text, the two are joined by a semicolon.

    Parameters
    ----------
    problem : str
        What is wrong.
    remedy : str
        What to do. It names parameters in backticks, as `overwrite=True` or `out`; the command line shows them as
        options.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)  # become `args`, which pickle uses
        self.problem, self.remedy = problem, remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


class L2AError(Explained, Exception):
    """Base class of errors about files, stores, weights and backends. The command line exits with 1."""


class WeightsError(L2AError):
    """A weights file is damaged, incomplete, or of another program."""


class DataError(L2AError):
    """A data set is missing, empty, damaged, or unsuitable for its purpose."""


class SourceError(DataError):
    """Files of a data set changed or disappeared while it was read. Such images are never skipped."""


class StoreError(L2AError):
    """A feature file is truncated, changed, incomplete, unsafe, or of another schema."""


class BackendError(L2AError):
    """A runtime or a model file cannot run what was requested."""


class DeviceError(L2AError):
    """This machine does not have the requested device or precision."""


class OutputExistsError(L2AError):
    """The output exists, and replacing it was not requested."""


class TrainingError(L2AError):
    """A training run cannot start, continue, or be resumed."""


class DamagedCheckpointError(TrainingError):
    """A checkpoint that was read and that no run has written."""


class NotFiniteError(TrainingError):
    """The loss or the weights of a run are NaN or infinite. The message names the step and the learning rate."""


class EvaluationError(L2AError):
    """A protocol cannot be applied to these features or labels."""


class MemoryLimitError(L2AError):
    """The work needs more memory than this process may use. Raised before it begins."""


class StudyError(L2AError):
    """The file of a study is wrong, or its folder belongs to another study."""


class MissingExtraError(L2AError):
    """An optional package is not installed. The message contains the command that installs it."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs the package {package}", f"install it with: pip install 'l2a-transfer[{extra}]'")
        self.args = (what, package, extra)  # the arguments with which pickle calls __init__


class PluginError(L2AError):
    """A plugin cannot be loaded, or declares an invalid name or one that is taken."""


class ArgumentError(Explained, ValueError):
    """An argument has an invalid value. The problem begins with its name. The command line exits with 2."""


class UnknownNameError(ArgumentError):
    """A name is unknown. The message lists valid names and suggests the nearest one."""


class Interrupted(Explained, KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after completed work was saved. The message says where."""


def wrong_kind(argument: str, expected: str, got: object) -> TypeError:
    """The error for an argument of the wrong type; `expected` says what to pass."""
    return TypeError(f"{argument} must be {expected}; got {type(got).__name__}")


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that is most similar to `name`, ignoring case; None if no name is similar.

    Examples
    --------
    >>> nearest("sofmax", ["softmax", "sparsemax"])
    'softmax'
    """
    folded: dict[str, str] = {}
    for candidate in valid:
        folded.setdefault(candidate.casefold(), candidate)
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return folded[found[0]] if found else None


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UnknownNameError:
    """The error for an unknown name. It lists the valid names, or the first of many, and suggests the nearest one.

    Examples
    --------
    >>> str(unknown_name("fit", "strech", ["stretch", "crop"]))
    "fit must be one of stretch, crop; got 'strech'; did you mean 'stretch'?"
    """
    names = list(valid)
    close = nearest(name, names)
    listed = ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:11])}, … ({len(names)} in all)"
    hint = f"; did you mean {close!r}?" if close else ""
    return UnknownNameError(f"{kind} must be one of {listed}; got {name!r}{hint}")
