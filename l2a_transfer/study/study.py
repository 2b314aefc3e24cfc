"""Runs a study from its file to its report. Existing outputs are checked and reused."""

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
from l2a_transfer.study.record import BLOCKED, DONE, State, StudyFolder
from l2a_transfer.study.results import StudyResults, analyse
from l2a_transfer.study.scheduler import FAILED, NOT_CHOSEN, NOT_STARTED, Scheduler, chosen_steps, preview_steps
from l2a_transfer.study.steps import plan_steps
from l2a_transfer.study.study_report import write_study_report

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyOutcome:
    """The outcome of a study.

    Attributes
    ----------
    states : dict
        The state of each step by its name.
    results : StudyResults or None
        The results of the steps that are done; None if nothing was evaluated.
    report : tuple of Path
        The files of the report.
    """

    states: dict[str, State]
    results: StudyResults | None
    report: tuple[Path, ...]

    @property
    def failed(self) -> list[str]:
        """The steps that ended with an error."""
        return [name for name, state in self.states.items() if state.what == FAILED]

    @property
    def left_out(self) -> list[str]:
        """The steps that are not done because they, or a step that they need, were not chosen."""
        unchosen = State(NOT_STARTED, NOT_CHOSEN)
        return [name for name, state in self.states.items() if state.what == BLOCKED or state == unchosen]

    @property
    def is_complete(self) -> bool:
        """Whether every step is done."""
        return all(state.what == DONE for state in self.states.values())


def preview_study(study: Study, out: Path, *, only: Sequence[str] = ()) -> dict[str, State]:
    """What `run_study` would do for each chosen step. Nothing is written. Raises: like `run_study`."""
    plan, folder = plan_steps(study), StudyFolder(out, DataSets(study))
    folder.check_owner(study)
    return preview_steps(plan, folder, chosen_steps(plan, only))


def run_study(
    study: Study,
    out: Path,
    launcher: Launcher,
    *,
    only: Sequence[str] = (),
    jobs: int = 1,
    deadline_s: float | None = None,
) -> StudyOutcome:
    """Train, extract and evaluate what is missing in `out`, then write a report on the steps that are done.

    The same call continues a study that was interrupted, and ends with the same report.

    Parameters
    ----------
    study : Study
        The study, from `read_study`.
    out : Path
        Its folder.
    launcher : Launcher
        Starts the commands; from `open_launcher`.
    only : sequence of str
        Patterns of step names, such as `train/*`. By default all steps are run.
    jobs : int
        How many commands run at the same time.
    deadline_s : float or None
        No step is started that is not expected to finish within this many seconds; what still runs then is stopped.

    Returns
    -------
    StudyOutcome

    Raises
    ------
    StudyError
        If weights are not what the study says, or training in `out` was done with other settings.
    OutputExistsError
        If `out` belongs to another study, or another process is writing it.
    ArgumentError
        If `jobs` or `deadline_s` is not positive, or no step matches a pattern.
    EvaluationError
        If an evaluation cannot be read.
    Interrupted
        After Ctrl-C or SIGTERM, when each command has saved its work.
    """
    for name, value in (("jobs", jobs), ("deadline", deadline_s)):
        if value is not None and value <= 0:
            raise ArgumentError(f"{name} must be above 0, got {value:g}")
    plan, folder = plan_steps(study), StudyFolder(out, DataSets(study))
    chosen = chosen_steps(plan, only)
    folder.check_owner(study)
    out.mkdir(parents=True, exist_ok=True)
    with output_lock(folder.file):
        folder.claim(study)
        outcome = Scheduler(plan, folder, launcher, guess_s=study.guess_s, jobs=jobs, deadline_s=deadline_s).run(chosen)
        if not any(outcome.states[step.name].what == DONE for step in plan.steps.values() if step.kind == "evaluate"):
            return StudyOutcome(outcome.states, None, ())
        results = analyse(study, plan, folder, outcome)
        return StudyOutcome(outcome.states, results, tuple(write_study_report(results, out / "report")))
