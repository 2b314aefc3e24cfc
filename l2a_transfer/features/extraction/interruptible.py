"""Make calls into libraries that ignore Ctrl-C interruptible."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")
HEARD_S = 0.5
"""Longest time until a signal is handled, in seconds."""
GRACE_S = 5.0
"""How long to wait for a call that was told to stop, in seconds."""


def interruptible(call: Callable[[], Result], stop: Callable[[], object] = lambda: None) -> Result:
    """Run `call` in a second thread, so that Ctrl-C interrupts the main thread while it waits.

    Python handles signals in the main thread, and only between its own instructions. Outside of the main thread, `call`
    is called directly.

    Parameters
    ----------
    call : callable
        The computation.
    stop : callable
        Called when the wait is interrupted, to end the computation. If it does not end in time, it is abandoned.

    Returns
    -------
    object
        What `call` returns.

    Raises
    ------
    KeyboardInterrupt
        If the wait is interrupted; otherwise, what `call` raises.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def compute() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again in the waiting thread
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=compute, name="interruptible", daemon=True)
    try:
        thread.start()
        # Not Thread.join, because Python 3.11 considers a thread finished after join was interrupted. With a timeout,
        # because a signal just before the wait does not end it and is handled only afterwards.
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
    """Wait until `done` or for this many seconds, despite signals: a process that ends while a library computes
    aborts."""
    end = time.monotonic() + seconds
    while not done.is_set() and (left := end - time.monotonic()) > 0:
        with suppress(KeyboardInterrupt):
            done.wait(left)
