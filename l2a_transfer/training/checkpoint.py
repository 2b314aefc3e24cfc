"""Reading and writing checkpoints. Writing is atomic, and a fingerprint ties each checkpoint to one run."""

from __future__ import annotations

import errno
import io
import json
import logging
import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l2a_transfer import files
from l2a_transfer.errors import DamagedCheckpointError, TrainingError
from l2a_transfer.inputs import open_input
from l2a_transfer.pickles import NotPlainError
from l2a_transfer.saved import FAULTS, read_saved
from l2a_transfer.training.arithmetic import MACHINE

log = logging.getLogger(__name__)
SCHEMA = "l2a-checkpoint/1"
HINTS = {
    "threads": " (set by OMP_NUM_THREADS)",
    "processes": " (set by torchrun)",
    "data": " (the data set, its folder, the held-out images, or how files are compared)",
    "test": " (the data set, its folder, the held-out images, or how files are compared)",
    "init_from": " (the weights to start from)",
    "arithmetic": " (results differ in their last bits: another processor, or a setting such as ONEDNN_MAX_CPU_ISA)",
    "instructions": " (of the CPU)",
}
"""Explanations of fingerprint keys that are not names of options."""
ROW = ("epoch", "resolution", "lr", "train_loss", "train_accuracy", "images_per_second", "mfu", "seconds")
"""The numbers recorded for every epoch in `metrics.jsonl`."""
LARGEST = 1e300
"""Limit on the absolute value of numbers in a checkpoint."""
LAYERS_OF_G = ("global_branch.", "project_g.")
"""Layers that may be built but unused. They then have no gradient, and so no momentum."""
METRIC = torch.zeros((), dtype=torch.float64)
"""A tensor with the shape and dtype of the sum of an objective's metric."""
SHORT = reprlib.Repr()
SHORT.maxother = SHORT.maxstring = SHORT.maxlong = 200
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write atomically: after a kill or with a full disk, `path` is either the previous or the complete new checkpoint.

    Raises: TrainingError if it cannot be written.
    """
    whole = io.BytesIO()  # writing directly, torch would report a full disk as "unexpected pos"
    torch.save({"schema": SCHEMA, **content}, whole)
    # Release the view even if writing fails: a view that outlives its buffer causes an error at garbage collection.
    with whole.getbuffer() as view:
        write_run_file(path, view, kept=path.exists())


def write_run_file(path: Path, content: bytes | memoryview, *, kept: bool = True) -> None:
    """Write atomically. `kept`: the run has a checkpoint. Raises: TrainingError if it cannot be written; `path` is then
    unchanged."""
    try:
        files.write_whole(path, content)
    except OSError as error:
        todo = "free some space" if error.errno in NO_ROOM else "fix that"
        raise TrainingError(
            f"{path}: could not be saved: {error.strerror or error}; "
            + ("the previous checkpoint is kept" if kept else "this run has no checkpoint yet"),
            f"{todo}, and start again" + (": `resume=True` continues from this run's last checkpoint" if kept else ""),
        ) from error


def load_checkpoint(
    path: Path, fingerprint: dict[str, Any], *, earlier: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Load the checkpoint of this run.

    `earlier`: fingerprint keys for which earlier versions wrote a different value, with that value.

    Raises: TrainingError if the file is damaged, or the run had another config, recipe, seed or data set; the error
    names the differences.
    """
    content = read_checkpoint(path)
    theirs = upgraded(content["fingerprint"], fingerprint, earlier)
    if apart := differences(*(_part(values, MACHINE, within=False) for values in (theirs, fingerprint))):
        raise TrainingError(
            f"{path}: made by another run ({apart})",
            "use another `out`, or the same options, or `overwrite=True` to start again",
        )
    if content.get("epoch") == json.loads(fingerprint["recipe"])["epochs"]:
        return content  # training is complete, and any machine may evaluate the network
    both = [key for key in MACHINE if key in theirs and key in fingerprint]
    if apart := differences(*(_part(values, both, within=True) for values in (theirs, fingerprint))):
        raise TrainingError(
            f"{path}: started on another machine ({apart}), so the result would not be bitwise the same here",
            "continue there, or use `overwrite=True` to start again here, or another `out`",
        )
    unknown = [key for key in MACHINE if key in fingerprint and key not in theirs]
    if unknown:
        log.warning(
            "%s: written by a version that did not record %s, so they could not be compared; on another machine the "
            "result is not bitwise the same",
            path,
            ", ".join(unknown),
        )
    return content


def _part(values: dict[str, Any], keys: Iterable[str], *, within: bool) -> dict[str, Any]:
    """The entries whose keys are `within` `keys`, or those whose keys are not."""
    return {key: value for key, value in values.items() if (key in keys) == within}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load the checkpoint of any run.

    Raises: DamagedCheckpointError if the file is damaged; TrainingError if it cannot be read.
    """
    try:
        with open_input(path) as file:
            content = read_saved(file)
    except OSError as error:
        said = error.strerror or error
        raise TrainingError(f"{path}: cannot be read: {said}; make it a readable file") from error
    except FAULTS as error:
        raise damaged(path, error) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise damaged(path, f"it has no schema {SCHEMA}")
    theirs = content.get("fingerprint")
    if not isinstance(theirs, dict) or not all(
        isinstance(key, str) and isinstance(value, str | int) for key, value in theirs.items()
    ):
        raise damaged(path, "it has no fingerprint")
    return content


def upgraded_history(history: Any) -> Any:
    """The rows of `metrics.jsonl` with the key names of this version. Anything but a list is returned unchanged.

    Earlier versions wrote `peak_share` for `mfu`, and the name of the split, such as `holdout-5000_accuracy`, for
    `val_accuracy`.
    """
    if not isinstance(history, list):
        return history
    return [{_upgraded_key(key): value for key, value in row.items()} for row in history]


def _upgraded_key(key: Any) -> Any:
    if key == "peak_share":
        return "mfu"
    return "val_accuracy" if isinstance(key, str) and re.fullmatch(r"holdout-\d+(-stratified)?_accuracy", key) else key


def check_position(content: dict[str, Any], *, epochs: int, steps: int) -> None:
    """Check the position and the history of a run. Raises: ValueError, TypeError or KeyError."""
    epoch, step, seconds, history = (content[key] for key in ("epoch", "step", "seconds", "history"))
    if type(epoch) is not int or type(step) is not int:
        raise TypeError(f"epoch and step must be integers; got {short(epoch)} and {short(step)}")
    if not (0 <= epoch <= epochs and 0 <= step < steps):
        raise ValueError(f"epoch {short(epoch)}, step {short(step)} is not within {epochs} epochs of {steps} steps")
    if not _is_number(seconds) or seconds < 0:
        raise ValueError(f"{short(seconds)} seconds are not a valid time")
    if not isinstance(history, list) or [row["epoch"] for row in history] != list(range(1, epoch + 1)):
        raise ValueError(f"its history is not that of {epoch} epochs")
    for row in history:
        kinds = {key: isinstance(key, str) and _is_number(value) for key, value in row.items()}
        if not all(kinds[key] for key in ROW) or not all(kinds.values()):
            raise TypeError(f"its history has an epoch that is not a row of numbers: {short(row)}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST


def check_tensors(what: str, found: dict[Any, Any], own: Mapping[Any, Tensor]) -> None:
    """Raises: ValueError, naming a tensor that is missing, unknown, not finite, or unlike that of `own`."""
    for key in [*own, *found]:
        if key not in found or key not in own:
            raise ValueError(f"{what}: {short(key)} is {'missing' if key in own else 'unknown'}")
    for key, value in found.items():
        kind, shape = own[key].dtype, own[key].shape
        if not isinstance(value, Tensor) or (value.dtype, value.shape, value.layout) != (kind, shape, torch.strided):
            raise ValueError(f"{what}: {key} is not a {kind} tensor of shape {tuple(shape)}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{what}: {key} is not finite")


def check_metrics(found: dict[Any, Any]) -> None:
    """Check the sums of an objective's own metrics. Raises: like `check_tensors`."""
    check_tensors("metrics", found, {str(name): METRIC for name in found})


def check_momentum(state: dict[int, dict[str, Tensor]], network: nn.Module | None) -> dict[int, dict[str, Tensor]]:
    """A checked copy of the optimizer's state. Without a network, it must be empty.

    Raises: like `check_tensors`; TypeError and LookupError.
    """
    parameters = enumerate(network.named_parameters() if network is not None else ())
    own = {
        k: parameter
        for k, (name, parameter) in parameters
        if k in state or (parameter.requires_grad and not name.startswith(LAYERS_OF_G))
    }
    buffers = {k: each["momentum_buffer"] for k, each in state.items()}
    check_tensors("momentum", buffers, own)
    return {k: {"momentum_buffer": torch.empty_like(own[k]).copy_(value)} for k, value in buffers.items()}


def damaged(path: Path, reason: Exception | str) -> DamagedCheckpointError:
    """The error for a file that is not a checkpoint, or that no run can have written."""
    said = short(" ".join(str(reason).split()) or type(reason).__name__, 300)
    if isinstance(reason, NotPlainError):
        said = f"it contains more than tensors and plain values: {said}"
    return DamagedCheckpointError(
        f"{path}: damaged or not a checkpoint: {said}", "remove it, and `resume=True` starts this run again"
    )


def upgraded(theirs: dict[str, Any], ours: dict[str, Any], earlier: Mapping[str, str] | None) -> dict[str, Any]:
    """A fingerprint in which values of `earlier` are replaced by those of this version."""
    same = {key: ours[key] for key, value in (earlier or {}).items() if theirs.get(key) == value}
    return {**theirs, **same}


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The differences of two fingerprints as text, such as `recipe: lr 0.1 there, 0.2 here`; empty if they agree."""
    found = []
    for key in sorted({*theirs, *ours}):
        there, here = theirs.get(key), ours.get(key)
        if there != here:
            found += [f"{key}: {each}{HINTS.get(key, '')}" for each in _fields(there, here)]
    return "; ".join(found)


def _fields(there: Any, here: Any) -> list[str]:
    """The fields in which two JSON objects differ; for other values, both values."""
    try:
        one, other = json.loads(there), json.loads(here)
    except (TypeError, ValueError, RecursionError):
        one = other = None
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
        return [f"{key} {short(one.get(key))} there, {short(other.get(key))} here" for key in keys]
    return [f"{short(there)} there, {short(here)} here"]


def short(value: Any, length: int = 100) -> str:
    """A short representation of a value of any size."""
    whole = value if isinstance(value, str) else SHORT.repr(value)
    if re.fullmatch("[0-9a-f]{64}", whole):  # the beginning of a digest is enough
        return whole[:12]
    said = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in whole[: length + 1])
    return said if len(said) <= length else f"{said[:length]}…"
