"""Calls into libraries that do not hear Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable
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

    def compute() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again by whoever waits
            errors.append(error)

    thread = threading.Thread(target=compute, name="interruptible", daemon=True)
    try:
        thread.start()
        thread.join()
    except BaseException:
        stop()
        if thread.is_alive():
            thread.join(GRACE_S)
        raise
    if errors:
        raise errors[0]
    return results[0]
