"""The folder of a run: its files, who may write them, and whether those that are there belong to this very run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from l2a_transfer.errors import OutputExistsError, TrainingError, WeightsError
from l2a_transfer.features.lock import output_lock
from l2a_transfer.models.weights import Card, read_card
from l2a_transfer.training.cards import part_of_fingerprint, weights_name
from l2a_transfer.training.checkpoint import damaged, differences, load_checkpoint, save_checkpoint, write_whole
from l2a_transfer.training.trainer import Trainer

log = logging.getLogger(__name__)
REPLACE = "--overwrite replaces it, or choose another --out"


@dataclass(frozen=True)
class RunFolder:
    """`path` with the four files of the run of one trainer, whose weights are called `name`.

    Until the run has something to save, the files of the one that it replaces stay as they are.
    """

    path: Path
    name: str

    @classmethod
    def of(cls, path: Path, trainer: Trainer) -> RunFolder:
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
    def held(self, trainer: Trainer) -> Iterator[None]:
        """The folder, made where it is not there, with its files writable and no other process among them.

        Raises: TrainingError for a path that cannot be written; OutputExistsError where another process is at it.
        """
        if not trainer.where.ranks.first:  # the first process alone writes
            yield
            return
        for path in (self.checkpoint, self.metrics, self.curve, self.weights):
            check_path(path)
        made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.weights.with_name(self.weights.name + ".partial")  # the longest of all names
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise TrainingError(
                f"{self.path}: cannot be written: {error.strerror or error}; choose another --out"
            ) from error
        try:
            with output_lock(self.checkpoint):
                yield
        except BaseException:
            if made:
                with suppress(OSError):  # where nothing has been saved
                    self.path.rmdir()
            raise

    def check_vacant(self) -> None:
        """Raises: OutputExistsError where a file of a run is there."""
        go_on = f"--resume goes on with it, {REPLACE}"
        for path, todo in (
            (self.checkpoint, go_on),
            (self.weights, REPLACE),
            (self.metrics, REPLACE),
            (self.curve, REPLACE),
        ):
            if path.exists():
                raise OutputExistsError(f"{path}: a run is there already; {todo}")

    def go_on(self, trainer: Trainer) -> Card | None:
        """Put `trainer` where the checkpoint stands, if there is one; the card of the run that has come to its end.

        Raises: TrainingError where checkpoint, or weights without one, are damaged or another run's.
        """
        first = trainer.where.ranks.first
        if self.checkpoint.exists():
            content = load_checkpoint(self.checkpoint, trainer.fingerprint())
            try:
                trainer.restore(content)
            except TrainingError as error:
                raise damaged(self.checkpoint, error) from error
            if not trainer.finished:
                return None
            card, apart = self._measured(trainer)
            if card and apart and first:
                log.warning("%s: made by another run (%s); written again", self.weights, apart)
            return None if apart else card
        if self.weights.exists():
            card, apart = self._measured(trainer)
            if apart:
                raise TrainingError(f"{self.weights}: made by another run ({apart}), without a checkpoint; {REPLACE}")
            if card:
                return card
        if first:
            log.info("%s: no checkpoint to go on from; the run begins", self.path)
        return None

    def measured(self) -> bool:
        """True where weights are there that some run has measured, which is the last that it does."""
        try:
            return bool(read_card(self.weights).metrics)
        except WeightsError:
            return False

    def save(self, trainer: Trainer) -> None:
        """The checkpoint and `metrics.jsonl`."""
        save_checkpoint(self.checkpoint, trainer.state())
        self.save_metrics(trainer)

    def save_metrics(self, trainer: Trainer) -> None:
        """`metrics.jsonl`; the checkpoint holds its rows too, so that a kill between the two files loses none."""
        write_whole(self.metrics, "".join(json.dumps(row) + "\n" for row in trainer.history).encode())

    def drop_results(self) -> None:
        """Remove what the run that is replaced has ended with."""
        for path in (self.weights, self.curve):
            path.unlink(missing_ok=True)

    def _measured(self, trainer: Trainer) -> tuple[Card | None, str]:
        """The card of weights that were measured on this run's images, and what differs between their run and this."""
        try:
            card = read_card(self.weights)
        except WeightsError as error:
            if self.checkpoint.exists():  # they can be made again
                return None, ""
            raise TrainingError(f"{error}; {REPLACE}") from error
        theirs, ours = part_of_fingerprint(card), trainer.fingerprint()
        measured = trainer.data.test_metric in card.metrics
        return (card if measured else None), differences(theirs, {key: ours[key] for key in theirs})


def check_path(path: Path) -> None:
    """Raises: TrainingError where no file can be written, whatever the disk says."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise TrainingError(f"{path!a}: a name that is not UTF-8; choose another --out") from error
    try:
        if path.is_symlink() and not path.exists():
            raise TrainingError(f"{path}: a link to something that is not there; remove it, or choose another --out")
        if path.exists() and not path.is_file():
            raise TrainingError(f"{path}: not a file, and one is written there; remove it, or choose another --out")
    except OSError as error:
        raise TrainingError(f"{path}: cannot be used: {error.strerror}; choose another --out") from error
