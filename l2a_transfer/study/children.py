"""Runs commands as child processes that write a log, and that save their work when told to stop."""

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
"""Seconds that a command may take to save its work and end."""
CODE = (
    "import sys; sys.path[:] = filter(None, sys.path); import runpy; "
    "runpy.run_module('l2a_transfer.cli.child', run_name='__main__', alter_sys=True)"
)
"""Runs a command like `python -m`, but imports nothing from the working directory. That is the folder of the study's
file, which may be untrusted."""


class Child(Protocol):
    """A running command."""

    def poll(self) -> int | None:
        """The exit code; None while the command runs."""

    def ask_to_stop(self) -> None:
        """Send Ctrl-C, which makes every command save its work and end."""

    def end(self) -> None:
        """Wait until the command has ended; kill it after STOP_S seconds."""


class Launcher(Protocol):
    """Starts the commands of a study."""

    def start(self, arguments: Sequence[str], log: Path) -> Child:
        """Start `l2a-transfer ARGUMENTS`; its output is appended to `log`."""


def child_command(arguments: Sequence[str]) -> list[str]:
    """The program that runs `l2a-transfer ARGUMENTS` and ends with this process."""
    return [sys.executable, "-c", CODE, str(os.getpid()), *arguments]


def import_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that make a command import this same package, and nothing from its working directory.

    Relative folders in PYTHONPATH are resolved in this process. Empty ones, which mean the working directory, are
    removed.
    """
    package = str(Path(__file__).parents[2])
    others = [os.path.abspath(part) for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    # For Python 3.11 and later, and for the processes that a command starts.
    return {"PYTHONPATH": os.pathsep.join([package, *others]), "PYTHONSAFEPATH": "1"}


class Processes:
    """Starts each command in its own process; on Linux the kernel kills it when this process ends.

    Parameters
    ----------
    folder : Path
        The working directory of the commands.
    environment : mapping
        Their environment.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, environment

    def start(self, arguments: Sequence[str], log: Path) -> Child:
        with open_log(log) as log_file:
            process = subprocess.Popen(
                child_command(arguments),
                cwd=self.folder,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                start_new_session=True,  # so that Ctrl-C in a terminal reaches only the study, which passes it on once
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
            os.killpg(self.process.pid, signal.SIGKILL)  # and its workers
            self.process.wait()
