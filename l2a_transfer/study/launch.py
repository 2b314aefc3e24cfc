"""Where the commands of a study run: on this machine, or on the nodes of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from l2a_transfer.errors import unknown_name
from l2a_transfer.features.extraction.ray_engine import RayConfig
from l2a_transfer.study.children import Launcher, Processes
from l2a_transfer.study.config import Study
from l2a_transfer.study.ray_engine import on_ray

ENGINES = ("local", "ray")


@contextmanager
def launcher_of(
    study: Study, engine: str, *, environment: Mapping[str, str], ray_address: str | None = None
) -> Iterator[Launcher]:
    """The launcher of an `engine`: `local` or `ray`. `environment`: that of this process.

    The commands use this very package, and `study.threads` CPU threads each. Raises: UnknownNameError; as `on_ray`.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join([package, *filter(None, [environment.get("PYTHONPATH")])])
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(study.threads)}
    if engine == "local":
        yield Processes(study.folder, {**environment, **own})
        return
    with on_ray(study, RayConfig(ray_address), own) as launcher:
        yield launcher
