"""Compute row ranges on a Ray cluster: actors hold the network, each call computes one range, and shards are written to
a shared folder.

A call may be retried, run twice, or die half-way. It writes a complete shard or none, and always the same one, because
an actor that would compute other bytes refuses to start.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.data.sources import ImageSource
from l2a_transfer.errors import BackendError, L2AError, MissingExtraError, StoreError, names_keywords
from l2a_transfer.features.backends.interface import FeatureBackend
from l2a_transfer.features.extraction.compute import compute_shards
from l2a_transfer.features.extraction.partners import SELF, SET
from l2a_transfer.features.extraction.plan import differences, fingerprint
from l2a_transfer.features.extraction.shard_folder import ShardFolder
from l2a_transfer.threads import usable_cores, waiting

log = logging.getLogger(__name__)
RESTARTS = 8
"""How often Ray restarts a dead actor. The call that died with it is repeated here."""
REST_S = 1.0
"""Seconds to wait before calling an actor again that is being restarted."""
ABSENCES = 600
"""Number of consecutive failed calls after which an actor is given up."""
ATTEMPTS = 3
"""How often a finished shard may be missing before the folder is assumed not to be shared."""


@names_keywords
@dataclass(frozen=True)
class RayConfig:
    """Where Ray runs.

    Parameters
    ----------
    address : str, optional
        Address of a running cluster; by default, one is started on this machine.
    actors : int, optional
        Number of actors; by default as many as fit.
    """

    address: str | None = None
    actors: int | None = None


class Extractor:
    """A Ray actor with the network and the images. It refuses to work if it would compute other bytes."""

    def __init__(
        self, source: ImageSource, backend: FeatureBackend, folder: Path, identity: dict[str, Any], **options: Any
    ) -> None:
        import torch

        if isinstance(identity.get("threads"), int) and identity["threads"] > 0:
            torch.set_num_threads(identity["threads"])
        self.source, self.backend, self.options = source, backend, options
        self.shards = ShardFolder(folder, identity)
        self.refusal: L2AError | None = None
        try:
            rule = SELF if options["partners"] is None else SET
            here = fingerprint(source, backend, options["batch_size"], attention=options["attention"], partners=rule)
            if named := differences(identity, here):
                raise BackendError(
                    f"{os.uname().nodename}: would compute other bytes than the driver ({named}); use identical "
                    "nodes, and start the command on one of them"
                )
            if not self.shards.belongs_to(identity):
                raise StoreError(f"{folder}: missing on {os.uname().nodename}", "`out` must be in a shared folder")
        except L2AError as error:
            self.refusal = error  # an actor that raises here would be restarted again and again

    def work(self, start: int, stop: int) -> L2AError | None:
        """Write the shard of rows start…stop − 1 unless it exists. Errors are returned, which preserves their type."""
        if self.refusal is not None:
            return self.refusal
        rows = range(start, stop)
        try:
            there = self.shards.read(rows)
            if there is None or (there.skipped and self.options["on_error"] == "fail"):
                for _ in compute_shards(self.source, self.backend, self.shards, [rows], **self.options):
                    pass
        except L2AError as error:
            return error
        return None


def compute_on_ray(
    source: ImageSource,
    backend: FeatureBackend,
    shards: ShardFolder,
    ranges: Sequence[range],
    *,
    config: RayConfig,
    batch_size: int,
    workers: int | None = None,
    on_error: str = "fail",
    attention: bool = False,
    partners: NDArray[np.int64] | None = None,
    advance: Callable[[int], object] = lambda images: None,
) -> Iterator[tuple[range, dict[int, str]]]:
    """Same as `compute_shards`, but actors on the cluster decode and compute. Ranges are yielded as they finish.

    Raises: MissingExtraError if Ray is not installed; BackendError if the cluster cannot run it; and what
    `compute_shards` raises in an actor.
    """
    if not ranges:
        return
    threads = max(1, int(shards.fingerprint.get("threads", 1)))
    with connected(config, threads) as ray:
        resources = {"num_gpus": 1} if backend.device == "cuda" else {"num_cpus": threads}
        kind, each = ("GPU", 1) if backend.device == "cuda" else ("CPU", threads)
        fitting = int(ray.cluster_resources().get(kind, 0)) // each
        count = min(len(ranges), config.actors or max(1, fitting))
        if fitting == 0:
            raise BackendError(f"the Ray cluster has no node with {each} {kind}; it has {ray.cluster_resources()}")
        log.info("%d Ray actors, %d %s each", count, each, kind)
        own = {"env_vars": waiting()}
        kinds = ray.remote(max_restarts=RESTARTS, max_task_retries=0, runtime_env=own, **resources)(Extractor)
        job = [ray.put(source), ray.put(backend), shards.folder.absolute(), shards.fingerprint]
        options = {"batch_size": batch_size, "workers": workers or 0, "on_error": on_error, "attention": attention}
        options["partners"] = partners
        pool = [kinds.remote(*job, **options) for _ in range(count)]
        try:
            yield from _dispatch(ray, pool, shards, ranges, advance)
        finally:
            for actor in pool:
                ray.kill(actor)


def _dispatch(
    ray: Any, pool: list[Any], shards: ShardFolder, ranges: Sequence[range], advance: Callable[[int], object]
) -> Iterator[tuple[range, dict[int, str]]]:
    """One call at a time per actor. An idle actor repeats the oldest unfinished range, in case its actor is lost."""
    waiting, left = deque(ranges), dict.fromkeys(ranges, ATTEMPTS)
    idle, calls = deque(pool), dict[Any, tuple[Any, range]]()
    absent = dict.fromkeys(pool, 0)  # consecutive failures of each actor
    resting: deque[tuple[float, Any]] = deque()  # (time to call again, actor)
    while left:
        while resting and resting[0][0] <= time.monotonic():
            idle.append(resting.popleft()[1])
        while idle and (rows := _next_range(waiting, left, calls)) is not None:
            actor = idle.popleft()
            calls[actor.work.remote(rows.start, rows.stop)] = actor, rows
        if not calls and not resting:
            raise BackendError(f"every Ray actor died more than {RESTARTS} times; finished work is kept")
        if not calls:
            time.sleep(REST_S)
            continue
        ready = ray.wait(list(calls), num_returns=1, timeout=REST_S if resting else None)[0]
        for call in ready:
            actor, rows = calls.pop(call)
            try:
                error = ray.get(call)
            except ray.exceptions.RayActorError as death:
                waiting.appendleft(rows)
                absent[actor] += 1
                if absent[actor] == 1:
                    log.warning("a Ray actor died; another one computes its rows: %s", str(death).splitlines()[0])
                if not isinstance(death, ray.exceptions.ActorDiedError) and absent[actor] < ABSENCES:
                    resting.append((time.monotonic() + REST_S, actor))  # Ray is restarting it
                continue
            absent[actor] = 0
            idle.append(actor)
            if rows not in left:
                continue
            if error is not None:
                raise error
            shard = shards.read(rows)
            if shard is not None:
                del left[rows]
                advance(len(rows))
                yield rows, shard.skipped
                continue
            left[rows] -= 1
            if left[rows] == 0:
                raise StoreError(f"{shards.path(rows)}: written by an actor, but not found here; is the folder shared?")
            waiting.append(rows)


def _next_range(waiting: deque[range], left: dict[range, int], calls: dict[Any, tuple[Any, range]]) -> range | None:
    while waiting:
        rows = waiting.popleft()
        if rows in left:
            return rows
    running = [rows for _, rows in calls.values()]
    return next((rows for rows in running if rows in left and running.count(rows) == 1), None)


@contextmanager
def connected(config: RayConfig, threads: int) -> Iterator[Any]:
    """Connect to Ray. A cluster that is started here has CPUs for a worker of `threads`, and is stopped at the end."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("engine 'ray'", "ray", "ray") from error
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    before = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray accepts this setting only here; nothing is reported
    try:
        if config.address is not None:
            ray.init(address=config.address, **quiet)
        else:
            ray.init(address="local", num_cpus=_cores(config, threads), include_dashboard=False, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BackendError(f"the Ray cluster {config.address or 'on this machine'} cannot be used: {error}") from error
    finally:
        if before is None:
            del os.environ["RAY_USAGE_STATS_ENABLED"]
        else:
            os.environ["RAY_USAGE_STATS_ENABLED"] = before
    try:
        yield ray
    finally:
        ray.shutdown()


def _cores(config: RayConfig, threads: int) -> int:
    """CPUs of a cluster on this machine: those that this process may use, or more if more actors are requested."""
    return max(usable_cores(), threads * (config.actors or 1))
