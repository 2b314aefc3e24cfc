"""Is this tree slower than another revision? A two-minute selection of cases, with both trees in turns in one run.

In a pass, each tree has its own process, and only one computes at a time: A B, B A. Each pass uses new processes,
because two processes with the same code can differ in speed by a few percent for their whole lifetime. A pass gives one
ratio per case, this tree's time divided by the other's; the 99 % interval is Student's t over the logarithms of these
ratios. If the interval contains 1, there is no significant difference. The machine should be otherwise idle.

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
from collections.abc import Iterator, Sequence
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
ROUNDS = 2
"""Rounds per pass; with two, each tree goes first once."""
LISTED = 20_000
WHOSE = "this tree", "the other"


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


def default_revision() -> str:
    """The last tag; without tags, the point where this branch left main; on main, the previous commit."""
    for asked in (("describe", "--tags", "--abbrev=0"), ("merge-base", "HEAD", "main")):
        try:
            found = git(*asked)
        except subprocess.CalledProcessError:
            continue
        if git("rev-parse", f"{found}^{{commit}}") != git("rev-parse", "HEAD"):
            return found
    return "HEAD~1"


class Tree:
    """A checkout, and the process that runs its package."""

    def __init__(self, root: Path) -> None:
        self.environment = {**os.environ, "PYTHONPATH": str(root)}
        # Else this tree, which has run before, would have its modules compiled, and the other would not.
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
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
        """How long the case takes, or the error if it cannot be run."""
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


def pass_over(
    names: Sequence[str], roots: tuple[Path, Path], folder: Path, *, tiny: bool
) -> dict[str, list[tuple[float, float]] | str]:
    """Case → pairs of seconds of this tree and the other, or the error if one cannot run the case."""
    found: dict[str, list[tuple[float, float]] | str] = {}
    with ExitStack() as stack:
        trees = tuple(Tree(root) for root in roots)
        for tree in trees:
            stack.callback(tree.close)
        for case in names:
            pairs = []
            for k in range(ROUNDS + 1):
                order = (0, 1) if k % 2 == 0 else (1, 0)
                seconds = {of: trees[of].seconds(case, folder, tiny=tiny) for of in order}
                if wrong := next((f"{WHOSE[of]}: {own}" for of, own in seconds.items() if isinstance(own, str)), None):
                    found[case] = wrong
                    break
                pairs.append((float(seconds[0]), float(seconds[1])))
            else:
                found[case] = pairs[1:]  # the first prepares
    return found


def compared(passes: list[list[tuple[float, float]]]) -> dict[str, Any]:
    """The ratio of the times of a case, its interval over passes, and the conclusion."""
    logs = [statistics.fmean(math.log(mine / other) for mine, other in pairs) for pairs in passes]
    mean = statistics.fmean(logs)
    reach = float(t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    low, high = math.exp(mean - reach), math.exp(mean + reach)
    return {
        "seconds": statistics.median(mine for pairs in passes for mine, _ in pairs),
        "seconds_there": statistics.median(other for pairs in passes for _, other in pairs),
        "ratio": math.exp(mean),
        "interval": [low, high],
        "n": len(logs),
        "verdict": "slower" if low > 1 else "faster" if high < 1 else "no difference",
        "passes": passes,
    }


def write_listed(folder: Path, files: int) -> None:
    """Write files in 20 classes; their content does not matter for a listing."""
    for k in range(files):
        path = folder / f"class-{k % 20:02d}" / f"{k:05d}.jpg"
        if k < 20:
            path.parent.mkdir(parents=True)
        path.touch()


@click.command()
@click.option("--against", metavar="REV", help="A git revision. [default: the last tag, else where this branch began]")
@click.option("--seconds", type=float, default=115.0, show_default=True, help="For as many passes as fit.")
@click.option("--least-passes", type=click.IntRange(min=2), default=3, show_default=True, help="Whatever they take.")
@click.option("--case", "cases", multiple=True, type=click.Choice((*CASES, HELP)), help="By default all.")
@click.option("--tiny", is_flag=True, help="Sizes that measure nothing, for a test of this script.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON to write.")
def main(
    against: str | None, seconds: float, least_passes: int, cases: tuple[str, ...], tiny: bool, out: Path | None
) -> None:
    load = os.getloadavg()
    revision = against or default_revision()
    names = cases or (*CASES, HELP)
    print(f"this tree against {revision} ({git('rev-parse', '--short', revision)}), {CONFIDENCE:.0%} intervals")
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="l2a-bench-"))).resolve()
        if "listing" in names:
            write_listed(folder / "listed", 40 if tiny else LISTED)
        roots = ROOT, stack.enter_context(checked_out(revision, folder))
        began, passes = time.perf_counter(), list[dict[str, Any]]()
        while len(passes) < least_passes or (time.perf_counter() - began) * (1 + 1 / len(passes)) < seconds:
            passes.append(pass_over(names, roots, folder, tiny=tiny))
            print(f"pass {len(passes)}, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    print(f"{'case':<14}{'here':>10}{'there':>10}{'ratio':>8}   interval       n  verdict")
    for case in names:
        if wrong := next((own[case] for own in passes if isinstance(own[case], str)), None):
            found[case] = {"error": wrong}
            print(f"{case:<14}  cannot be compared: {wrong[:90]}")
            continue
        own = found[case] = compared([one[case] for one in passes])
        low, high = own["interval"]
        print(
            f"{case:<14}{1e3 * own['seconds']:>7.0f} ms{1e3 * own['seconds_there']:>7.0f} ms{own['ratio']:>8.3f}   "
            f"{low:.3f}–{high:.3f}{own['n']:>4}  {own['verdict']}"
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
