"""Independent pieces of work at once, each on one thread.

One operation on two threads waits for the slower one, and starting it costs as much as a small operation takes. Work
that can be divided is therefore faster in as many pieces as there are threads. Another program on the same cores slows
it less, because a thread that has finished takes the next piece.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Found = TypeVar("Found")


class StoppedError(Exception):
    """Another piece has failed, or the user has interrupted the work."""


def side_by_side(
    work: Callable[[Piece, Callable[[], None]], Found],
    pieces: Sequence[Piece],
    threads: int,
) -> Iterator[Found]:
    """Results of `work(piece, check)` in the order of `pieces`.

    With one thread, pieces are computed one after the other, and their operations may use several threads. Otherwise,
    `threads` pieces are computed at once, and an operation within a piece uses one thread. `work` calls `check` now
    and then; it raises StoppedError if the results are no longer needed.
    """
    if threads == 1 or len(pieces) == 1:
        for piece in pieces:
            yield work(piece, lambda: None)
        return
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise StoppedError

    before = torch.get_num_threads()
    # `set_num_threads` is for the calling thread, and for threads that start later.
    pool = ThreadPoolExecutor(min(threads, len(pieces)), "svm", initializer=torch.set_num_threads, initargs=(1,))
    try:
        futures = [pool.submit(work, piece, check) for piece in pieces]
        for future in wait(futures, return_when=FIRST_EXCEPTION).done:
            future.result()  # raises what the piece has raised
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # first, so that no other piece begins
        stop.set()
        pool.shutdown()
        torch.set_num_threads(before)
    yield from (future.result() for future in futures)
