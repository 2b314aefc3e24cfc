"""Decode in a separate process with limited time and memory, whose crash does not end this one.

Limits in this process would only work for Python code: signal handlers run only after a C decoder returns.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
from typing import IO, Any

from PIL import Image

from l2a_transfer.data.decode_pixels import decode_in_process
from l2a_transfer.errors import DataError, SourceError

REQUEST, REPLY = struct.Struct(">dQII"), struct.Struct(">?II")
"""Request: CPU seconds, bytes of memory, lengths of the name and the picture. Reply: whether it was decoded, then its
width and height, or the lengths of the error's problem and remedy."""
STRIP_BYTES = 8 << 20
WALL_SECONDS = 600.0
"""Limit for a decoder that waits without using CPU time."""
CODE = "import sys; sys.path[:] = sys.argv[1:]; from l2a_transfer.data.decode_subprocess import serve; serve()"


class _Decoder:
    """A process that decodes pictures one after another."""

    def __init__(self) -> None:
        # Isolated, so that neither the environment nor the current folder affects imports; the path is our own.
        command = [sys.executable, "-I", "-c", CODE, *(path or os.getcwd() for path in sys.path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        assert self.process.stdin
        assert self.process.stdout
        self.requests: IO[bytes] = self.process.stdin
        self.replies: IO[bytes] = self.process.stdout

    def decode(self, content: bytes, name: str, seconds: float, memory: int) -> Image.Image | DataError:
        """Raises: OSError or EOFError if the process ends while decoding."""
        text = name.encode(errors="surrogatepass")
        _write(self.requests, REQUEST.pack(seconds, memory, len(text), len(content)) + text)
        _write(self.requests, content)
        is_picture, first, second = REPLY.unpack(_read(self.replies, REPLY.size))
        if is_picture:
            return _read_picture(self.replies, first, second)
        problem, remedy = (_read(self.replies, size).decode(errors="surrogatepass") for size in (first, second))
        return DataError(problem, remedy)

    def close(self) -> int:
        """End the process and return its exit status, negative for a signal."""
        self.requests.close()
        self.replies.close()
        return self.process.wait()

    def kill(self) -> None:
        self.process.kill()
        self.close()


class _State:
    """This process's decoder, and inherited decoders of parent processes, which must not be garbage-collected."""

    lock = threading.Lock()
    decoder: _Decoder | None = None
    inherited: tuple[_Decoder, ...] = ()


def decode_in_subprocess(content: bytes, name: str, *, seconds: float, memory: int) -> Image.Image:
    """Same as `decode_in_process`, in a separate process with limited time and memory.

    Parameters
    ----------
    content : bytes
        The picture file.
    name : str
        Its name in errors.
    seconds : float
        Limit of CPU time, in seconds.
    memory : int
        Limit of memory, in bytes.

    Raises
    ------
    DataError
        In the same cases as `decode_in_process`, and if the picture exceeds a limit or crashes its decoder.
    SourceError
        If no process can be started.
    """
    with _State.lock:
        decoder = _State.decoder
        if decoder is None or decoder.process.poll() is not None:
            if decoder is not None:
                decoder.close()
            decoder = _State.decoder = _started(name)
        timer = threading.Timer(WALL_SECONDS, decoder.process.kill)
        timer.start()
        try:
            found = decoder.decode(content, name, seconds, memory)
        except (OSError, EOFError) as error:
            _State.decoder = None
            raise DataError(
                f"{name}: {_describe_end(decoder.close(), seconds)}; replace the file, or remove it"
            ) from error
        except BaseException as error:  # such as Ctrl-C: the pending reply would answer the next request
            _State.decoder = None
            decoder.kill()
            if isinstance(error, MemoryError):
                raise DataError(
                    f"{name}: needs more memory than is available; make it smaller, or remove it"
                ) from error
            raise
        finally:
            timer.cancel()
    if isinstance(found, DataError):
        raise found
    return found


def _started(name: str) -> _Decoder:
    try:
        return _Decoder()
    except OSError as error:  # not the picture's fault, so it must not be skipped
        raise SourceError(
            f"{name}: cannot start a process to decode it: {error.strerror or error}", "use fewer `workers`"
        ) from error


def _describe_end(status: int, seconds: float) -> str:
    """Describe what is wrong with a picture from how its decoder ended."""
    if status == -getattr(signal, "SIGPROF", 0):
        return f"decoding takes more than {seconds:g} s of CPU time"
    if status == -getattr(signal, "SIGKILL", 0):
        return "its decoder was killed because it took too long or too much memory"
    if status < 0:
        return f"crashes its decoder ({signal.Signals(-status).name})"
    return f"its decoder ended (status {status})"


def _reset_after_fork() -> None:
    """After a fork: the decoder belongs to the parent, and a thread of the parent may have held the lock."""
    _State.lock = threading.Lock()
    if _State.decoder is not None:
        _State.decoder.requests.close()
        _State.decoder.replies.close()
        _State.inherited += (_State.decoder,)
        _State.decoder = None


def _close() -> None:
    if _State.decoder is not None:
        _State.decoder.kill()
        _State.decoder = None


atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def serve() -> None:
    """Answer requests on standard input until it ends. Runs in the separate process."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the parent
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with replies
    used = _address_space()
    while header := requests.read(REQUEST.size):
        seconds, memory, *lengths = REQUEST.unpack(header)
        text, content = (_read(requests, length) for length in lengths)
        _limit(seconds, used + memory)
        try:
            _write_picture(replies, decode_in_process(bytes(content), text.decode(errors="surrogatepass")))
        except DataError as error:
            parts = [part.encode(errors="surrogatepass") for part in (error.problem, error.remedy)]
            replies.write(REPLY.pack(False, *map(len, parts)) + b"".join(parts))
        replies.flush()
        _limit(0, 0)


def _limit(seconds: float, memory: int) -> None:
    """Limit CPU time from now on, and address space; 0 means no limit. Does nothing on Windows."""
    try:
        import resource
    except ImportError:
        return
    # By default, this signal ends the process, whatever it is doing.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = memory if memory and sys.platform == "linux" else hard  # some other systems reject it
    resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _address_space() -> int:
    """Bytes that this process has mapped, on Linux."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _write_picture(replies: IO[bytes], image: Image.Image) -> None:
    replies.write(REPLY.pack(True, *image.size))
    for top, bottom in _strips(*image.size):
        replies.write(image.crop((0, top, image.width, bottom)).tobytes())


def _read_picture(replies: IO[bytes], width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height))
    for top, bottom in _strips(width, height):
        size = (width, bottom - top)
        image.paste(Image.frombuffer("RGB", size, _read(replies, 3 * width * size[1]), "raw", "RGB", 0, 1), (0, top))
    return image


def _strips(width: int, height: int) -> list[tuple[int, int]]:
    """First row and end of each strip of an RGB picture; strips go through the pipe one at a time."""
    rows = max(1, STRIP_BYTES // (3 * width))
    return [(top, min(height, top + rows)) for top in range(0, height, rows)]


def _write(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _read(file: Any, size: int) -> bytearray:
    """Exactly `size` bytes. Raises: EOFError if there are fewer."""
    found = bytearray(size)
    view, at = memoryview(found), 0
    while at < size:
        count = file.readinto(view[at:])
        if not count:
            raise EOFError
        at += count
    return found
