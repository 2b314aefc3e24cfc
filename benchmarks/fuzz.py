"""Read hostile files of every supported kind, damaged or crafted, each in a separate process.

Libraries are loaded once; each case is a fork with limits on CPU time and memory (see `fuzzing/child.py`). A case is
good if the file is rejected with an error of this package that names the file, or read with its original content. If a
format has no checksum (pictures, tar, the values inside Parquet), or the checksum is renewed after the damage, the
result can be another valid file: these cases are "other". Bad cases are a crash, a hang, memory above the limit,
another exception, an error that does not name the file, and a file with a checksum that is read with different content.

    python benchmarks/fuzz.py --cases 10000 --out benchmarks/results/fuzz.json
    python benchmarks/fuzz.py --minutes 10 --seed fresh
    python benchmarks/fuzz.py --repeat parquet:0:17 --keep bad

A bad case is printed with the command that repeats it. --kinds runs only some kinds; each kind in the JSON names its
commit.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import h5py
import onnxruntime
import PIL
import pyarrow as pa
import safetensors
import torch
from fuzzing.child import CPU_S, MEMORY_BYTES, in_child
from fuzzing.registry import KINDS
from provenance import provenance

from l2a_transfer.errors import L2AError, UnknownNameError

GOOD = ("refused", "right", "other")
DIGEST_LENGTH = 64
SHOWN = 400
"""Maximum number of characters kept of an error."""


@dataclass(frozen=True)
class Outcome:
    """`kind`: refused, right, other (another valid file), or bad: wrong, unnamed, exception, crash, hang, memory, and
    unprepared (the damage itself failed)."""

    kind: str
    detail: str
    damage: str = ""
    bytes: int = 0
    seconds: float = 0.0

    @property
    def bad(self) -> bool:
        return self.kind not in GOOD


@dataclass
class Tally:
    """Summary of the cases of one kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    refused_by: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    largest: int = 0
    bad: list[dict[str, Any]] = field(default_factory=list)

    def take(self, case: int, seed_file: str, outcome: Outcome) -> None:
        self.outcomes[outcome.kind] += 1
        self.slowest, self.largest = max(self.slowest, outcome.seconds), max(self.largest, outcome.bytes)
        if outcome.kind == "refused":
            self.refused_by[outcome.detail.split(":")[0]] += 1
        if outcome.bad:
            self.bad.append(
                {
                    "case": case,
                    "seed_file": seed_file,
                    "outcome": outcome.kind,
                    "damage": outcome.damage,
                    "detail": outcome.detail,
                }
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "cases": self.outcomes.total(),
            "bad": len(self.bad),
            "outcomes": dict(sorted(self.outcomes.items())),
            "refused_by": dict(sorted(self.refused_by.items())),
            "slowest_seconds": round(self.slowest, 2),
            "largest_mib": self.largest >> 20,
            "bad_cases": self.bad,
        }


class Bench:
    """The undamaged files of some kinds, in a folder, and the results for damaged copies of them."""

    def __init__(self, folder: Path, kinds: list[str]) -> None:
        self.seeds, self.work = folder / "seeds", folder / "work"
        self.expected: dict[Path, str] = {}

        def make() -> str:
            for name in kinds:
                (self.seeds / name).mkdir(parents=True)
                KINDS[name].seeds(self.seeds / name)
            return "done"

        # In a child, like every answer: threads that a library starts would not survive a fork.
        ended = in_child(lambda: _or_error(make), limited=False)
        if ended.text != "done":
            raise click.ClickException(f"the whole files could not be made ({ended.why}): {ended.text}")

    def run(self, name: str, seed: int, case: int) -> tuple[str, Path, Outcome]:
        """(name of the original file, damaged copy, outcome); the same numbers give the same case."""
        kind = KINDS[name]
        whole = sorted((self.seeds / name).iterdir())
        chosen = whole[case % len(whole)]
        expected = self._expected(name, chosen)
        path = self._copied(chosen)
        said = self.work / "damage"

        def damage() -> None:
            said.write_text(kind.damage(path, random.Random(f"{seed} {name} {case}")), errors="backslashreplace")

        said.unlink(missing_ok=True)
        ended = in_child(lambda: _judged(name, path, expected), prepare=lambda: _traced(damage, said))
        done = said.read_text() if said.exists() else ""
        if ended.why != "done":
            return chosen.name, path, Outcome(ended.why, ended.text[:SHOWN], done, ended.bytes, ended.seconds)
        outcome, _, detail = ended.text.partition("\n")
        return chosen.name, path, Outcome(outcome, detail[:SHOWN], done, ended.bytes, ended.seconds)

    def _copied(self, chosen: Path) -> Path:
        """A copy in an otherwise empty folder."""
        place = self.work / "case"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        path = place / chosen.name
        (shutil.copytree if chosen.is_dir() else shutil.copyfile)(chosen, path)
        return path

    def _expected(self, name: str, chosen: Path) -> str:
        """The result of reading an undamaged file; empty if a foreign file is rejected."""
        if chosen not in self.expected:
            path = self._copied(chosen)
            ended = in_child(lambda: _judged(name, path, ""))
            outcome, _, detail = ended.text.partition("\n")
            read = outcome in ("other", "wrong") and len(detail) == DIGEST_LENGTH
            if not read and not (outcome == "refused" and ".foreign" in chosen.name):
                raise click.ClickException(f"{name}/{chosen.name}: cannot be read whole: {ended.why} {ended.text}")
            self.expected[chosen] = detail if read else ""
        return self.expected[chosen]


def _or_error(make: Any) -> str:
    try:
        return str(make())
    except BaseException:
        return traceback.format_exc()


def _traced(damage: Any, said: Path) -> None:
    try:
        damage()
    except BaseException:
        said.write_text(traceback.format_exc(), errors="backslashreplace")
        raise


def _judged(name: str, path: Path, expected: str) -> str:
    """The outcome of reading, followed on a new line by the error, or by the digest of the content."""
    try:
        found = KINDS[name].answer(path)
    except (L2AError, UnknownNameError) as error:
        return f"{'refused' if path.name in str(error) else 'unnamed'}\n{type(error).__name__}: {error}"
    except BaseException as error:
        return f"exception\n{type(error).__name__} at {_where(error)}: {error}"
    if found == expected:
        return f"right\n{found}"
    return f"{'wrong' if KINDS[name].sealed else 'other'}\n{found}"


def _where(error: BaseException) -> str:
    """The last line of this package in an error's traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "l2a_transfer" in frame.filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"


def plan(cases: int, kinds: list[str]) -> dict[str, int]:
    """The number of cases per kind, by its share; the first gets the remainder."""
    total = sum(KINDS[name].share for name in kinds)
    counts = {name: cases * KINDS[name].share // total for name in kinds}
    counts[kinds[0]] += cases - sum(counts.values())
    return counts


def schedule(kinds: list[str], cases: int, minutes: float | None) -> Iterator[tuple[str, int]]:
    """(kind, case): kind by kind, or in turns until the time is over."""
    if minutes is None:
        yield from ((name, case) for name, count in plan(cases, kinds).items() for case in range(count))
        return
    stop = time.monotonic() + 60 * minutes
    dealt = [name for name in kinds for _ in range(KINDS[name].share)]
    numbers = {name: itertools.count() for name in kinds}
    for name in itertools.cycle(dealt):
        if time.monotonic() > stop:
            return
        yield name, next(numbers[name])


@click.command()
@click.option("--cases", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--minutes", type=float, help="Go on for so long, instead of for so many cases.")
@click.option("--kinds", default=",".join(KINDS), show_default=True)
@click.option("--seed", default="0", show_default=True, help="A number, or 'fresh' for one that nobody has had.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for the files of bad cases.")
@click.option("--repeat", metavar="KIND:SEED:CASE", help="One case again; with --keep its file is kept in any case.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON to write.")
def main(
    cases: int, minutes: float | None, kinds: str, seed: str, keep: Path | None, repeat: str | None, out: Path | None
) -> None:
    """Read hostile files, each in a separate process; exit 1 if a case was bad."""
    torch.set_num_threads(1)
    chosen = kinds.split(",") if repeat is None else [repeat.split(":")[0]]
    if unknown := set(chosen) - set(KINDS):
        raise click.UsageError(f"no such kind: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    number = secrets.randbits(32) if seed == "fresh" else int(seed)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), chosen)
        if repeat is not None:
            _repeat(bench, *repeat.split(":"), keep=keep)
            return
        print(f"seed {number}", file=sys.stderr)
        found = kinds_of(out, cases, number)
        tallies = {kind: Tally() for kind in chosen}
        last = ""
        for kind, case in schedule(chosen, cases, minutes):
            if last and kind != last and minutes is None:
                _finished(last, tallies[last], found, out, cases, number)
            last = kind
            seed_file, path, outcome = bench.run(kind, number, case)
            tallies[kind].take(case, seed_file, outcome)
            if outcome.bad:
                print(_bad_line(kind, number, case, outcome), file=sys.stderr)
                if keep:
                    _keep(path, keep / f"{kind}-{number}-{case}")
        for kind in chosen if minutes is not None else [last]:
            _finished(kind, tallies[kind], found, out, cases, number)
    bad = sum(len(tally.bad) for tally in tallies.values())
    total = sum(tally.outcomes.total() for tally in tallies.values())
    print(f"{total} cases, {bad} bad, {time.perf_counter() - started:.0f} s, seed {number}")
    sys.exit(1 if bad else 0)


def _bad_line(kind: str, seed: int, case: int, outcome: Outcome) -> str:
    took = f"{outcome.seconds:.1f} s, {outcome.bytes >> 20} MiB"
    damage = outcome.damage.strip().rpartition("\n")[2]  # the last line of a traceback, where the damage failed
    line = f"{outcome.kind}: {damage[:80]}: {outcome.detail[:200]} ({took})"
    return f"{ascii(line)[1:-1]}\n  python benchmarks/fuzz.py --repeat {kind}:{seed}:{case}"


def _repeat(bench: Bench, kind: str, seed: str, case: str, *, keep: Path | None) -> None:
    seed_file, path, outcome = bench.run(kind, int(seed), int(case))
    if keep:
        _keep(path, keep / f"{kind}-{seed}-{case}")
    print(json.dumps({"seed_file": seed_file, **vars(outcome)}, indent=1))
    sys.exit(1 if outcome.bad else 0)


def _keep(path: Path, to: Path) -> None:
    """Copy the damaged file or folder unchanged: links stay links; pipes and sockets are omitted."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for file in [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]:
        target = os.path.join(os.fsencode(to), os.fsencode(file.relative_to(path.parent)))
        if file.is_symlink():
            os.symlink(os.readlink(os.fsencode(file)), target)
        elif file.is_dir():
            os.mkdir(target)
        elif file.is_file():
            shutil.copyfile(os.fsencode(file), target)


def _finished(kind: str, tally: Tally, found: dict[str, Any], out: Path | None, cases: int, seed: int) -> None:
    """Report the results of a kind, and keep them."""
    found[kind] = {"commit": provenance("")["commit"], **tally.to_json()}
    said = f"slowest {tally.slowest:.1f} s, largest {tally.largest >> 20} MiB"
    print(f"{kind:<22} {json.dumps(found[kind]['outcomes'])} {said}", file=sys.stderr)
    if out:
        write(out, found, cases, seed)


def kinds_of(out: Path | None, cases: int, seed: int) -> dict[str, Any]:
    """The results of an earlier call with the same cases and seed, by kind, so that a long run can be done in parts."""
    if out is None or not out.exists():
        return {}
    document = json.loads(out.read_text())
    kinds: dict[str, Any] = document["kinds"] if (document["asked"], document["seed"]) == (cases, seed) else {}
    return kinds


def write(out: Path, found: dict[str, Any], cases: int, seed: int) -> None:
    """Write the results of the finished kinds."""
    document = {
        "schema": "l2a-benchmark/1",
        "what": f"hostile files, each read in a process of its own with {CPU_S} s and {MEMORY_BYTES / 2**30} GiB",
        **provenance(f"python benchmarks/fuzz.py --cases {cases} --seed {seed} --out benchmarks/results/{out.name}"),
        "libraries": {
            "libhdf5": h5py.version.hdf5_version,
            "h5py": h5py.__version__,
            "safetensors": safetensors.__version__,
            "onnxruntime": onnxruntime.__version__,
            "Pillow": PIL.__version__,
            "pyarrow": pa.__version__,
        },
        "asked": cases,
        "seed": seed,
        "cases": sum(result["cases"] for result in found.values()),
        "bad": sum(result["bad"] for result in found.values()),
        "kinds": found,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
