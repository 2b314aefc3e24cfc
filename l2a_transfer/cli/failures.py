"""Failures of commands: one sentence on stderr, and an exit code for the kind of failure.

2: misuse. 1: a problem with a file, a device or the machine. 130: interrupted. 143: terminated. 70 (EX_SOFTWARE of
sysexits.h): a bug, which means any exception that this package does not raise on purpose.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import traceback as tracebacks
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

import click

from l2a_transfer.cli.output import echo
from l2a_transfer.errors import ArgumentError, Explained, Interrupted, L2AError
from l2a_transfer.text import terminal
from l2a_transfer.version import __version__
from l2a_transfer.wording import first_line

BUG, INTERRUPTED, TERMINATED = 70, 130, 143
PARAMETER = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]+))?`")
"""A parameter in a remedy (see `errors.Explained`)."""
REPORT = (
    f"This is a bug in l2a-transfer {__version__}, not a mistake in your command. Please report it, with the command "
    "and the output of 'l2a-transfer --traceback VERB …' (or set the environment variable L2A_DEBUG=1)."
)
NO_MEMORY = ("OutOfMemoryError", "can't allocate memory")
"""Signs of an out-of-memory error of torch, on a GPU and on a CPU."""
TO_DO = {
    errno.ENOENT: "check the spelling, and that the folder exists",
    errno.EEXIST: "a folder is needed, but this is a file; choose another path",
    errno.ENOTDIR: "a folder is needed, but this is a file; choose another path",
    errno.EISDIR: "a file is needed, but this is a folder; name a file",
    errno.EACCES: "check its permissions, or choose another path",
    errno.EPERM: "check its permissions, or choose another path",
    errno.EROFS: "the disk is read-only; choose another path",
    errno.ENOSPC: "the disk is full; free some space, or choose another path",
    errno.EDQUOT: "the disk quota is used up; free some space, or choose another path",
    errno.EFBIG: "the file would exceed the size limit; choose another path, or see 'ulimit -f'",
    errno.ELOOP: "a symbolic link leads back to itself; remove it",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What the user can do about an error of the operating system."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command like Ctrl-C."""


def terminate(number: int, frame: object) -> None:
    """The handler of SIGTERM. A second SIGTERM ends the process at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise Terminated


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM raise Terminated in this block, unless the parent process has set another handling.

    This is disabled in a group of processes, because each may wait for another in a call that exceptions do not end.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or "WORLD_SIZE" in os.environ or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


_forking = threading.local()


def _hold_back() -> None:
    """Block SIGTERM while a process is forked, because one that arrives in between would be lost."""
    _forking.mask = None
    if signal.getsignal(signal.SIGTERM) is terminate:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _let_through() -> None:
    if _forking.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _default_in_child() -> None:
    """Restore the default handling in a forked worker, because its parent does not expect an exception."""
    if _forking.mask is not None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _let_through()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_default_in_child)


def _was_terminated(error: BaseException | None) -> bool:
    """Whether an error was caused by SIGTERM."""
    while error is not None:
        if isinstance(error, Terminated):
            return True
        error = error.__cause__ or error.__context__
    return False


class _Bug(click.ClickException):
    exit_code = BUG


class Explanation:
    """A context manager that turns an exception of a command into one sentence and an exit code.

    Parameters
    ----------
    options : callable
        Returns the parameter names of the command, so that messages can show them as options. It returns a mapping if
        an option has another name than its parameter. Called after an error.
    traceback : bool
        Show the traceback before the sentence.
    """

    def __init__(self, options: Callable[[], Collection[str]], *, traceback: bool = False) -> None:
        self.options, self.traceback = options, traceback

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            echo(_interruption(error), err=True)
            sys.exit(TERMINATED if _was_terminated(error) else INTERRUPTED)
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            return  # its message is the help text
        if isinstance(error, click.ClickException):
            # click repeats arguments verbatim
            error.message = terminal(error.message)  # type: ignore[misc]
            return
        if not isinstance(error, Exception) or isinstance(error, (click.Abort, click.exceptions.Exit)):
            return
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            return  # the reader of our output, such as `head`, has closed the pipe; click exits quietly
        if self.traceback:
            echo(*"".join(tracebacks.format_exception(error)).split("\n"), err=True)
        raise explained(error, self.options()) from error


def explained(error: Exception, options: Collection[str] = ()) -> click.ClickException:
    """The command line's message and exit code for an error."""
    found = _exception_for(error, options)
    advice = f"\n{REPORT}" if isinstance(found, _Bug) else ""
    return type(found)(terminal(found.message) + advice)


def _exception_for(error: Exception, options: Collection[str]) -> click.ClickException:
    if isinstance(error, ArgumentError):
        return click.UsageError(_with_options(error, options))
    if isinstance(error, L2AError):
        return click.ClickException("; ".join(filter(None, (_with_options(error, ()), _advice_of_cause(error)))))
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        todo = TO_DO.get(error.errno or 0)
        return click.ClickException(f"{where}{error.strerror or error}{f'; {todo}' if todo else ''}")
    if isinstance(error, UnicodeEncodeError) and any("\ud800" <= c <= "\udfff" for c in error.object):
        return click.ClickException(f"a name that is not UTF-8 ({error.object!a:.200}); rename the file or folder")
    if isinstance(error, MemoryError) or any(sign in f"{type(error).__name__} {error}" for sign in NO_MEMORY):
        return click.ClickException(f"out of memory: {first_line(error)}; use smaller batches or less data")
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):  # torch raises it at an arbitrary point
        return click.ClickException(
            f"a decoding process ended: {first_line(error)}; use fewer --workers to save memory, or 0 to decode in the "
            "main process"
        )
    if isinstance(error, ImportError) and not (error.name or "").startswith("l2a_transfer"):
        return click.ClickException(f"a package cannot be loaded: {first_line(error)}; reinstall l2a-transfer")
    return _Bug(f"{type(error).__name__}: {first_line(error)}")


def _advice_of_cause(error: L2AError) -> str:
    """Advice for an error that only repeats the message of the operating system and has no remedy."""
    cause = error.__cause__
    if error.remedy or not isinstance(cause, OSError) or not error.problem.endswith(f": {cause.strerror}"):
        return ""
    return TO_DO.get(cause.errno or 0, "")


def _with_options(error: Explained, options: Collection[str]) -> str:
    """The message with options instead of parameters: `overwrite=True` → --overwrite."""
    both = re.match(r"([a-z0-9_]+) and ([a-z0-9_]+) (.*)", error.problem, re.DOTALL)
    first, rest = re.match(r"([a-z0-9_]*)(.*)", error.problem, re.DOTALL).groups()  # type: ignore[union-attr]
    named = first in options and ("_" in first or rest.startswith(" must "))
    problem = f"{_flag(first, options)}{rest}" if named else error.problem
    if both and both[1] in options and both[2] in options:
        problem = f"{_flag(both[1], options)} and {_flag(both[2], options)} {both[3]}"
    return "; ".join(filter(None, (problem, PARAMETER.sub(_as_option, error.remedy))))


def _as_option(found: re.Match[str]) -> str:
    name, value = found[1], found[2]
    if value is None or value == "True":
        return _flag(name)
    return f"{_flag('no_' + name)}" if value == "False" else f"{_flag(name)} {value.strip(chr(39))}"


def _flag(name: str, options: Collection[str] = ()) -> str:
    own = options.get(name) if isinstance(options, Mapping) else None
    return own or f"--{name.replace('_', '-')}"


def _interruption(error: KeyboardInterrupt) -> str:
    if isinstance(error, Interrupted):
        return f"Interrupted: {_with_options(error, ())}."
    return "Interrupted before it finished; run it again."
