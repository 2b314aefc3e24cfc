"""The commands of a study as tasks of a Ray cluster, whose nodes all see the study's folder and data under one path."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from l2a_transfer.features.extraction.ray_engine import RayConfig, connected
from l2a_transfer.files import open_log
from l2a_transfer.study.children import STOP_S, Child, Launcher
from l2a_transfer.study.config import Study

CUDA = "cuda"
POLL_S = 0.1


@contextmanager
def on_ray(study: Study, config: RayConfig, environment: dict[str, str]) -> Iterator[Launcher]:
    """How commands run on the cluster that `config` describes. `environment`: what they have beside the nodes' own.

    Raises: MissingExtraError where Ray is not installed; BackendError for a cluster that cannot be used.
    """
    with connected(config, study.threads) as ray:
        yield _Tasks(ray, study, environment)


class _Tasks:
    def __init__(self, ray: Any, study: Study, environment: dict[str, str]) -> None:
        resources = {"num_cpus": study.threads} | ({"num_gpus": 1} if study.device == CUDA else {})
        self.ray, self.folder, self.environment = ray, study.folder, environment
        self.task = ray.remote(max_retries=0, **resources)(run_command)

    def start(self, arguments: Sequence[str], log: Path) -> Child:
        call = self.task.remote(list(arguments), str(self.folder), str(log.absolute()), self.environment)
        return _Task(self.ray, call, log)


class _Task:
    """One call; what Ray says of a call that it lost is added to the step's log."""

    def __init__(self, ray: Any, call: Any, log: Path) -> None:
        self.ray, self.call, self.log = ray, call, log
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None and self.ray.wait([self.call], timeout=0)[0]:
            try:
                self._code = int(self.ray.get(self.call))
            except self.ray.exceptions.RayError as error:
                self._code = 1
                with open_log(Path(self.log)) as said:
                    said.write(f"Error: the Ray task was lost: {str(error).splitlines()[0]}\n".encode())
        return self._code

    def ask_to_stop(self) -> None:
        self.ray.cancel(self.call)

    def end(self) -> None:
        self.ray.wait([self.call], timeout=STOP_S)


def run_command(arguments: list[str], folder: str, log: str, environment: dict[str, str]) -> int:
    """`l2a-transfer ARGUMENTS` on this node: its exit code. When the call is cancelled, the command saves and ends."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open_log(Path(log)) as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "l2a_transfer.cli.child", str(os.getpid()), *arguments],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        while (code := child.poll()) is None:
            time.sleep(POLL_S)  # Ray cancels a call by an interrupt that does not reach into a wait
        return code
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        return child.wait(STOP_S)
