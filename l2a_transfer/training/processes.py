"""The processes that train one network together, and the device and settings of each."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from l2a_transfer.errors import TrainingError

log = logging.getLogger(__name__)
JOIN_TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others to start."""
COLLECTIVE_TIMEOUT = timedelta(hours=2)
"""How long the other processes wait for the first, which downloads, saves and evaluates."""


@dataclass(frozen=True)
class ProcessRank:
    """This process among those that torchrun started: `rank` of `size`, and `local`, its rank on this machine.

    `machine`: the number of processes on this machine according to torchrun; 0 if it does not say.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    machine: int = 0

    @property
    def on_machine(self) -> int:
        """Number of processes that share this machine's memory. If torchrun does not say, all of them."""
        return self.machine or self.size

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ProcessRank:
        """Read the environment variables RANK, WORLD_SIZE and LOCAL_RANK of torchrun; a single process without them.

        LOCAL_WORLD_SIZE may be missing. Raises: TrainingError if they are not consistent numbers.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if "WORLD_SIZE" not in environment:
            return cls()
        try:
            rank, size, local = (int(environment[name]) for name in names)
            process = cls(rank, size, local, int(environment.get("LOCAL_WORLD_SIZE", 0)))
        except (KeyError, ValueError) as error:
            raise TrainingError(
                f"the environment has WORLD_SIZE, but not all of {', '.join(names)}: {error}"
            ) from error
        if not 0 <= process.rank < process.size or process.local < 0 or not 0 <= process.machine <= process.size:
            raise TrainingError(
                f"RANK {process.rank}, LOCAL_RANK {process.local}, WORLD_SIZE {process.size} and LOCAL_WORLD_SIZE "
                f"{process.machine} do not fit together"
            )
        return process

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, evaluates and logs."""
        return self.rank == 0


@dataclass(frozen=True)
class Placement:
    """The device and settings with which a run computes. They are not part of the recipe.

    `pixels`: where pixels are kept, `auto`, `memory` or `stream`; `workers`: number of decoding processes.
    """

    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    sync_batch_norm: bool = False
    pixels: str = "auto"
    workers: int | None = None
    process: ProcessRank = field(default_factory=ProcessRank)


@contextmanager
def process_group(process: ProcessRank, device: torch.device) -> Iterator[None]:
    """Join the processes of a run for this block: NCCL between GPUs, gloo between CPUs.

    After an error the group is not left, because that takes all processes, and the others may be waiting for this one.
    This process then ends with its error, and torchrun ends the others. Raises: TrainingError if the processes cannot
    find each other.
    """
    if process.size == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    where = " ".join(f"{name}={os.environ.get(name, '')}" for name in ("MASTER_ADDR", "MASTER_PORT"))
    if process.is_main:
        log.info("joining %d processes, %s", process.size, where)
    try:
        store, rank, size = next(rendezvous("env://", timeout=JOIN_TIMEOUT))
        store.set_timeout(COLLECTIVE_TIMEOUT)  # the first collective of GPUs waits in the store
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=COLLECTIVE_TIMEOUT,
        )
    except (RuntimeError, ValueError, OverflowError) as error:  # torch's DistError is a RuntimeError
        said = str(error).strip().splitlines()
        raise TrainingError(
            f"process {process.rank} of {process.size} cannot find the others at {where}: "
            f"{said[0] if said else type(error).__name__}; use torchrun, which sets these and starts all processes"
        ) from error
    yield
    dist.destroy_process_group()


@contextmanager
def exit_at_once(process: ProcessRank) -> Iterator[None]:
    """End this process after this block with exit code 0, without finalizing Python, if it is one of several.

    The threads of gloo outlive the process group, because PyTorch keeps references to it. If one of them releases a
    tensor while Python is being finalized, it aborts the process (pytorch/pytorch#179291), and torchrun reports that a
    run failed which was complete. An exception is passed on.
    """
    yield
    if process.size == 1:
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


@contextmanager
def first_process_first(process: ProcessRank) -> Iterator[None]:
    """Run this block in one process of each machine first, and then in the others."""
    if process.size > 1 and process.local:
        dist.barrier()
    yield
    if process.size > 1 and not process.local:
        dist.barrier()
