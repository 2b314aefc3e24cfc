"""Chooses where the commands of a study run: on this machine, or on the nodes of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from l2a_transfer.errors import unknown_name
from l2a_transfer.features.extraction.extract import ENGINES
from l2a_transfer.features.extraction.ray_engine import RayConfig
from l2a_transfer.study.children import Launcher, Processes, import_environment
from l2a_transfer.study.config import Study
from l2a_transfer.study.ray_launcher import open_ray_launcher


@contextmanager
def open_launcher(
    study: Study, engine: str, *, environment: Mapping[str, str], ray_address: str | None = None
) -> Iterator[Launcher]:
    """A launcher for the commands of a study. They import this same package and use `study.threads` CPU threads each.

    Parameters
    ----------
    study : Study
        The study.
    engine : {"local", "ray"}
        Where commands run.
    environment : mapping
        The environment of this process.
    ray_address : str or None
        A running Ray cluster; without it, one is started on this machine.

    Raises
    ------
    UnknownNameError
        For another engine.
    MissingExtraError, BackendError
        Like `open_ray_launcher`.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    own = {**import_environment(environment), "OMP_NUM_THREADS": str(study.threads)}
    if engine == "local":
        yield Processes(study.folder, {**environment, **own})
        return
    with open_ray_launcher(study, RayConfig(ray_address), own) as launcher:
        yield launcher
