"""Calls into libraries that do not hear Ctrl-C."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")
GRACE_S = 5.0
"""How long a call that was told to stop is waited for."""


def interruptible(call: Callable[[], Result], stop: Callable[[], object] = lambda: None) -> Result:
    """What `call` gives, computed beside the main thread, in which Python handles signals between its own steps alone.

    Where the wait is interrupted, `stop` is called to end the computation, which is left behind if it goes on. From
    another thread than the main one, `call` is called as it is. Raises: what `call` raises, and KeyboardInterrupt.
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
        done.wait()  # not Thread.join, after whose interruption Python 3.11 takes the thread for ended
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
