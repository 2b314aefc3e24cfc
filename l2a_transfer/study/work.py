"""The steps of a study, one after the other or some at a time: begun when what they need is there and time is left."""

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
from l2a_transfer.study.children import Child, Launcher
from l2a_transfer.study.config import KINDS
from l2a_transfer.study.record import AGAIN, BEGIN, DONE, GO_ON, WAITS, Folder, State, located
from l2a_transfer.study.steps import TRAIN, Step, Work
from l2a_transfer.wording import counted

log = logging.getLogger(__name__)
POLL_S = 0.05
FAILED, LEFT, STOPPED = "failed", "left", "stopped"
"""A step that ended with an error; one that was not begun; one that was asked to stop, and goes on another time."""
LAST_BYTES = 4000


@dataclass
class Outcome:
    """How each step of a study stands: (`done`, `failed`, `left`, `stopped`), and why where it is not done."""

    states: dict[str, State] = field(default_factory=dict)

    def of(self, what: str) -> list[str]:
        return [name for name, state in self.states.items() if state.what == what]


@dataclass
class _Going:
    step: Step
    child: Child
    whole: bool
    read: str | None
    began: float = field(default_factory=time.monotonic)


class Pace:
    """How long steps take: as the longest one like it did, or the longest of its kind, or what was guessed."""

    def __init__(self, guess_s: dict[str, float]) -> None:
        self.guess_s = guess_s
        self._longest: dict[str, float] = {}

    def learn(self, step: Step, seconds: float) -> None:
        for key in (step.kind, f"{step.kind} {step.like}"):
            self._longest[key] = max(seconds, self._longest.get(key, 0.0))

    def seconds(self, step: Step, *, epochs_done: int = 0) -> float:
        """Of what a step has before it."""
        whole = self._longest.get(f"{step.kind} {step.like}", self._longest.get(step.kind, self.guess_s[step.kind]))
        return whole * (1 - min(epochs_done, step.epochs) / step.epochs) if step.epochs else whole

    def is_guess(self, step: Step) -> bool:
        return step.kind not in self._longest


def chosen_steps(work: Work, only: Iterable[str]) -> list[Step]:
    """The steps whose names match one of the patterns `only`, as `train/*`; all where there is none.

    Raises: ArgumentError for a pattern that no step matches.
    """
    patterns = list(only)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in work.steps):
            raise ArgumentError(
                f"only must match the name of a step, as {next(iter(work.steps))} or 'evaluate/*'; got {pattern!r}"
            )
    return [
        step
        for name, step in work.steps.items()
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def foreseen(work: Work, folder: Folder) -> dict[str, State]:
    """What would be done of every step, as far as it is known before anything is made."""
    states: dict[str, State] = {}
    for name, step in work.steps.items():
        needed = work.steps[step.needs] if step.needs else None
        if needed is not None and states[needed.name].what != DONE:
            there = "is there and is verified then" if folder.output(step) else "is not there"
            states[name] = State(WAITS, f"{there}; {needed.name} comes first")
        else:
            states[name] = folder.state(step, needed)
    return states


class Worker:
    """Runs the steps of a study in `folder`, `jobs` at a time, until all are done or the time is up."""

    def __init__(
        self, work: Work, folder: Folder, launcher: Launcher, *, guess_s: dict[str, float], jobs: int = 1,
        deadline_s: float | None = None,
    ) -> None:  # fmt: skip
        self.work, self.folder, self.launcher, self.jobs = work, folder, launcher, jobs
        self.end = None if deadline_s is None else time.monotonic() + deadline_s
        self.pace = Pace(guess_s)
        self.outcome = Outcome()
        self._waiting: dict[str, Step] = {}
        self._going: list[_Going] = []
        for step in work.steps.values():
            record = folder.record(step)
            if record is not None and isinstance(seconds := record.get("seconds"), (int, float)):
                self.pace.learn(step, float(seconds))

    def run(self, chosen: list[Step]) -> Outcome:
        """Do the chosen steps. Raises: Interrupted, after every command was stopped and has saved; StudyError."""
        self._waiting = self._wanted(chosen)
        try:
            with _interruptible():
                while self._waiting or self._going:
                    self._collect()
                    for step in list(self._waiting.values()):
                        if self._begin_or_leave(step):
                            del self._waiting[step.name]
                    if self.end is not None and time.monotonic() > self.end:
                        self._stop("the time is up")
                    elif self._going:
                        time.sleep(POLL_S)
        except KeyboardInterrupt as stop:
            self._stop("interrupted")
            done = len(self.outcome.of(DONE))
            raise Interrupted(
                f"{done} of {counted(len(self.work.steps), 'step')} are done and stay in {self.folder.path}",
                "the same again goes on",
            ) from stop
        return self.outcome

    def _wanted(self, chosen: list[Step]) -> dict[str, Step]:
        """The chosen steps that are not done, later kinds first, so that what is begun comes to an end."""
        names, waiting = {step.name for step in chosen}, []
        for step in self.work.steps.values():
            needed = self.work.steps[step.needs] if step.needs else None
            ready = needed is None or self.outcome.states[needed.name].what == DONE
            state = self.folder.state(step, needed) if ready else State(LEFT, "not chosen")
            if state.what != DONE and step.name in names:
                waiting.append(step)
            self.outcome.states[step.name] = state if state.what == DONE else State(LEFT, "not chosen")
        if there := len(self.outcome.of(DONE)):
            log.info("%d of %s are there and unchanged", there, counted(len(self.work.steps), "step"))
        return {step.name: step for step in sorted(waiting, key=lambda step: -KINDS.index(step.kind))}

    def _begin_or_leave(self, step: Step) -> bool:
        """True where a step waits no longer: it was begun, is done, or cannot be."""
        states = self.outcome.states
        needed = self.work.steps[step.needs] if step.needs else None
        if needed is not None and states[needed.name].what != DONE:
            if needed.name in self._waiting or any(one.step is needed for one in self._going):
                return False
            states[step.name] = State(LEFT, f"{needed.name} is not done")
            return True
        if len(self._going) >= self.jobs:
            return False
        state = self.folder.state(step, needed)
        if state.what == DONE:
            log.info("%s: there and unchanged", step.name)
            states[step.name] = state
            return True
        if self.end is None or time.monotonic() + self._seconds(step) <= self.end:
            self._begin(step, state, needed)
            return True
        how = "a guess" if self.pace.is_guess(step) else "as those before took"
        states[step.name] = State(LEFT, f"would take {self._seconds(step):,.0f} s ({how}), and that is not left")
        return not self._going  # those that still run may tell that it takes less

    def _seconds(self, step: Step) -> float:
        return self.pace.seconds(step, epochs_done=self.folder.epochs(step) if step.kind == TRAIN else 0)

    def _begin(self, step: Step, state: State, needed: Step | None) -> None:
        try:
            found = self.folder.clear(step, state)
        except StudyError as error:  # what others have put there stays, and other steps go on
            self.outcome.states[step.name] = State(FAILED, str(error))
            log.error("%s: %s", step.name, error)
            return
        if state.what == AGAIN or found:
            log.warning("%s: %s", step.name, found or f"{state.why}; made again")
        arguments = [located(argument, self.folder.path.absolute()) for argument in step.arguments]
        read = self.folder.read_by(step, needed)
        child = self.launcher.start(arguments, self.folder.log(step))
        self._going.append(_Going(step, child, state.what in (BEGIN, AGAIN) or found is not None, read))
        log.info("%s: %s", step.name, "goes on" if state.what == GO_ON and not found else "begins")

    def _collect(self) -> None:
        """Record the steps that have ended."""
        for one in [one for one in self._going if one.child.poll() is not None]:
            self._going.remove(one)
            if one.child.poll() == 0 and self.folder.output(one.step) is not None:
                seconds = time.monotonic() - one.began
                self.folder.keep(one.step, read=one.read, seconds=round(seconds, 1) if one.whole else None)
                self.pace.learn(one.step, seconds)
                self.outcome.states[one.step.name] = State(DONE)
                log.info("%s: done in %.0f s", one.step.name, seconds)
            else:
                path = self.folder.log(one.step)
                why = f"exit code {one.child.poll()}: {_last_words(path)} ({path})"
                self.outcome.states[one.step.name] = State(FAILED, why)
                log.error("%s: %s", one.step.name, why)

    def _stop(self, why: str) -> None:
        """Ask what runs to save and end, wait for it, and begin nothing more."""
        for one in self._going:
            one.child.ask_to_stop()
        for one in self._going:
            one.child.end()
        ended = [one for one in self._going if one.child.poll() == 0]
        for one in self._going:
            self.outcome.states[one.step.name] = State(STOPPED, why)
        for step in self._waiting.values():
            self.outcome.states[step.name] = State(LEFT, why)
        self._going, self._waiting = ended, {}
        self._collect()


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does while this runs."""
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


def _last_words(path: Path) -> str:
    """The error that a command ended with."""
    with open(path, "rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - LAST_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("Error: ")
