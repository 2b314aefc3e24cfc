"""`python -m l2a_transfer.cli.child PARENT VERB …`: a command that is killed when its parent process ends."""

from __future__ import annotations

import os
import signal
import sys

from l2a_transfer.cli.main import main

PR_SET_PDEATHSIG = 1
"""The option of Linux's prctl."""


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, even after a crash. Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


if __name__ == "__main__":
    die_with(int(sys.argv.pop(1)))
    # Shells make background processes ignore Ctrl-C, and Ray's workers block it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    main(prog_name="l2a-transfer")
