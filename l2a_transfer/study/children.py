"""Commands as child processes: started with a log, asked to stop so that they save what they have, ended at last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from l2a_transfer.files import open_log

STOP_S = 60.0
"""How long a command may take to save and end after it was asked to stop."""


class Child(Protocol):
    """A command that was started."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def ask_to_stop(self) -> None:
        """Ctrl-C, which every command takes as: save what there is, and end."""

    def end(self) -> None:
        """Wait until it has ended, and kill it where that takes too long."""


class Launcher(Protocol):
    """How the commands of a study are run."""

    def start(self, arguments: Sequence[str], log: Path) -> Child:
        """Start `l2a-transfer ARGUMENTS`; what it says is added to `log`."""


class Processes:
    """Each command in a process of its own, in `folder`; killed together with this process on Linux.

    `environment`: of the children.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def start(self, arguments: Sequence[str], log: Path) -> Child:
        program = [sys.executable, "-m", "l2a_transfer.cli.child", str(os.getpid())]
        with open_log(log) as said:
            process = subprocess.Popen(
                [*program, *arguments],
                cwd=self.folder,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # Ctrl-C in a terminal is for the study, which passes it on once
            )
        return _Process(process)


class _Process:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def poll(self) -> int | None:
        return self.process.poll()

    def ask_to_stop(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self) -> None:
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # with its own workers
            self.process.wait()
