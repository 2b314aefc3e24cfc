"""A study from its file to its report: what is missing is made, what is there is checked and reused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from l2a_transfer.errors import ArgumentError
from l2a_transfer.lock import output_lock
from l2a_transfer.study.children import Launcher
from l2a_transfer.study.config import Study
from l2a_transfer.study.data import DataSets
from l2a_transfer.study.record import DONE, Folder, State
from l2a_transfer.study.results import StudyResults, analyse
from l2a_transfer.study.steps import plan_work
from l2a_transfer.study.study_report import write_study_report
from l2a_transfer.study.work import FAILED, Worker, chosen_steps, foreseen

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyOutcome:
    """How every step stands, the results of what is done, and the files of the report; `failed`: steps that ended with
    an error. No results where nothing is evaluated."""

    states: dict[str, State]
    results: StudyResults | None
    report: tuple[Path, ...]

    @property
    def failed(self) -> list[str]:
        return [name for name, state in self.states.items() if state.what == FAILED]

    @property
    def is_complete(self) -> bool:
        return all(state.what == DONE for state in self.states.values())


def foresee(study: Study, out: Path, *, only: Sequence[str] = ()) -> dict[str, State]:
    """What `run_study` would do of each chosen step; nothing is written. Raises: as `run_study`."""
    work, folder = plan_work(study), Folder(out, DataSets(study))
    folder.check_owner(study)
    chosen = {step.name for step in chosen_steps(work, only)}
    return {name: state for name, state in foreseen(work, folder).items() if name in chosen}


def run_study(
    study: Study,
    out: Path,
    launcher: Launcher,
    *,
    only: Sequence[str] = (),
    jobs: int = 1,
    deadline_s: float | None = None,
) -> StudyOutcome:
    """Train, extract and evaluate what `out` lacks, `jobs` commands at a time, then write the report of what is done.

    `only`: patterns of step names, as `train/*`. `deadline_s`: no step is begun that cannot end within so many seconds,
    and what still runs then is asked to stop. Whatever ended a study, the same call goes on with it and ends with the
    same report. Raises: StudyError for weights that are not what the study says, and for training in `out` that was
    done with other settings; OutputExistsError where `out` is another study's, or is being written by another process;
    ArgumentError; EvaluationError; Interrupted, a KeyboardInterrupt.
    """
    for name, value in (("jobs", jobs), ("deadline", deadline_s)):
        if value is not None and value <= 0:
            raise ArgumentError(f"{name} must be above 0, got {value:g}")
    work, folder = plan_work(study), Folder(out, DataSets(study))
    chosen = chosen_steps(work, only)
    folder.check_owner(study)
    out.mkdir(parents=True, exist_ok=True)
    with output_lock(folder.file):
        folder.claim(study)
        outcome = Worker(work, folder, launcher, guess_s=study.guess_s, jobs=jobs, deadline_s=deadline_s).run(chosen)
        if not any(outcome.states[step.name].what == DONE for step in work.steps.values() if step.kind == "evaluate"):
            return StudyOutcome(outcome.states, None, ())
        results = analyse(study, work, folder, outcome)
        return StudyOutcome(outcome.states, results, tuple(write_study_report(results, out / "report")))
