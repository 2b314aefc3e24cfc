"""Calls into libraries that do not react to Ctrl-C."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")
HEARD_S = 0.5
"""After how long a signal is heard at the latest."""
GRACE_S = 5.0
"""How long to wait for a call that was asked to stop."""


def interruptible(call: Callable[[], Result], stop: Callable[[], object] = lambda: None) -> Result:
    """Run `call` in a second thread, so that Ctrl-C interrupts the main thread while it waits.

    Python handles signals in the main thread, and only between its own instructions. Outside of the main thread, `call`
    is called directly.

    Parameters
    ----------
    call : callable
        The computation.
    stop : callable
        Called when the wait is interrupted, to end the computation. One that does not end in time is abandoned.

    Returns
    -------
    object
        What `call` returns.

    Raises
    ------
    KeyboardInterrupt
        Where the wait is interrupted; otherwise what `call` raises.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def compute() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again by whoever waits
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=compute, name="interruptible", daemon=True)
    try:
        thread.start()
        # Not Thread.join, after whose interruption Python 3.11 takes the thread for ended; and not without a time: a
        # signal that comes just before the wait begins does not end it, and is heard when it has.
        while not done.wait(HEARD_S):
            pass
    except BaseException:
        stop()
        if thread.ident is not None:  # it was started
            _wait(done, GRACE_S)
        raise
    if errors:
        raise errors[0]
    return results[0]


def _wait(done: threading.Event, seconds: float) -> None:
    """Until `done`, or for so long, whatever signals come: the end of a process in which a library computes is an
    abort."""
    end = time.monotonic() + seconds
    while not done.is_set() and (left := end - time.monotonic()) > 0:
        with suppress(KeyboardInterrupt):
            done.wait(left)
