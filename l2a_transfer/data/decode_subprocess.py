"""Decoding in a process of its own, which may take so much time and memory, and whose end is no end of this one.

A limit in this process would hold for nothing but Python: a signal waits until a decoder written in C returns.
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
"""CPU seconds, bytes of memory, lengths of the name and of the picture. Whether it is one, and its width and height,
or the lengths of what is wrong and of the remedy."""
STRIP_BYTES = 8 << 20
WALL_SECONDS = 600.0
"""For a decoder that waits instead of computing, which takes no CPU time."""
CODE = "import sys; sys.path[:] = sys.argv[1:]; from l2a_transfer.data.decode_subprocess import serve; serve()"


class _Decoder:
    """A process that decodes one picture after another."""

    def __init__(self) -> None:
        # Isolated, so that neither the environment nor the current folder says what is imported; the path is ours.
        command = [sys.executable, "-I", "-c", CODE, *(path or os.getcwd() for path in sys.path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        assert self.process.stdin
        assert self.process.stdout
        self.requests: IO[bytes] = self.process.stdin
        self.replies: IO[bytes] = self.process.stdout

    def decode(self, content: bytes, name: str, seconds: float, memory: int) -> Image.Image | DataError:
        """Raises: OSError or EOFError where the process ends over it."""
        text = name.encode(errors="surrogatepass")
        _write(self.requests, REQUEST.pack(seconds, memory, len(text), len(content)) + text)
        _write(self.requests, content)
        is_picture, first, second = REPLY.unpack(_read(self.replies, REPLY.size))
        if is_picture:
            return _read_picture(self.replies, first, second)
        problem, remedy = (_read(self.replies, size).decode(errors="surrogatepass") for size in (first, second))
        return DataError(problem, remedy)

    def close(self) -> int:
        """Its exit status, negative for a signal."""
        self.requests.close()
        self.replies.close()
        return self.process.wait()

    def kill(self) -> None:
        self.process.kill()
        self.close()


class _State:
    """The decoder of this process, and of those that this one was forked from what must not be collected."""

    lock = threading.Lock()
    decoder: _Decoder | None = None
    inherited: tuple[_Decoder, ...] = ()


def decode_in_subprocess(content: bytes, name: str, *, seconds: float, memory: int) -> Image.Image:
    """The picture as `decode_in_process` gives it, from a process that may take limited time and memory.

    Parameters
    ----------
    content : bytes
        The picture file.
    name : str
        What errors call it.
    seconds : float
        CPU time that decoding may take, in seconds.
    memory : int
        Memory that decoding may take, in bytes.

    Raises
    ------
    DataError
        As `decode_in_process`, and for a picture that takes more, or that crashes its decoder.
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
        except BaseException as error:  # as Ctrl-C: what was asked would be the answer to the next
            _State.decoder = None
            decoder.kill()
            if isinstance(error, MemoryError):
                raise DataError(f"{name}: needs more memory than there is; make it smaller, or remove it") from error
            raise
        finally:
            timer.cancel()
    if isinstance(found, DataError):
        raise found
    return found


def _started(name: str) -> _Decoder:
    try:
        return _Decoder()
    except OSError as error:  # no fault of the picture, which must not be skipped for it
        raise SourceError(
            f"{name}: no process can be started that decodes it: {error.strerror or error}", "use fewer `workers`"
        ) from error


def _describe_end(status: int, seconds: float) -> str:
    """What is wrong with a picture, by how its decoder ended."""
    if status == -getattr(signal, "SIGPROF", 0):
        return f"takes more than {seconds:g} s of processor time to decode"
    if status == -getattr(signal, "SIGKILL", 0):
        return "its decoder was killed: it took too long, or the memory of this machine"
    if status < 0:
        return f"crashes its decoder ({signal.Signals(-status).name})"
    return f"its decoder ended (status {status})"


def _reset_after_fork() -> None:
    """In a process that was forked: the decoder is another's, and the lock may be held by a thread that is not here."""
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
    """Decode what standard input asks for until it ends. Runs in the process apart."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the asking process
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
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
    """At most so much CPU time from now on, and so much address space; 0 for no limit. Does nothing on Windows."""
    try:
        import resource
    except ImportError:
        return
    # Whatever the process does then, the default of this signal ends it.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = memory if memory and sys.platform == "linux" else hard  # of other systems, some refuse it
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
    """First row and end of each strip of an RGB picture that goes through the pipe at once."""
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
