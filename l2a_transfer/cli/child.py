"""`python -m l2a_transfer.cli.child PARENT VERB …`: a command that ends when the process that started it ends."""

from __future__ import annotations

import os
import signal
import sys

from l2a_transfer.cli.main import main

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl."""


def end_with(parent: int) -> None:
    """Have this process killed when its parent ends, however that ends; on Linux, where the kernel does it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


if __name__ == "__main__":
    end_with(int(sys.argv.pop(1)))
    # A shell has its children in the background ignore Ctrl-C, and Ray's workers block it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    main(prog_name="l2a-transfer")
