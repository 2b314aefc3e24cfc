"""Runs the steps of a study, one or several at a time, in the order of their dependencies and within a deadline."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from l2a_transfer.errors import ArgumentError, Interrupted, StudyError
from l2a_transfer.provenance import commit
from l2a_transfer.study.children import Child, Launcher
from l2a_transfer.study.config import KINDS
from l2a_transfer.study.record import BEGIN, BLOCKED, CONTINUE, DONE, REDO, WAITING, State, StudyFolder, located
from l2a_transfer.study.steps import TRAIN, Plan, Step
from l2a_transfer.version import __version__
from l2a_transfer.wording import counted

log = logging.getLogger(__name__)
POLL_S = 0.05
FAILED, NOT_STARTED, STOPPED = "failed", "left", "stopped"
"""States of a step: it ended with an error; it was not started; it was stopped, and can be continued."""
NOT_CHOSEN = "not chosen"
"""Why a step that was not asked for is not started."""
LAST_BYTES = 4000


@dataclass
class Outcome:
    """The state of each step of a study: `done`, `failed`, `left`, `blocked` or `stopped`, and why it is not done."""

    states: dict[str, State] = field(default_factory=dict)

    def names(self, what: str) -> list[str]:
        """The steps in the state `what`."""
        return [name for name, state in self.states.items() if state.what == what]


@dataclass
class _Running:
    """A step that runs: its process, whether it started from nothing, the digest of its input, the program's version
    and commit, and when it started."""

    step: Step
    child: Child
    from_start: bool
    read: str | None
    program: dict[str, str | None]
    started: float = field(default_factory=time.monotonic)


class Pace:
    """Estimates how long a step takes: the longest time of a similar step, else of its kind, else a guess."""

    def __init__(self, guess_s: dict[str, float]) -> None:
        self.guess_s = guess_s
        self._longest: dict[str, float] = {}

    def learn(self, step: Step, seconds: float) -> None:
        for key in (step.kind, f"{step.kind} {step.like}"):
            self._longest[key] = max(seconds, self._longest.get(key, 0.0))

    def seconds(self, step: Step, *, epochs_done: int = 0) -> float:
        """The estimated time that is left for a step."""
        whole = self._longest.get(f"{step.kind} {step.like}", self._longest.get(step.kind, self.guess_s[step.kind]))
        return whole * (1 - min(epochs_done, step.epochs) / step.epochs) if step.epochs else whole

    def is_guess(self, step: Step) -> bool:
        return step.kind not in self._longest


def chosen_steps(plan: Plan, only: Iterable[str]) -> list[Step]:
    """The steps whose names match one of the patterns `only`, such as `train/*`; without a pattern, all steps.

    Raises
    ------
    ArgumentError
        If no step matches a pattern.
    """
    patterns = list(only)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in plan.steps):
            raise ArgumentError(
                f"only must match the name of a step, such as {next(iter(plan.steps))} or 'evaluate/*'; got {pattern!r}"
            )
    return [
        step
        for name, step in plan.steps.items()
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def preview_steps(plan: Plan, folder: StudyFolder, chosen: Iterable[Step]) -> dict[str, State]:
    """What would be done for each chosen step, as far as this is known before anything runs."""
    states: dict[str, State] = {}
    names = {step.name for step in chosen}
    for name, step in plan.steps.items():
        needed = plan.steps[step.needs] if step.needs else None
        if needed is not None and (blocked := _blocked(needed, states[needed.name], needed.name in names)):
            states[name] = blocked
        elif needed is not None and states[needed.name].what != DONE:
            there = "exists and will be verified" if folder.output(step) else "no output yet"
            states[name] = State(WAITING, f"{there}; {needed.name} comes first")
        else:
            states[name] = folder.state(step, needed)
    return {name: state for name, state in states.items() if name in names}


def _blocked(needed: Step, state: State, is_chosen: bool) -> State | None:
    """The state of a step whose `needed` step will not be done by this call; None if it is done or will be."""
    if state.what == BLOCKED:
        return state
    return None if state.what == DONE or is_chosen else State(BLOCKED, f"{needed.name} is neither done nor chosen")


class Scheduler:
    """Runs the steps of a study until all are done or the time is up.

    Parameters
    ----------
    plan : Plan
        All steps of the study.
    folder : StudyFolder
        The folder of their outputs and records.
    launcher : Launcher
        Starts the commands.
    guess_s : dict
        Seconds that a step of each kind is assumed to take until one has been timed.
    jobs : int
        How many commands run at the same time.
    deadline_s : float or None
        Seconds from now on; a step that would take longer is not started.
    """

    def __init__(
        self,
        plan: Plan,
        folder: StudyFolder,
        launcher: Launcher,
        *,
        guess_s: dict[str, float],
        jobs: int = 1,
        deadline_s: float | None = None,
    ) -> None:
        self.plan, self.folder, self.launcher, self.jobs = plan, folder, launcher, jobs
        self.end = None if deadline_s is None else time.monotonic() + deadline_s
        self.pace = Pace(guess_s)
        self.outcome = Outcome()
        self._waiting: dict[str, Step] = {}
        self._running: list[_Running] = []
        for step in plan.steps.values():
            record = folder.record(step)
            if record is not None and isinstance(seconds := record.get("seconds"), (int, float)):
                self.pace.learn(step, float(seconds))

    def run(self, chosen: list[Step]) -> Outcome:
        """Run the chosen steps.

        Raises
        ------
        Interrupted
            After Ctrl-C or SIGTERM, when each command has saved its work and ended.
        StudyError
            Like `StudyFolder.state`.
        """
        self._waiting = self._wanted(chosen)
        try:
            with _interruptible():
                while self._waiting or self._running:
                    self._collect()
                    for step in list(self._waiting.values()):
                        if self._start_or_skip(step):
                            del self._waiting[step.name]
                    if self.end is not None and time.monotonic() > self.end:
                        self._stop("the time is up")
                    elif self._running:
                        time.sleep(POLL_S)
        except KeyboardInterrupt as stop:
            self._stop("interrupted")
            done = len(self.outcome.names(DONE))
            raise Interrupted(
                f"{done} of {counted(len(self.plan.steps), 'step')} are done and are kept in {self.folder.path}",
                "run it again to continue",
            ) from stop
        return self.outcome

    def _wanted(self, chosen: list[Step]) -> dict[str, Step]:
        """The chosen steps that are not done. Later kinds come first, so that a network is finished before the next."""
        names, waiting = {step.name for step in chosen}, []
        for step in self.plan.steps.values():
            needed = self.plan.steps[step.needs] if step.needs else None
            ready = needed is None or self.outcome.states[needed.name].what == DONE
            state = self.folder.state(step, needed) if ready else State(NOT_STARTED, NOT_CHOSEN)
            if state.what != DONE:
                state = State(NOT_STARTED, NOT_CHOSEN)
                if step.name in names:
                    blocked = needed and _blocked(needed, self.outcome.states[needed.name], needed.name in names)
                    waiting += [] if blocked else [step]
                    state = blocked or state
            self.outcome.states[step.name] = state
        if there := len(self.outcome.names(DONE)):
            log.info("%d of %s are complete and unchanged", there, counted(len(self.plan.steps), "step"))
        return {step.name: step for step in sorted(waiting, key=lambda step: -KINDS.index(step.kind))}

    def _start_or_skip(self, step: Step) -> bool:
        """True if a step no longer has to wait: it was started, is done, or cannot be run."""
        states = self.outcome.states
        needed = self.plan.steps[step.needs] if step.needs else None
        if needed is not None and states[needed.name].what != DONE:
            if needed.name in self._waiting or any(one.step is needed for one in self._running):
                return False
            states[step.name] = State(NOT_STARTED, f"{needed.name} is not done")
            return True
        if len(self._running) >= self.jobs:
            return False
        state = self.folder.state(step, needed)
        if state.what == DONE:
            log.info("%s: complete and unchanged", step.name)
            states[step.name] = state
            return True
        if self.end is None or time.monotonic() + self._seconds(step) <= self.end:
            self._start(step, state, needed)
            return True
        how = "a guess" if self.pace.is_guess(step) else "like earlier steps"
        why = f"would take {self._seconds(step):,.0f} s ({how}), which is more than the time left"
        states[step.name] = State(NOT_STARTED, why)
        return not self._running  # steps that still run may lower the estimate

    def _seconds(self, step: Step) -> float:
        return self.pace.seconds(step, epochs_done=self.folder.epochs(step) if step.kind == TRAIN else 0)

    def _start(self, step: Step, state: State, needed: Step | None) -> None:
        try:
            found = self.folder.clear(step, state)
        except StudyError as error:  # keep files of others there, and continue with other steps
            self.outcome.states[step.name] = State(FAILED, str(error))
            log.error("%s: %s", step.name, error)
            return
        if state.what == REDO or found:
            log.warning("%s: %s", step.name, found or f"{state.why}; running it again")
        arguments = [located(argument, self.folder.path.absolute()) for argument in step.arguments]
        read = self.folder.read_by(step, needed)
        program = {"version": __version__, "commit": commit()}
        child = self.launcher.start(arguments, self.folder.log(step))
        self._running.append(_Running(step, child, state.what in (BEGIN, REDO) or found is not None, read, program))
        log.info("%s: %s", step.name, "continues" if state.what == CONTINUE and not found else "starts")

    def _collect(self) -> None:
        """Record the steps whose commands have ended."""
        for one in [one for one in self._running if one.child.poll() is not None]:
            self._running.remove(one)
            if one.child.poll() == 0 and self.folder.output(one.step) is not None:
                seconds = time.monotonic() - one.started
                took = round(seconds, 1) if one.from_start else None
                self.folder.save_record(one.step, read=one.read, seconds=took, program=one.program)
                self.pace.learn(one.step, seconds)
                self.outcome.states[one.step.name] = State(DONE)
                log.info("%s: done in %.0f s", one.step.name, seconds)
            else:
                path = self.folder.log(one.step)
                why = f"exit code {one.child.poll()}: {_last_error(path)} ({path})"
                self.outcome.states[one.step.name] = State(FAILED, why)
                log.error("%s: %s", one.step.name, why)

    def _stop(self, why: str) -> None:
        """Tell the running commands to save and end, wait for them, and start no others."""
        for one in self._running:
            one.child.ask_to_stop()
        for one in self._running:
            one.child.end()
        ended = [one for one in self._running if one.child.poll() == 0]
        for one in self._running:
            self.outcome.states[one.step.name] = State(STOPPED, why)
        for step in self._waiting.values():
            self.outcome.states[step.name] = State(NOT_STARTED, why)
        self._running, self._waiting = ended, {}
        self._collect()


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM acts like Ctrl-C inside this block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_error(path: Path) -> str:
    """The last error in the log of a command."""
    with open(path, "rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - LAST_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")]
    return (errors or lines or ["no output"])[-1].removeprefix("Error: ")
