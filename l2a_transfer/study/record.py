"""The folder of a study: which steps are done, according to the digests that were recorded when they finished."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2a_transfer.documents import parse
from l2a_transfer.errors import DamagedCheckpointError, OutputExistsError, StoreError, StudyError, TrainingError
from l2a_transfer.features.store.reader import read_meta
from l2a_transfer.features.store.schema import MAGIC
from l2a_transfer.files import is_there, write_whole
from l2a_transfer.inputs import open_input, read_input
from l2a_transfer.study.config import Study
from l2a_transfer.study.data import DataSets
from l2a_transfer.study.paths import path_below
from l2a_transfer.study.steps import EXTRACT, TRAIN, InOut, Step

SCHEMA = "l2a-study/1"
RECORD_SCHEMA = "l2a-study-record/1"
CHUNK_BYTES = 1 << 20
MAX_RECORD_BYTES = 64 << 20
DONE, BEGIN, CONTINUE, REDO, WAITING = "done", "begin", "go on", "again", "waits"
"""What a step needs: nothing; to be started; continued; repeated, because its output cannot be used; or unknown until
its input exists."""
BLOCKED = "blocked"
"""The state of a chosen step that needs another one, which is neither done nor chosen."""
LONGEST_TEXT = 80
"""How much of a recorded version or commit a report shows."""


@dataclass(frozen=True)
class State:
    """What a step needs, and why."""

    what: str
    why: str = ""
    damaged: bool = False


class StudyFolder:
    """The folder of a study: the outputs of its steps, and a record beside each.

    Digests of files are cached; a file that changes is read again.

    Parameters
    ----------
    path : Path
        The folder.
    data : DataSets
        The targets as they are on disk now.
    """

    def __init__(self, path: Path, data: DataSets) -> None:
        self.path, self.data = path, data
        self._digests: dict[tuple[str, int, int], str] = {}

    @property
    def file(self) -> Path:
        return self.path / "study.json"

    def check_owner(self, study: Study) -> None:
        """Raises: OutputExistsError if the folder belongs to another study; StudyError if its study file is damaged."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputExistsError(f"{self.path}: is a file, but a study needs a folder", "choose another `out`")
        if not self.file.exists():
            # A study that is killed at its start leaves its lock, or a partial file.
            if self.path.exists() and any(not p.name.startswith(self.file.name) for p in self.path.iterdir()):
                raise OutputExistsError(f"{self.path}: is not empty and not a study's folder", "choose another `out`")
            return
        there = _read(self.file, SCHEMA)
        if there is None:
            raise StudyError(f"{self.file}: damaged", "remove it, and the study reuses what it can verify there")
        if there.get("name") != study.name:
            raise OutputExistsError(
                f"{self.path}: contains the study {there.get('name')!r}, not {study.name!r}", "choose another `out`"
            )

    def claim(self, study: Study) -> None:
        """Record which study the folder belongs to."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"schema": SCHEMA, "name": study.name, "file": study.file.name}
        write_whole(self.file, (json.dumps(content, indent=1) + "\n").encode())

    def output(self, step: Step) -> Path | None:
        """The output file of a step; None if it does not exist."""
        path = path_below(self.path, step.output)
        found = sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
        return found[0] if len(found) == 1 and found[0].is_file() else None

    def record(self, step: Step) -> dict[str, Any] | None:
        """The record of a finished step; None if it has not finished or the record is damaged."""
        found = _read(self._record(step), RECORD_SCHEMA)
        return found if found is not None and found.get("step") == step.name else None

    def save_record(
        self, step: Step, *, read: str | None, seconds: float | None, program: dict[str, str | None]
    ) -> None:
        """Record that a step has succeeded.

        Parameters
        ----------
        step : Step
            The step.
        read : str or None
            The digest of its input.
        seconds : float or None
            How long it took; None if it continued earlier work.
        program : dict
            The version and the commit of the program that ran it. This is information only: a step is not repeated
            because the program has changed.
        """
        made = self.output(step)
        assert made is not None
        content = {
            "schema": RECORD_SCHEMA,
            "step": step.name,
            "command": list(step.arguments),
            "read": read,
            "output": made.relative_to(self.path).as_posix(),
            "sha256": self.digest(made),
            "data": read_meta(made)[0].fingerprint.get("data") if step.kind == EXTRACT else None,
            "seconds": seconds,
            "program": program,
        }
        path = self._record(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(content, indent=1) + "\n").encode())

    def program(self, step: Step) -> str:
        """The version and commit of the program that made a step's output, in words."""
        found = (self.record(step) or {}).get("program")
        if not isinstance(found, dict) or not isinstance(found.get("version"), str):
            return "not recorded"
        commit = found.get("commit")
        known = commit[:LONGEST_TEXT] if isinstance(commit, str) else "unknown"
        return f"l2a-transfer {found['version'][:LONGEST_TEXT]}, commit {known}"

    def read_by(self, step: Step, needed: Step | None) -> str | None:
        """The digest of the file that a step reads; None if it reads none."""
        path = step.given if needed is None else self.output(needed)
        return None if path is None else self.digest(path)

    def state(self, step: Step, needed: Step | None) -> State:
        """What a step needs when its `needed` step is done.

        Raises
        ------
        StudyError
            For training that was done with other settings; it is never deleted.
        """
        record, made = self.record(step), self.output(step)
        if record is None:
            if made is not None:
                return State(CONTINUE, "exists without a record; it is verified first")
            return State(CONTINUE, "was started") if self._is_started(step) else State(BEGIN, "no output yet")
        if record.get("command") != list(step.arguments):
            if step.kind == TRAIN:
                raise StudyError(
                    f"{self.run(step)}: trained with other settings: {_differing_options(record, step)}; give the "
                    "network another name, or remove that folder and its record"
                )
            return State(REDO, f"made with other settings: {_differing_options(record, step)}")
        if made is None:
            return State(REDO, "its output is missing")
        if self.digest(made) != record.get("sha256"):
            return State(REDO, f"{made}: changed since it was made: its SHA-256 differs", damaged=True)
        if record.get("read") != self.read_by(step, needed):
            return State(REDO, "its input has changed")
        if step.kind == EXTRACT and record.get("data") != (self.data.fingerprint(step.target) or record.get("data")):
            return State(REDO, f"the data set {step.target} has changed")
        return State(DONE)

    def clear(self, step: Step, state: State) -> str | None:
        """Delete what a step must not continue with. Returns a sentence about any damage that was found.

        Only files that this study wrote are removed. Raises: StudyError if anything else is in the way.
        """
        made = self.output(step)
        if state.what == REDO:
            own = (self.record(step) or {}).get("output")
            # If a network has changed, `extract` verifies the features and keeps those that are the same.
            if made is not None and (step.kind != EXTRACT or state.damaged):
                if own != made.relative_to(self.path).as_posix():
                    raise StudyError(f"{made}: not written by this study, which needs this path", "move it elsewhere")
                made.unlink()
            self._record(step).unlink(missing_ok=True)
            return None
        if step.kind == TRAIN:
            return self._without_damaged_checkpoint(step)
        if step.kind == EXTRACT and made is not None:
            return self._without_damaged_features(made)
        return None

    def epochs(self, step: Step) -> int:
        """How many epochs a training run has completed."""
        path = self.run(step) / "metrics.jsonl"
        return len(path.read_bytes().splitlines()) if path.is_file() else 0

    def digest(self, path: Path) -> str:
        """The SHA-256 of a file, in hexadecimal."""
        stat = path.stat()
        key = (str(path), stat.st_size, stat.st_mtime_ns)
        if key not in self._digests:
            sha = hashlib.sha256()
            with open_input(path) as file:
                while chunk := file.read(CHUNK_BYTES):
                    sha.update(chunk)
            self._digests[key] = sha.hexdigest()
        return self._digests[key]

    def log(self, step: Step) -> Path:
        path = path_below(self.path, f"logs/{step.name}.log")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def run(self, step: Step) -> Path:
        """The folder of a training run."""
        return path_below(self.path, f"runs/{step.run.name}")

    def _record(self, step: Step) -> Path:
        return path_below(self.path, f"records/{step.name}.json")

    def _is_started(self, step: Step) -> bool:
        if step.kind == TRAIN:
            return (self.run(step) / "checkpoint.pt").exists()
        return step.kind == EXTRACT and path_below(self.path, f"{step.output}.shards").exists()

    def _without_damaged_checkpoint(self, step: Step) -> str | None:
        """Delete a damaged checkpoint, so that the run starts again; its other files stay.

        Raises: StudyError if the checkpoint cannot be read, so that its state is unknown.
        """
        path = self.run(step) / "checkpoint.pt"
        if not is_there(path):
            return None
        from l2a_transfer.training.checkpoint import read_checkpoint

        try:
            read_checkpoint(path)
        except DamagedCheckpointError as error:
            path.unlink()
            return f"{error.problem}; the run begins again"
        except TrainingError as error:
            raise StudyError(error.problem, error.remedy) from error
        return None

    def _without_damaged_features(self, path: Path) -> str | None:
        """Delete features without a record if they are damaged, so that they are extracted again.

        Raises: StudyError if the file is not a feature file, or cannot be read.
        """
        try:
            with open_input(path) as file:
                begins = file.read(len(MAGIC))
            read_meta(path)
        except OSError as error:
            raise StudyError(f"{path}: cannot be read: {error.strerror or error}", "make it readable") from error
        except StoreError as error:
            refused = isinstance(error.__cause__, OSError) and error.__cause__.errno
            if refused or begins != MAGIC:
                raise StudyError(f"{error.problem}; this study has no record of it", "move it elsewhere") from error
            path.unlink()
            return f"{error.problem}; made again"
        return None


def located(argument: str, out: Path) -> str:
    """An argument of a command with `OUT` replaced by the study's folder, and a pattern by the matching file."""
    if not isinstance(argument, InOut):
        return argument
    path = path_below(out, argument.relative)
    found = sorted(path.parent.glob(path.name)) if "*" in path.name else []
    return str(found[0] if found else path)


def _read(path: Path, schema: str) -> dict[str, Any] | None:
    try:
        found = parse(read_input(path, MAX_RECORD_BYTES))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("schema") == schema else None


def _differing_options(record: dict[str, Any], step: Step) -> str:
    """The options in which a recorded command differs from that of its step."""
    there = record.get("command")
    theirs = [str(part) for part in there] if isinstance(there, list) else []
    gone, new = (
        [part for part in one if part not in other]
        for one, other in ((theirs, list(step.arguments)), (list(step.arguments), theirs))
    )
    return f"{' '.join(gone) or 'without'} there, {' '.join(new) or 'without'} here"
