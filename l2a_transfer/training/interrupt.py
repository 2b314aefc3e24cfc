"""Deferring Ctrl-C and SIGTERM until the run can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_requests(*, alone: bool) -> Iterator[Callable[[], bool]]:
    """In this block, the first SIGINT or SIGTERM only sets a flag; a second one ends the process as usual.

    With several processes this is disabled, because they would stop at different steps; the checkpoint of the last
    epoch is kept. Signals that the parent process set to be ignored stay ignored.
    """
    if not alone or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}

    def request(number: int, frame: object) -> None:
        asked.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        for number in before:
            signal.signal(number, request)
        yield asked.is_set
    finally:
        restore()
