"""The folder of a run: its files, locking, and whether existing files belong to this run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2a_transfer.errors import OutputExistsError, StoreError, TrainingError, WeightsError
from l2a_transfer.files import check_writable, remove_leftovers
from l2a_transfer.lock import folder_lock
from l2a_transfer.models.weights import Card, read_card
from l2a_transfer.training.cards import part_of_fingerprint, weights_name
from l2a_transfer.training.checkpoint import (
    damaged,
    differences,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
    upgraded,
    write_run_file,
)
from l2a_transfer.training.trainer import Trainer

log = logging.getLogger(__name__)
REPLACE = "`overwrite=True` replaces it, or choose another `out`"
ELSEWHERE = "choose another `out`"


@dataclass(frozen=True)
class RunFolder:
    """The folder `path` with the four files of a run whose weights are called `name`.

    The files of a run that is being replaced are kept until the new run saves something. Weights with another name are
    never removed.
    """

    path: Path
    name: str

    @classmethod
    def for_trainer(cls, path: Path, trainer: Trainer) -> RunFolder:
        return cls(path, weights_name(trainer.config, trainer.data.name))

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def curve(self) -> Path:
        return self.path / "curve.png"

    @property
    def weights(self) -> Path:
        return self.path / f"{self.name}.safetensors"

    @contextmanager
    def locked(self, *, writes: bool) -> Iterator[None]:
        """Create the folder if necessary, lock it, and check that its files can be written.

        Does nothing for a process that does not write. Raises: TrainingError if a path cannot be written;
        OutputExistsError if another process is using the folder.
        """
        if not writes:
            yield
            return
        files = (self.checkpoint, self.metrics, self.curve, self.weights)
        for path in files:
            check_path(path)
        with ExitStack() as stack:
            stack.enter_context(locked_run_folder(self.path))
            try:
                remove_leftovers(*files)
                check_writable(self.weights)
            except OSError as error:
                raise TrainingError(f"{self.path}: cannot be written: {error.strerror or error}", ELSEWHERE) from error
            yield

    def check(self, trainer: Trainer, *, resume: bool) -> None:
        """Raise the errors of `resume` or `check_empty` without changing `trainer`."""
        if not resume:
            self.check_empty()
        elif self.checkpoint.exists():
            load_checkpoint(self.checkpoint, trainer.fingerprint(), earlier=trainer.earlier)
        else:
            self._finished_without_checkpoint(trainer)

    def check_empty(self) -> None:
        """Raises: OutputExistsError if there is a file of a run."""
        go_on = f"`resume=True` continues it, {REPLACE}"
        for path in (self.checkpoint, self.weights, self.metrics, self.curve):
            if path.exists():
                todo = go_on if path == self.checkpoint else REPLACE
                raise OutputExistsError(f"{path}: a run already exists", todo)

    def resume(self, trainer: Trainer) -> Card | None:
        """Restore `trainer` from the checkpoint, if there is one. Returns the card if the run is complete.

        Raises: TrainingError if the checkpoint, or weights without one, are damaged or belong to another run.
        """
        first = trainer.placement.process.is_main
        if not self.checkpoint.exists():
            found = self._finished_without_checkpoint(trainer)
            if first and not found:
                log.info("%s: no checkpoint to resume from; starting a new run", self.path)
            return found
        content = load_checkpoint(self.checkpoint, trainer.fingerprint(), earlier=trainer.earlier)
        try:
            trainer.restore(content)
        except TrainingError as error:
            raise damaged(self.checkpoint, error) from error
        if not trainer.finished:
            return None
        try:
            card = read_card(self.weights)
        except WeightsError:
            return None  # they can be written again
        if apart := _differences(card, trainer):
            if first:
                log.warning("%s: made by another run (%s); overwriting it", self.weights, apart)
            return None
        return card if _is_measured(card, trainer) else None

    def _finished_without_checkpoint(self, trainer: Trainer) -> Card | None:
        """The card of weights with metrics but no checkpoint; None if the folder has no weights."""
        if not self.weights.exists():
            others = sorted(self.path.glob("*.safetensors"))
            if others:
                raise TrainingError(f"{others[0]}: made by another run, without a checkpoint", REPLACE)
            return None
        try:
            card = read_card(self.weights)
        except WeightsError as error:
            raise TrainingError(str(error), REPLACE) from error
        if apart := _differences(card, trainer):
            raise TrainingError(f"{self.weights}: made by another run ({apart}), without a checkpoint", REPLACE)
        if not _is_measured(card, trainer):
            raise TrainingError(f"{self.weights}: has no metrics, and there is no checkpoint to resume from", REPLACE)
        return card

    def measured(self) -> bool:
        """Whether there are weights with metrics, which a run adds last."""
        try:
            return bool(read_card(self.weights).metrics)
        except WeightsError:
            return False

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint and `metrics.jsonl`."""
        save_checkpoint(self.checkpoint, trainer.state())
        self.save_metrics(trainer)

    def save_metrics(self, trainer: Trainer) -> None:
        """Write `metrics.jsonl`. The checkpoint has its rows too, so a kill between the two files loses none."""
        write_run_file(self.metrics, "".join(json.dumps(row) + "\n" for row in trainer.history).encode())

    def remove_results(self) -> None:
        """Remove the weights and the curve of the run that is being replaced."""
        for path in (self.weights, self.curve):
            path.unlink(missing_ok=True)


@contextmanager
def locked_run_folder(path: Path) -> Iterator[None]:
    """`folder_lock`. Raises: TrainingError if the folder cannot be written; OutputExistsError like `folder_lock`."""
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(path))
        except (OSError, StoreError) as error:
            said = error.strerror if isinstance(error, OSError) else None
            raise TrainingError(f"{path}: cannot be written: {said or error}", ELSEWHERE) from error
        yield


def has_run_with(out: Path, **values: str) -> bool:
    """Whether a run in `out`, or in the folder of one of its seeds, has these values in its fingerprint."""
    return any(values.items() <= {(key, of.get(key)) for key in values} for of in _fingerprints_in(out))


def _fingerprints_in(out: Path) -> Iterator[dict[str, Any]]:
    """The fingerprints in the checkpoint of each run in `out`, and in the cards of its weights."""
    for folder in (out, *sorted(out.glob("seed-*"))):
        with suppress(TrainingError):
            yield read_checkpoint(folder / "checkpoint.pt")["fingerprint"]
        for weights in sorted(folder.glob("*.safetensors")):
            with suppress(WeightsError):
                yield part_of_fingerprint(read_card(weights))


def _differences(card: Card, trainer: Trainer) -> str:
    """The differences between the run that made the weights of `card` and this one."""
    ours = trainer.fingerprint()
    theirs = upgraded(part_of_fingerprint(card), ours, trainer.earlier)
    return differences(theirs, {key: ours[key] for key in theirs})


def _is_measured(card: Card, trainer: Trainer) -> bool:
    """Whether the card has the accuracy on the test images of `trainer`."""
    found = card.metrics.get(trainer.data.test_metric)
    value, n = (found.get("value"), found.get("n")) if isinstance(found, dict) else (None, None)
    seconds = card.training.get("seconds")
    return (
        isinstance(value, int | float)
        and 0 <= value <= 1
        and n == len(trainer.data.test)
        and isinstance(seconds, int | float)
    )


def check_path(path: Path) -> None:
    """Raises: TrainingError if `path` is not a place for a file: a link, a folder, or a name that is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise TrainingError(f"{str(path)!a}: a name that is not UTF-8", ELSEWHERE) from error
    try:
        if path.is_symlink():
            where = "another file" if path.exists() else "a missing file"
            raise TrainingError(f"{path}: is a link to {where}, not a regular file", f"remove it, or {ELSEWHERE}")
        if path.exists() and not path.is_file():
            raise TrainingError(f"{path}: is not a regular file", f"remove it, or {ELSEWHERE}")
    except OSError as error:
        raise TrainingError(f"{path}: cannot be used: {error.strerror}", ELSEWHERE) from error
