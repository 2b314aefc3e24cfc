"""How many columns, rows and numbers to process at a time to stay within a memory limit.

N rows, D columns of X, F folds; a problem is one class against the rest in one fold.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from l2a_transfer.errors import ArgumentError, MemoryLimitError
from l2a_transfer.memory import mebibytes, usable_memory

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

PROBLEM_ROW_BYTES = 44
"""Peak memory per row and problem in a step: sign and score, their copies for the unfinished problems and for those
left of them, score along the step, and whether the row is active."""
PROBLEM_COLUMN_BYTES = 240
"""Memory per column and problem: weights, gradient, step, coordinates, and the vectors of conjugate gradients."""
ROW_BYTES = 160
"""Memory per row: its class, its best score and guess for each of up to eight C, and room for its number."""
RESIDENT_BYTES = 12
"""Memory per number of X if it is kept: float64 for scores and gradients, float32 for conjugate gradients."""
BASIS_BYTES = 64
"""Memory per number of the (D + 1)² second moment while its eigenvectors are computed."""
KEPT_BASIS_BYTES = 8
"""Memory per number of the eigenvectors afterwards."""
BLOCK_BYTES = 64
"""Memory per number of a working block: a block of X being read, or of scores in use."""
SINGLE_BYTES = 4
"""Memory per number of X if it is kept only as float32."""
WORTH_SINGLE = 32
"""A float32 copy of X is kept only with room for this many problems; products with it are slower for smaller
batches."""
ROOMY = 0.75
"""Batches are solved at once only if they need no more than this part of the limit. The memory that a thread has freed
is not available to the others at once: by a measurement, two threads took up to 16 % of the limit more."""
LARGEST_BLOCK = 1 << 20
LARGEST_BASIS = 4096


@dataclass(frozen=True)
class MemoryPlan:
    """X is kept on the device (`resident`), only as float32 (`single`), or read in blocks; `batch` problems are solved
    together; `block` numbers are processed at a time; whether there is room for an eigenbasis, and for the second
    moments of each problem. If `early`, the eigenbasis is computed before X is copied and before there are problems. X
    is then read twice more, but the memory of that computation is free for them."""

    resident: bool
    batch: int
    block: int
    basis: bool
    moments: bool
    single: bool = False
    early: bool = False


def plan_memory(N: int, D: int, *, folds: int, problems: int, budget: int, given: bool = True) -> MemoryPlan:
    """The plan that needs the fewest passes over X within `budget` bytes.

    If none fits, raises: ArgumentError if the budget was `given` as max_memory, otherwise MemoryLimitError.
    """
    plan = _plan(N, D, folds=folds, problems=problems, budget=budget, given=given)
    if not plan.resident:
        how = "it is kept only as float32" if plan.single else "it is read in blocks"
        log.info("X, %d × %d, does not fit into %.0f MiB: %s", N, D, budget / 2**20, how)
    if plan.batch < problems:
        log.info("%d SVMs do not fit into %.0f MiB: batches of %d", problems, budget / 2**20, plan.batch)
    return plan


def has_room(plan: MemoryPlan, N: int, D: int, *, folds: int, problems: int, budget: int) -> bool:
    """Whether all problems and the same data would also fit into `ROOMY` of the budget, as several threads need it."""
    if not plan.resident or plan.batch < problems:
        return False
    smaller = _plan(N, D, folds=folds, problems=problems, budget=int(ROOMY * budget), given=False)
    return replace(smaller, block=plan.block, early=plan.early) == plan


def _plan(N: int, D: int, *, folds: int, problems: int, budget: int, given: bool) -> MemoryPlan:
    square = (D + 1) ** 2
    block = min(LARGEST_BLOCK, budget // (8 * BLOCK_BYTES))
    per_problem = PROBLEM_ROW_BYTES * N + PROBLEM_COLUMN_BYTES * (D + 1)
    room = budget - BLOCK_BYTES * block - (ROW_BYTES + folds) * N
    if room < per_problem:
        least = budget - room + per_problem
        if not given:
            raise MemoryLimitError(
                f"one SVM on {N} rows of {D} columns needs {mebibytes(least)} more memory, but only "
                f"{mebibytes(budget)} are available",
                "raise `max_memory` (the default is half of what this process may still use), or use fewer images "
                "(`limit`)",
            )
        raise ArgumentError(
            f"max_memory {budget} is too small: one SVM on {N} rows of {D} columns needs {least} bytes; increase it"
        )
    working, kept = BASIS_BYTES * square, KEPT_BASIS_BYTES * square
    if D > LARGEST_BASIS or max(working, kept + per_problem) > room:
        return _shared_out(room, N, D, problems, block, basis=False)
    late = _shared_out(room - working, N, D, problems, block, basis=True)
    if late.resident and late.moments and late.batch == problems:
        return late
    return replace(_shared_out(room - kept, N, D, problems, block, basis=True), early=True)


def _shared_out(room: int, N: int, D: int, problems: int, block: int, *, basis: bool) -> MemoryPlan:
    """The plan for `room` bytes besides the working block and the eigenbasis."""
    per_problem = PROBLEM_ROW_BYTES * N + PROBLEM_COLUMN_BYTES * (D + 1)
    whole = RESIDENT_BYTES * N * (D + 1)
    many = min(problems, WORTH_SINGLE)
    single = SINGLE_BYTES * N * (D + 1) + many * per_problem <= room
    crowded = many == WORTH_SINGLE and whole + many * per_problem > room
    resident = whole + per_problem <= room and not (single and crowded)
    room -= whole * resident
    single = single and not resident
    room -= SINGLE_BYTES * N * (D + 1) * single
    batch = min(problems, room // per_problem)
    moments = resident and batch * (per_problem + 8 * (D + 1) ** 2) <= room
    return MemoryPlan(resident, batch, block, basis, moments, single)


def budget_of(max_memory: int | None, device: torch.device) -> int:
    """Bytes that a fit may use on a device: half of the available memory, or `max_memory`, but on a CPU at most seven
    eighths of the available memory."""
    if device.type == "cuda":
        import torch

        return max_memory or int(torch.cuda.mem_get_info(device)[0] // 2)
    usable = usable_memory()
    if not max_memory:
        return usable // 2
    if max_memory > usable:
        log.warning(
            "max_memory is %s, but this process may only use %s more; the fit stays below that",
            mebibytes(max_memory),
            mebibytes(usable),
        )
    return min(max_memory, usable * 7 // 8)
