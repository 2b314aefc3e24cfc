"""The exceptions of this package, and the messages for unknown names and keyword arguments."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

Called = TypeVar("Called", bound=Callable[..., Any])
MOST_SUGGESTIONS = 3


class Explained(BaseException):
    """An exception with a problem and an optional remedy. As text, the two are joined by a semicolon.

    Parameters
    ----------
    problem : str
        What is wrong.
    remedy : str
        What to do. It names parameters in backticks, such as `overwrite=True` or `out`; the command line shows them as
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
    """A weights file is corrupt, incomplete, or was written by another program."""


class DataError(L2AError):
    """A data set is missing, empty, corrupt, or unsuitable for its purpose."""


class SourceError(DataError):
    """Files of a data set changed or disappeared while it was read. `on_error="skip"` does not skip these images."""


class StoreError(L2AError):
    """A feature file is truncated, changed, incomplete or unsafe, or has another schema."""


class BackendError(L2AError):
    """A backend or a model file cannot do what was requested."""


class DeviceError(L2AError):
    """This machine does not have the requested device or precision."""


class OutputExistsError(L2AError):
    """The output exists, and overwriting it was not requested."""


class TrainingError(L2AError):
    """A training run cannot start, continue, or be resumed."""


class DamagedCheckpointError(TrainingError):
    """A checkpoint is corrupt, or was not written by a training run."""


class NotFiniteError(TrainingError):
    """The loss or the weights of a run are NaN or infinite. The message names the step and the learning rate."""


class EvaluationError(L2AError):
    """A protocol cannot be applied to these features or labels."""


class MemoryLimitError(L2AError):
    """The work needs more memory than this process may use. Raised before the work starts."""


class StudyError(L2AError):
    """A study file is invalid, or its output folder belongs to another study."""


class MissingExtraError(L2AError):
    """An optional package is not installed. The message contains the command that installs it."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs the package {package}", f"install it with: pip install 'l2a-transfer[{extra}]'")
        self.args = (what, package, extra)  # the arguments with which pickle calls __init__


class PluginError(L2AError):
    """A plugin cannot be loaded, or declares a name that is invalid or taken."""


class ArgumentError(Explained, ValueError):
    """An argument has an invalid value. The message begins with its name. The command line exits with 2."""


class UnknownNameError(ArgumentError):
    """A name is unknown. The message lists the valid names and suggests the nearest one."""


class Interrupted(Explained, KeyboardInterrupt):
    """Ctrl-C or SIGTERM. Completed work was saved; the message says where."""


def wrong_kind(argument: str, expected: str, got: object) -> TypeError:
    """The error for an argument of the wrong type; `expected` says what to pass."""
    return TypeError(f"{argument} must be {expected}; got {type(got).__name__}")


def similar(name: str, valid: Iterable[str]) -> list[str]:
    """The valid names that `name` may stand for, best first; case is ignored.

    The name itself in another case, or else all names that begin with it, or else the nearest one by edit distance.

    Examples
    --------
    >>> similar("vgg-att2", ["vgg", "vgg-att2-concat-pc", "vgg-att2-concat-dp"])
    ['vgg-att2-concat-pc', 'vgg-att2-concat-dp']
    >>> similar("sofmax", ["softmax", "sparsemax"])
    ['softmax']
    """
    folded: dict[str, str] = {}
    for candidate in valid:
        folded.setdefault(candidate.casefold(), candidate)
    given = name.casefold()
    if given in folded:
        return [folded[given]]
    begun = [candidate for fold, candidate in folded.items() if given and fold.startswith(given)]
    return begun or [folded[fold] for fold in difflib.get_close_matches(given, folded, n=1, cutoff=0.5)]


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The first of `similar`; None if no name is similar.

    Examples
    --------
    >>> nearest("sofmax", ["softmax", "sparsemax"])
    'softmax'
    """
    return next(iter(similar(name, valid)), None)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The end of an error about an unknown name: a question with the similar names, or nothing.

    Examples
    --------
    >>> did_you_mean("sofmax", ["softmax", "sparsemax"])
    "; did you mean 'softmax'?"
    >>> did_you_mean("s", ["softmax", "sparsemax"])
    "; did you mean 'softmax' or 'sparsemax'?"
    """
    found = similar(name, valid)
    quoted = [repr(other) for other in found[:MOST_SUGGESTIONS]]
    if len(found) > MOST_SUGGESTIONS:
        return f"; did you mean {', '.join(quoted)}, …?"
    *others, last = quoted or [""]
    return f"; did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if last else ""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> UnknownNameError:
    """The error for an unknown name. It lists the valid names, or the first of many, and suggests similar ones.

    Examples
    --------
    >>> str(unknown_name("fit", "strech", ["stretch", "crop"]))
    "fit must be one of stretch, crop; got 'strech'; did you mean 'stretch'?"
    """
    names = list(valid)
    listed = ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:11])}, … ({len(names)} in all)"
    return UnknownNameError(f"{kind} must be one of {listed}; got {name!r}{did_you_mean(name, names)}")


def names_keywords(called: Called) -> Called:
    """Decorate a function or a class: its TypeError for an unknown keyword argument suggests similar ones.

    The signature does not change, also for type checkers. Python itself suggests a name only since version 3.13, and
    none for an abbreviated keyword.

    Examples
    --------
    >>> @names_keywords
    ... def fit(rows, *, batch_size=1): ...
    >>> fit([], batchsize=2)
    Traceback (most recent call last):
    ...
    TypeError: fit() got an unexpected keyword argument 'batchsize'; did you mean 'batch_size'?
    """
    if isinstance(called, type):
        setattr(called, "__init__", _checked(vars(called)["__init__"], called.__name__))  # noqa: B010
        return called
    return cast(Called, _checked(called, called.__name__))


def _checked(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap a function so that an unknown keyword argument raises TypeError before the call."""
    keywords = {
        parameter.name: None
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and parameter.name != "self"
    }

    @functools.wraps(function)
    def checked(*args: Any, **given: Any) -> Any:
        for keyword in given:
            if keyword not in keywords:
                hint = did_you_mean(keyword, keywords) or f"; it takes {', '.join(keywords)}"
                raise TypeError(f"{name}() got an unexpected keyword argument {keyword!r}{hint}")
        return function(*args, **given)

    return checked
