"""Runs the commands of a study as Ray tasks. All nodes must see the study's folder and data under the same path."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from l2a_transfer.features.extraction.ray_engine import RayConfig, connected
from l2a_transfer.files import open_log
from l2a_transfer.study.children import STOP_S, Child, Launcher, child_command
from l2a_transfer.study.config import Study

CUDA = "cuda"
POLL_S = 0.1


@contextmanager
def open_ray_launcher(study: Study, config: RayConfig, environment: dict[str, str]) -> Iterator[Launcher]:
    """A launcher that runs commands on a Ray cluster.

    Parameters
    ----------
    study : Study
        The study.
    config : RayConfig
        The cluster.
    environment : dict
        Variables that are added to the environment of the nodes.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    BackendError
        If the cluster cannot be used.
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
    """One Ray task. If Ray loses it, the reason is added to the log of the step."""

    def __init__(self, ray: Any, call: Any, log: Path) -> None:
        self.ray, self.call, self.log = ray, call, log
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None and self.ray.wait([self.call], timeout=0)[0]:
            try:
                self._code = int(self.ray.get(self.call))
            except self.ray.exceptions.RayError as error:
                self._code = 1
                with open_log(Path(self.log)) as log_file:
                    log_file.write(f"Error: the Ray task was lost: {str(error).splitlines()[0]}\n".encode())
        return self._code

    def ask_to_stop(self) -> None:
        self.ray.cancel(self.call)

    def end(self) -> None:
        self.ray.wait([self.call], timeout=STOP_S)


def run_command(arguments: list[str], folder: str, log: str, environment: dict[str, str]) -> int:
    """Run `l2a-transfer ARGUMENTS` on this node; its exit code. A cancelled command saves its work and ends."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open_log(Path(log)) as log_file:
        child = subprocess.Popen(
            child_command(arguments),
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
        )
    try:
        while (code := child.poll()) is None:
            time.sleep(POLL_S)  # Ray cancels with a KeyboardInterrupt, which a blocking wait would delay
        return code
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        return child.wait(STOP_S)
