"""Stream a source's pictures as batches of uint8 pixels, decoded and resized in worker processes."""

from __future__ import annotations

import errno
import gc
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.ahead import read_ahead
from l2a_transfer.data.decode import decoded_at_least
from l2a_transfer.errors import ArgumentError, BackendError, DataError, SourceError
from l2a_transfer.memory import usable_memory
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.threads import usable_cores

if TYPE_CHECKING:
    from torch import Tensor

    from l2a_transfer.data.sources import ImageSource

log = logging.getLogger(__name__)
RowNumbers = range | NDArray[np.int64]

SMALL_SOURCE = 512
"""Number of rows below which starting worker processes costs more time than it saves."""

WORKER_BYTES = {True: 128 << 20, False: 448 << 20}
"""Memory of a decoding process that is forked (True), or that imports everything itself (False): its own pages (14 and
285 MiB with small pictures, PyTorch 2.14), plus resizing a picture of about 25 megapixels."""

PREFETCHED = 2
"""Batches that each worker prefetches."""
SHARED_MEMORY = "/dev/shm"
"""Its path on Linux. Other systems do not report how much is free."""

PR_SET_PDEATHSIG = 1
"""An option of Linux's prctl."""


def choose_workers(rows: int, workers: int | None, *, sharing: int = 1) -> int:
    """The number of decoding processes: `workers`, or by default one per core up to eight, and none for a small source.

    By default, they use at most half of this process's remaining memory (`WORKER_BYTES` each). `sharing` processes on
    this machine divide its cores and memory equally.
    """
    if workers is not None:
        if workers < 0:
            raise ArgumentError(f"workers must be at least 0, got {workers}")
        return workers
    cores = min(8, -(-usable_cores() // sharing))
    if rows < SMALL_SOURCE:
        return 0
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    room = usable_memory() // 2 // sharing // WORKER_BYTES[method == "fork"]
    if room < cores:
        log.info("%d decoding processes instead of %d, because there is no memory for more", room, cores)
    return min(cores, room)


class PixelBatch(NamedTuple):
    """Pixels of one batch, uint8 (B, 3, size, size), and for faulty (black) images: position in the batch → reason."""

    images_u8: NDArray[np.uint8]
    faulty: dict[int, str]


class SharedBatch(NamedTuple):
    """A `PixelBatch` in shared memory. Processes pass its handle to each other instead of its bytes."""

    images_u8: Tensor
    faulty: dict[int, str]


class _Batches:
    """A map-style data set whose item k is batch k of a list of row numbers; picklable for workers."""

    def __init__(
        self,
        source: ImageSource,
        preprocess: Preprocess,
        batches: Sequence[RowNumbers],
        on_error: str,
        *,
        shared: bool = False,
    ) -> None:
        self.source, self.preprocess, self.batches, self.on_error = source, preprocess, batches, on_error
        self.shared = shared

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, k: int) -> PixelBatch | SharedBatch | DataError:
        size = self.preprocess.size
        shape = len(self.batches[k]), 3, size, size
        if self.shared:
            tensor = _in_shared_memory(shape)
            images_u8 = tensor.numpy()
        else:
            images_u8 = np.zeros(shape, dtype=np.uint8)
        faulty: dict[int, str] = {}
        for at, row in enumerate(self.batches[k]):
            try:
                images_u8[at] = self._pixels(int(row))
            except DataError as error:
                # An exception that crosses the process boundary loses its type and gains a traceback, so return it.
                if self.on_error == "fail" or isinstance(error, SourceError):
                    return error
                faulty[at] = str(error)
        return SharedBatch(tensor, faulty) if self.shared else PixelBatch(images_u8, faulty)

    def _pixels(self, row: int) -> NDArray[np.uint8]:
        try:
            with decoded_at_least(self.preprocess.least_side):
                image = self.source.image(row)
            return self.preprocess.pixels(image)
        except MemoryError as error:
            name = f"{self.source.name}: {self.source.ids[row]}"
            raise DataError(f"{name}: needs more memory than is available; make it smaller, or remove it") from error


def _in_shared_memory(shape: tuple[int, ...]) -> Tensor:
    """Zeros (uint8) allocated in shared memory, as in PyTorch's own `default_collate`.

    `torch.zeros(shape).share_memory_()` would first allocate the same amount of private memory and fragment it.
    """
    import torch

    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)  # type: ignore[call-overload, no-any-return]


def pixel_batches(
    source: ImageSource,
    preprocess: Preprocess,
    batches: Sequence[RowNumbers],
    *,
    workers: int = 0,
    on_error: str = "fail",
    sharing: int = 1,
) -> Iterator[PixelBatch]:
    """The pixels of each batch of row numbers, in order. Memory does not grow with the number of batches.

    If the order is shuffled and files can only be read in groups of pictures, encoded pictures are kept in a share of
    the remaining memory (see `ahead.read_ahead`).

    Parameters
    ----------
    source : ImageSource
        The pictures.
    preprocess : Preprocess
        How they are resized.
    batches : sequence of range or ndarray
        The row numbers of each batch.
    workers : int
        Number of decoding processes; with 0, this process decodes.
    on_error : {"fail", "skip"}
        With "skip", an image that cannot be used is listed and becomes black, so that the others keep their positions.
    sharing : int
        Number of processes on this machine that do the same and share its memory.

    Yields
    ------
    PixelBatch
        uint8 (B, 3, size, size), and the faulty images.

    Raises
    ------
    DataError
        If an image cannot be used and `on_error` is "fail".
    BackendError
        If workers that are not forked cannot start, or if the limit on open files is too low for them.
    """
    at = 0
    while at < len(batches):
        count = read_ahead(source, batches[at:], sharing=sharing)
        yield from _decoded(_Batches(source, preprocess, batches[at : at + count], on_error), workers)
        at += count


def _decoded(dataset: _Batches, workers: int) -> Iterator[PixelBatch]:
    """All batches in order, decoded by this many processes, or by this one if 0."""
    batches = dataset.batches
    if workers == 0:
        yield from map(_here, (dataset[k] for k in range(len(dataset))))
        return
    workers = min(workers, len(batches))
    dataset.shared = _shared_memory_suffices(workers * max(map(len, batches)) * 3 * dataset.preprocess.size**2)
    method = multiprocessing.get_start_method()
    _check_main(method)
    from torch import Generator
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        prefetch_factor=PREFETCHED,
        collate_fn=_identity,
        worker_init_fn=partial(_end_with_parent, os.getpid(), method),
        generator=Generator(),  # workers draw no random numbers; their seeds must not come from the global generator
    )
    with _frozen_gc(), _worker_errors(method):
        yield from map(_here, loader)


def _here(batch: PixelBatch | SharedBatch | DataError) -> PixelBatch:
    """The batch as an array; a shared batch stays in shared memory. Raises: DataError."""
    if isinstance(batch, DataError):
        raise batch
    return PixelBatch(batch.images_u8.numpy(), batch.faulty) if isinstance(batch, SharedBatch) else batch


def _shared_memory_suffices(together: int) -> bool:
    """Whether batches fit into shared memory, if one batch of each worker takes `together` bytes in total.

    If not, their bytes go through a pipe. Writing to full shared memory ends a process with SIGBUS, so a quarter of it
    must stay free. Containers have 64 MiB by default.
    """
    needed = (PREFETCHED + 2) * together  # one is being filled, and one is in use by this process
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return False
    free = found.f_bavail * found.f_frsize
    if needed > 3 * free // 4:
        log.info(
            "decoded pictures go through pipes, which is slower: they may take %d MiB together, and %s has %d MiB free",
            needed >> 20,
            SHARED_MEMORY,
            free >> 20,
        )
        return False
    return True


@contextmanager
def _frozen_gc() -> Iterator[None]:
    """Exclude existing objects from garbage collection, as CPython recommends before a fork (`gc.freeze`).

    A collection writes to every object, which copies the pages that this process shares with its workers.
    """
    others = gc.get_freeze_count() > 0
    gc.freeze()
    try:
        yield
    finally:
        if not others:
            gc.unfreeze()


GUARD = 'put the code of the script below `if __name__ == "__main__":`, or decode in this process with `workers=0`'


def _check_main(method: str) -> None:
    """Raises: BackendError if importing the main script would start workers again.

    If a worker ends while it imports the script, this process can wait for it forever.
    """
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if method == "fork" or getattr(main, "__spec__", None) is not None or path is None:
        return
    try:
        guarded = b"__main__" in Path(path).read_bytes()
    except OSError:
        return  # a worker cannot read it either
    if not guarded:
        raise BackendError(
            f"{path}: decoding processes started by {method} import this script and would run it again", GUARD
        )


@contextmanager
def _worker_errors(method: str) -> Iterator[None]:
    """Turn the end of a worker into an error that names the usual cause (start methods other than fork), and too many
    open files into one that names the workers."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) or "Too many open files" in str(error):
            raise BackendError(
                "decoding processes need more open files than the limit of this process",
                "use fewer `workers`, or raise the limit (ulimit -n)",
            ) from error
        ended = isinstance(error, BrokenPipeError) or "DataLoader worker" in str(error) or "bootstrapping" in str(error)
        if method == "fork" or not ended:
            raise
        raise BackendError(
            f"a decoding process ended; with the start method {method}, it imports the main program again",
            f"{GUARD}; fewer `workers` use less memory",
        ) from error


def _end_with_parent(parent: int, method: str, worker: int) -> None:
    """Make this worker end when its parent ends, for whatever reason.

    If the parent is killed, a worker would wait forever to pass on its batch, because its siblings keep the pipe open.
    Ctrl-C reaches all processes of a terminal; the worker ignores it, and the parent decides. `method` is Python's
    start method. Linux ends forked workers. Others watch the parent, because under forkserver (Linux's default since
    Python 3.14) they are children of a server.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if method != "fork":
        threading.Thread(target=_end_after_parent, daemon=True).start()
    elif sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _end_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _identity(batch: Any) -> Any:
    return batch
