"""The processes that train one network together, and on what each of them computes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from l2a_transfer.errors import TrainingError

log = logging.getLogger(__name__)
TO_JOIN = timedelta(minutes=10)
"""How long a process waits for the others to come up."""
WHILE_ONE_MEASURES = timedelta(hours=2)
"""How long the other processes wait for the first, which downloads, saves and measures."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started: `rank` of `size`, `local` of those on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Ranks:
        """What torchrun says in the environment variables RANK, WORLD_SIZE and LOCAL_RANK; alone where it does not.

        Raises: TrainingError where they are no numbers that fit together.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if "WORLD_SIZE" not in environment:
            return cls()
        try:
            ranks = cls(*(int(environment[name]) for name in names))
        except (KeyError, ValueError) as error:
            raise TrainingError(
                f"the environment has WORLD_SIZE, but not all of {', '.join(names)}: {error}"
            ) from error
        if not 0 <= ranks.rank < ranks.size or ranks.local < 0:
            raise TrainingError(f"RANK {ranks.rank} of WORLD_SIZE {ranks.size} is no process of a group")
        return ranks

    @property
    def first(self) -> bool:
        """True in the one process that writes, measures and reports."""
        return self.rank == 0


@dataclass(frozen=True)
class Where:
    """On what a run computes; none of it is part of the recipe.

    `pixels`: where they lie, `auto`, `memory` or `stream`; `workers`: decoding processes.
    """

    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    sync_batch_norm: bool = False
    pixels: str = "auto"
    workers: int | None = None
    ranks: Ranks = field(default_factory=Ranks)


@contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """The processes of `ranks` joined for as long as the body runs: NCCL between GPUs, gloo between CPUs.

    After an error the group is left as it is: to leave it takes all processes, and the others may be waiting for this
    one. It then ends with its error, and torchrun ends the others. Raises: TrainingError where the processes do not
    find each other.
    """
    if ranks.size == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    where = " ".join(f"{name}={os.environ.get(name, '')}" for name in ("MASTER_ADDR", "MASTER_PORT"))
    if ranks.first:
        log.info("joining %d processes, %s", ranks.size, where)
    try:
        store, rank, size = next(rendezvous("env://", timeout=TO_JOIN))
        store.set_timeout(WHILE_ONE_MEASURES)  # the first collective of GPUs waits in the store
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size,
            timeout=WHILE_ONE_MEASURES,
        )  # fmt: skip
    except (RuntimeError, ValueError, OverflowError) as error:  # torch's DistError is a RuntimeError
        said = str(error).strip().splitlines()
        raise TrainingError(
            f"process {ranks.rank} of {ranks.size} does not find the others at {where}: "
            f"{said[0] if said else type(error).__name__}; torchrun sets these, and starts all processes"
        ) from error
    yield
    dist.destroy_process_group()


@contextmanager
def one_before_others(ranks: Ranks) -> Iterator[None]:
    """The body runs in one process of each machine first, and in the others when it has ended there."""
    if ranks.size > 1 and ranks.local:
        dist.barrier()
    yield
    if ranks.size > 1 and not ranks.local:
        dist.barrier()
