"""Is this tree slower than another revision? A two-minute selection, the two trees in turns in one run.

Each tree has a process of its own that stays, and one of them computes at a time: A B, B A, A B, … A ratio is this
tree's time over the other's, of the two samples of a round; its 99 % interval is Student's t over the logarithms. A
case whose interval has 1 in it shows no difference. The machine should have nothing else to do.

    python benchmarks/bench.py --against HEAD~1
"""

from __future__ import annotations

import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from bench_cases import CASES
from provenance import provenance
from scipy.stats import t

ROOT = Path(__file__).resolve().parents[1]
HELP = "--help"
CONFIDENCE = 0.99
LEAST_ROUNDS, MOST_ROUNDS = 3, 25
LISTED = 20_000


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def default_revision() -> str:
    """The last tag; without one, where this branch left main; on main, the commit before."""
    for asked in (("describe", "--tags", "--abbrev=0"), ("merge-base", "HEAD", "main")):
        try:
            found = git(*asked)
        except subprocess.CalledProcessError:
            continue
        if git("rev-parse", f"{found}^{{commit}}") != git("rev-parse", "HEAD"):
            return found
    return "HEAD~1"


class Tree:
    """A checkout, and the process in which its package computes."""

    def __init__(self, root: Path) -> None:
        self.environment = {**os.environ, "PYTHONPATH": str(root)}
        command = [sys.executable, str(ROOT / "benchmarks" / "bench_cases.py")]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self.environment,
            cwd=root,
        )
        assert self.process.stdout
        package = json.loads(self.process.stdout.readline())["package"]
        if not Path(package).is_relative_to(root):
            raise click.ClickException(f"{package} is measured instead of the package in {root}")

    def seconds(self, case: str, folder: Path, *, tiny: bool) -> float | str:
        """How long the case takes; what is wrong where it cannot be run."""
        if case == HELP:
            command = [sys.executable, "-m", "l2a_transfer", "--help"]
            began = time.perf_counter()
            found = subprocess.run(command, capture_output=True, env=self.environment, cwd=folder)
            return time.perf_counter() - began if found.returncode == 0 else "its help failed"
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"case": case, "folder": str(folder), "tiny": tiny}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"its process ended, {self.process.wait()}"}
        return float(answer["seconds"]) if "seconds" in answer else str(answer["error"])

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """A worktree of a revision."""
    root = folder / "other"
    git("worktree", "add", "--quiet", "--detach", str(root), revision)
    try:
        yield root
    finally:
        git("worktree", "remove", "--force", str(root))


def sampled(case: str, trees: tuple[Tree, Tree], folder: Path, seconds: float, *, tiny: bool) -> list[Any] | str:
    """Pairs of seconds, this tree and the other; what is wrong where one cannot run the case."""
    pairs: list[Any] = []
    for tree, whose in zip(trees, ("this tree", "the other"), strict=True):  # prepared, and not counted
        if isinstance(wrong := tree.seconds(case, folder, tiny=tiny), str):
            return f"{whose}: {wrong}"
    began = time.perf_counter()
    while len(pairs) < LEAST_ROUNDS or (time.perf_counter() - began < seconds and len(pairs) < MOST_ROUNDS):
        order = (0, 1) if len(pairs) % 2 == 0 else (1, 0)
        found = {k: trees[k].seconds(case, folder, tiny=tiny) for k in order}
        if wrong := next((value for value in found.values() if isinstance(value, str)), None):
            return wrong
        pairs.append((found[0], found[1]))
    return pairs


def compared(pairs: list[Any]) -> dict[str, Any]:
    """The ratio of the paired times, its interval, and what it says."""
    logs = [math.log(mine / other) for mine, other in pairs]
    mean = statistics.fmean(logs)
    reach = float(t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    low, high = math.exp(mean - reach), math.exp(mean + reach)
    verdict = "slower" if low > 1 else "faster" if high < 1 else "no difference"
    return {
        "seconds": statistics.median(mine for mine, _ in pairs),
        "seconds_there": statistics.median(other for _, other in pairs),
        "ratio": math.exp(mean),
        "interval": [low, high],
        "n": len(pairs),
        "verdict": verdict,
        "pairs": pairs,
    }


def write_listed(folder: Path, files: int) -> None:
    """Files in 20 classes; what is in them does not matter to a listing."""
    for k in range(files):
        path = folder / f"class-{k % 20:02d}" / f"{k:05d}.jpg"
        if k < 20:
            path.parent.mkdir(parents=True)
        path.touch()


@click.command()
@click.option("--against", metavar="REV", help="A git revision. [default: the last tag, else where this branch began]")
@click.option("--seconds", type=float, default=100.0, show_default=True, help="For all cases together.")
@click.option("--case", "cases", multiple=True, type=click.Choice((*CASES, HELP)), help="By default all.")
@click.option("--tiny", is_flag=True, help="Sizes that measure nothing, for a test of this script.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON to write.")
def main(against: str | None, seconds: float, cases: tuple[str, ...], tiny: bool, out: Path | None) -> None:
    load = os.getloadavg()
    revision = against or default_revision()
    names = cases or (*CASES, HELP)
    print(f"this tree against {revision} ({git('rev-parse', '--short', revision)}), {CONFIDENCE:.0%} intervals")
    print(f"{'case':<14}{'here':>10}{'there':>10}{'ratio':>8}   interval        n  verdict")
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="l2a-bench-"))).resolve()
        if "listing" in names:
            write_listed(folder / "listed", 40 if tiny else LISTED)
        roots = ROOT, stack.enter_context(checked_out(revision, folder))
        trees = Tree(roots[0]), Tree(roots[1])
        for tree in trees:
            stack.callback(tree.close)
        for case in names:
            pairs = sampled(case, trees, folder, seconds / len(names), tiny=tiny)
            if isinstance(pairs, str):
                found[case] = {"error": pairs}
                print(f"{case:<14}  cannot be compared: {pairs[:90]}")
                continue
            own = found[case] = compared(pairs)
            low, high = own["interval"]
            print(
                f"{case:<14}{1e3 * own['seconds']:>7.0f} ms{1e3 * own['seconds_there']:>7.0f} ms{own['ratio']:>8.3f}   "
                f"{low:.3f}–{high:.3f}{own['n']:>5}  {own['verdict']}",
                flush=True,
            )
    if out is not None:
        document = {
            "schema": "l2a-benchmark/1",
            "what": "times of this tree over those of another revision, the two in turns",
            **provenance(shlex.join(["python", "benchmarks/bench.py", *sys.argv[1:]])),
            "load_average_at_start": load,
            "against": git("rev-parse", revision),
            "confidence": CONFIDENCE,
            "cases": found,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
