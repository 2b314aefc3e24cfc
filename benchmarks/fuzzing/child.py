"""Run a task in a fork with limits on CPU time, time and memory, so that it cannot crash its parent."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CPU_S, WALL_S = 20, 90
"""Limits for the task alone. Other programs may use the CPUs, so the wall time limit is only for tasks that wait."""
MEMORY_BYTES = 5 << 29
"""2.5 GiB of resident memory above that of the process at the start of the task."""
ADDRESS_BYTES = 16 << 30
"""Limit of address space, for memory that grows faster than it is checked."""
POLL_S = 0.005
READY = b"ready\n"


@dataclass(frozen=True)
class Ended:
    """How a child ended: `why` is "done", "hang", "memory", "crash" or "unprepared"; `text` is the result of the task.

    `bytes`: peak resident memory of the task; `seconds`: its duration.
    """

    why: str
    text: str
    bytes: int = 0
    seconds: float = 0.0


def in_child(task: Callable[[], str], *, prepare: Callable[[], object] = lambda: None, limited: bool = True) -> Ended:
    """Run `prepare`, without limits, and then `task`, in a fork of this process."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        _run(task, prepare, send, limited)
    os.close(send)
    try:
        return _watch(child, receive, limited)
    finally:
        os.close(receive)


def _run(task: Callable[[], str], prepare: Callable[[], object], send: int, limited: bool) -> None:
    """The child's part; it does not return."""
    code = 1
    with contextlib.suppress(BaseException):
        os.setsid()  # whatever it starts is ended with it
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        for number in (signal.SIGALRM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        prepare()
        os.write(send, READY)
        if limited:
            used = resource.getrusage(resource.RUSAGE_SELF)
            seconds = math.ceil(used.ru_utime + used.ru_stime) + CPU_S
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
            space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + ADDRESS_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (space, space))
        text = task().encode(errors="backslashreplace")[:4000]
        os.write(send, text)
        code = 0
    os._exit(code)


def _watch(child: int, pipe: int, limited: bool) -> Ended:
    """Wait for the child, and kill it if it exceeds a limit."""
    received, begun, before, most, killed = b"", 0.0, 0, 0, ""
    while True:
        readable, _, _ = select.select([pipe], [], [], POLL_S)
        if readable:
            chunk = os.read(pipe, 65536)
            if not chunk:
                break
            received += chunk
        if not begun and received.startswith(READY):
            begun, before = time.perf_counter(), resident(child)
        if begun and limited and not killed:
            most = max(most, resident(child) - before)
            if most > MEMORY_BYTES:
                killed = "memory"
            elif time.perf_counter() - begun > WALL_S:
                killed = "hang"
            if killed:
                os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it has started
    seconds = time.perf_counter() - begun if begun else 0.0
    text = received[len(READY) :].decode(errors="replace")
    if not begun:
        return Ended("unprepared", f"status {status}")
    if killed:
        return Ended(killed, "", most, seconds)
    if os.WIFSIGNALED(status):
        number = signal.Signals(os.WTERMSIG(status))
        return Ended("hang" if number == signal.SIGXCPU else "crash", number.name, most, seconds)
    if status:
        return Ended("crash", f"status {status}", most, seconds)
    return Ended("done", text, most, seconds)


def resident(process: int) -> int:
    """Memory of a process in bytes, without that of mapped files such as libraries; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
