"""All measurements that need a CUDA GPU, within a few minutes of GPU time, most valuable first.

tests: the tests marked gpu, every family against the CPU, and the same command twice. peaks: the card's limits, the
training step and the forward pass. extraction, svm: from arrays to features, and the SVM grid, compared with the bare
forward pass and scikit-learn. runs: training at the paper's width, then seeds at smaller ones, side by side. compiled:
the step and the forward pass with torch.compile. weights: trained weights, in files of 15 MiB.

    python benchmarks/gpu_campaign.py --data-dir data --minutes 9 --out out
    python benchmarks/gpu_campaign.py --only tests,peaks --minutes 2 --out out
    python benchmarks/gpu_campaign.py --device cpu --tiny --data-dir data --out out

`campaign.json` in --out is rewritten after each step and each run, so that an early end loses no results. Nothing is
started that cannot finish in time. Runs and weights already in --work are kept, and `--only weights` hands over those
that did not fit before.
"""

from __future__ import annotations

import json
import logging
import platform
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the package is not installed

import click
import gpu_measure
import gpu_runs
import numpy
import sklearn
import torch
from gpu_measure import MODEL
from gpu_runs import SMALLEST, Place, Run

from l2a_transfer.files import write_whole
from l2a_transfer.provenance import commit as commit_here

log = logging.getLogger("campaign")
PACKING_S = 8.0
"""Reserved at the end of a campaign for handing over weights."""


@dataclass
class Campaign:
    """What the steps share: the device, the clock, and the document with the results."""

    device: torch.device
    tiny: bool
    place: Place
    runs: list[Run]
    out: Path
    ends: float
    commit: str | None
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        return self.ends - time.perf_counter()

    def keep(self, name: str, found: Any) -> None:
        """Put a step's result into the document, and save the document."""
        self.document["steps"][name] = found
        write_whole(self.out / "campaign.json", (json.dumps(self.document, indent=1) + "\n").encode())

    def peaks(self) -> dict[str, float]:
        """Precision → operations per second, measured once."""
        if "ceilings" not in self.document["steps"]:
            side, copied = (256, 1 << 22) if self.tiny else (8192, 4 << 30)
            self.keep("ceilings", gpu_measure.ceilings(self.device, side=side, copied_bytes=copied, repeats=10))
        matrix = self.document["steps"]["ceilings"]["matrix"]
        return {row["precision"]: row["flops_a_second"] for row in matrix}


def tests(campaign: Campaign) -> None:
    limit = max(20.0, min(90.0, campaign.left_s - 5))
    with ThreadPoolExecutor(1) as pool:
        pytest = pool.submit(gpu_measure.gpu_tests, timeout_s=limit) if campaign.device.type == "cuda" else None
        campaign.keep("agreement", gpu_measure.agreement(campaign.device))
        campaign.keep("same_bytes", gpu_measure.same_bytes(campaign.device, campaign.place.work, timeout_s=limit))
    if pytest is not None:
        campaign.keep("gpu_tests", pytest.result())


def peaks(campaign: Campaign) -> None:
    found = campaign.peaks()
    precision = "bf16" if campaign.device.type == "cuda" else "fp32"
    plain: dict[str, bool] = {}
    if campaign.tiny:
        configs, steps = [(SMALLEST, 16, plain)], 2
    else:
        configs = [(w, B, plain) for w in (1.0, 0.5, 0.25) for B in (128, 512, 1024)]
        configs += [(w, 128, {"cudnn_benchmark": True}) for w in (1.0, 0.25)]
        steps = 20
    rows: list[dict[str, Any]] = []
    for config in configs:
        rows += gpu_measure.training_steps(campaign.device, found[precision], [config], steps=steps, epochs=2)
        campaign.keep("training_steps", rows)
    widths, sizes = ([SMALLEST], [8]) if campaign.tiny else ([1.0, 0.25], [64, 512])
    campaign.keep("forwards", gpu_measure.forwards(campaign.device, found, widths, sizes, ["eager", "folded"]))


def extraction(campaign: Campaign) -> None:
    configs = [(w, precision, 512) for w in (0.25, 1.0) for precision in ("fp32", "bf16")] + [(0.25, "fp32", 64)]
    if campaign.tiny:
        configs = [(SMALLEST, "fp32", 16)]
    n, repeats = (64, 1) if campaign.tiny else (20_000, 2)
    rows = gpu_measure.extraction(campaign.device, campaign.place.work, configs, n=n, repeats=repeats)
    campaign.keep("extraction", rows)


def svm(campaign: Campaign) -> None:
    sizes = ((60, 8, 3, 2),) if campaign.tiny else ((5_000, 256, 10, 5), (3_000, 1_024, 20, 5))
    rows: list[dict[str, Any]] = []
    for n, D, K, folds in sizes:
        rows.append(gpu_measure.svm_grid(campaign.device, rows=n, columns=D, classes=K, folds=folds))
        campaign.keep("svm", rows)


def runs(campaign: Campaign) -> None:
    rows: list[dict[str, Any]] = []
    for row in gpu_runs.train_all(campaign.runs, campaign.place, deadline=campaign.ends - PACKING_S):
        rows.append(row)
        campaign.keep("runs", rows)
        said = row.get("metrics") or row.get("said", "")[-300:]
        log.info("%s: %.0f s, %s", row["run"], row["wall_s"], said)


def compiled(campaign: Campaign) -> None:
    found = campaign.peaks()
    precision = "bf16" if campaign.device.type == "cuda" else "fp32"
    how = {"compile": True}
    configs = [(SMALLEST, 16, how)] if campaign.tiny else [(1.0, 128, how), (0.25, 128, how), (0.25, 1024, how)]
    rows: list[dict[str, Any]] = []
    for config in configs:
        if not campaign.tiny and campaign.left_s < 60:
            break
        steps = 2 if campaign.tiny else 20
        rows += gpu_measure.training_steps(campaign.device, found[precision], [config], steps=steps, epochs=2)
        campaign.keep("compiled_steps", rows)
    if campaign.tiny or campaign.left_s > 60:
        widths, sizes = ([SMALLEST], [8]) if campaign.tiny else ([1.0, 0.25], [64])
        campaign.keep("compiled_forwards", gpu_measure.forwards(campaign.device, found, widths, sizes, ["compiled"]))


def weights(campaign: Campaign) -> None:
    names = gpu_runs.pack(campaign.runs, campaign.place, campaign.out, commit=campaign.commit)
    campaign.keep("weights", names)
    log.info("weights of %s", ", ".join(names) or "no further run")


STEPS: dict[str, tuple[Callable[[Campaign], None], float]] = {
    "tests": (tests, 30),
    "peaks": (peaks, 30),
    "extraction": (extraction, 25),
    "svm": (svm, 30),
    "runs": (runs, 40),
    "compiled": (compiled, 90),
    "weights": (weights, 0),
}
"""Each step, and the remaining seconds that it needs to start."""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for JSON, log and weights.")
@click.option("--minutes", type=float, default=9.0, show_default=True, help="After which it has ended by itself.")
@click.option("--only", help="Steps with commas between them, in the order in which they are to run.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Holds CIFAR-10, and CIFAR-100 where it is wanted.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("work"), show_default=True, help="Of the runs.")
@click.option(
    "--done",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="What a campaign before this one found, once or more: the runs that ended there are left out.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=5, show_default=True, help="Runs at a time.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--tiny/--no-tiny", default=False, help="A rehearsal: width 1/32, one epoch, few images.")
@click.option("--commit", help="Of this code, where it does not lie in a checkout.")
def main(
    out: Path,
    minutes: float,
    only: str | None,
    data_dir: Path | None,
    work: Path,
    done: tuple[Path, ...],
    jobs: int,
    device: str,
    tiny: bool,
    commit: str | None,
) -> None:
    """Run the steps in order of value and stop in time."""
    started = time.perf_counter()
    chosen = only.split(",") if only else list(STEPS)
    if unknown := [name for name in chosen if name not in STEPS]:
        raise click.UsageError(f"--only: {unknown[0]!r} is no step; steps are {', '.join(STEPS)}")
    if "runs" in chosen and data_dir is None:
        raise click.UsageError("the step 'runs' needs --data-dir; --only names the others")
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("PyTorch sees no CUDA GPU; --device cpu --tiny rehearses without one")
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.StreamHandler(sys.stderr), logging.FileHandler(out / "campaign.log")],
    )
    torch.manual_seed(0)
    place = Place(work.resolve(), (data_dir or work).resolve(), device, jobs=jobs, tiny=tiny)
    plan = gpu_runs.tiny(gpu_runs.plan()) if tiny else gpu_runs.plan()
    rows = [row for before in done for row in json.loads(before.read_text())["steps"].get("runs", [])]
    ended = {row["run"] for row in rows if row.get("metrics")}
    plan = [run for run in plan if run.stem not in ended]
    commit = commit or commit_here()
    campaign = Campaign(torch.device(device), tiny, place, plan, out, started + 60 * minutes, commit)
    campaign.document = {
        "schema": "l2a-benchmark/1",
        "what": f"a GPU's figures and training runs; {MODEL} where no model is named",
        "command": shlex.join(["python", "benchmarks/gpu_campaign.py", *sys.argv[1:]]),
        "commit": commit,
        "minutes": minutes,
        **machine(campaign.device),
        "steps": {},
        "failed": {},
    }
    for name in chosen:
        step, needed = STEPS[name]
        if campaign.left_s < needed and not tiny:
            log.info("%s: not begun, %.0f s are left", name, campaign.left_s)
            continue
        began = time.perf_counter()
        try:
            step(campaign)
        except Exception:  # what one step cannot do must not cost the others their minutes
            campaign.document["failed"][name] = traceback.format_exc()[-4000:]
            log.exception("%s failed", name)
        seconds = time.perf_counter() - began
        campaign.keep(f"{name}_seconds", seconds)
        log.info("%s: %.1f s; %.0f s are left", name, seconds, campaign.left_s)
    if campaign.document["failed"]:
        raise SystemExit(1)


def machine(device: torch.device) -> dict[str, Any]:
    """The device's name, driver and software, recorded with every figure."""
    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "cpu_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "numpy": numpy.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            found["driver"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            found["driver"] = "unknown"
    return found


if __name__ == "__main__":
    main()
