"""Where a run computes: the device, its precision, the processes that share the work, and how fast it could be."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from l2a_transfer.errors import TrainingError, unknown_name
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.registry import build_model

log = logging.getLogger(__name__)
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16")
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


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises: TrainingError for a device that is not there."""
    if name not in DEVICES:
        raise unknown_name("device", name, DEVICES)
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device 'cuda' was asked for and PyTorch sees no CUDA GPU", "use `device='cpu'`")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise TrainingError(f"process {local_rank} of this machine has no GPU; it has {torch.cuda.device_count()}")
    return torch.device("cuda", local_rank)


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 where the device multiplies it faster than float32: CUDA GPUs that have it and CPUs with AMX.

    AVX512-BF16 alone does not count: without AMX the same step ran at 104 images a second in bf16 and at 160 in
    float32 (two Sapphire Rapids cores with AMX masked, width 0.25, batch 128).
    """
    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def device_name(device: torch.device) -> str:
    """What ran it, in words: the GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


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


def macs(config: ModelConfig, size: int) -> int:
    """Multiplications of one image's forward pass through the layers that are built, at `size` × `size` pixels.

    As torch's FlopCounterMode counts: convolutions, linear layers and products of matrices.
    """
    from torch.utils.flop_counter import FlopCounterMode

    model = build_model(config, seed=0).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops()) // 2


def matrix_peak(device: torch.device, precision: str, *, side: int | None = None, repeats: int = 5) -> float:
    """Floating-point operations a second of the best of `repeats` products of two `side` × `side` matrices.

    By default 8,192 on a GPU and 1,024 on a CPU, where that takes a hundredth of a second or so. The numbers are
    random: a GPU that multiplies ones draws less power and is faster than with any real matrix.
    """
    side = side or (8192 if device.type == "cuda" else 1024)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, dtype=dtype, generator=generator) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(repeats + 1):  # the first warms up
        _wait(device)
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
