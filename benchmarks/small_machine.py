"""Does every command succeed, or say how much memory it needs, on a small machine? Each runs in its own container.

The container is a memory control group (version 1 or 2) created by this program, which needs root. Otherwise, it is
RLIMIT_AS plus the addresses that importing PyTorch maps, and the result says so: this limits mapped addresses, not
memory.

    python benchmarks/small_machine.py --work work --out benchmarks/results/small-machine.json
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image
from provenance import provenance

from l2a_transfer.features.store.schema import FeatureMeta
from l2a_transfer.features.store.writer import write_features

MODEL = "vgg-att2-concat-pc"
WEIGHTS = f"{MODEL}.cifar10-w025"
TRAINING_ROWS, TEST_ROWS, COLUMNS, CLASSES = 50_000, 10_000, 256, 10
PICTURES = 1200
NAMES = ("airplane", "automobile", "bird", "cat")
SVM = ["svm-eval", "features.h5", "--out", "report", "--overwrite", "--c-grid", "1e-3,1e-2", "--decades", "0"]
TRAIN = ["train", "--data", "imagefolder:pictures", "--holdout", "200", "--epochs", "1", "--out", "run", "--overwrite"]
OF = ["--model", WEIGHTS, "--overwrite"]
METHODS = "attention,evidence,grad-cam,saliency,occlusion"
COARSE = ["--option", "occlusion.window=64", "--option", "occlusion.stride=64"]
MASKS = ["--masks", "png:masks", "--skip-unmasked"]
PHOTOS = ["--data", "imagefolder:pictures"]
CASES: list[tuple[float, list[str]]] = [
    (1, ["inspect", "--verify", "features.h5"]),
    (1, ["export", "--model", WEIGHTS, "--out", "network.onnx", "--overwrite"]),
    (1, ["maps", "--model", WEIGHTS, "--out", "maps", "--overwrite", "pictures/class-0/0000.jpg"]),
    (
        1,
        [
            "extract",
            "--model",
            WEIGHTS,
            "--data",
            "imagefolder:pictures",
            "--workers",
            "2",
            "--out",
            "a.h5",
            "--overwrite",
        ],
    ),
    (1, ["extract", "--model", "network.onnx", "--data", "imagefolder:pictures", "--out", "b.h5", "--overwrite"]),
    (
        1,
        [
            "train",
            "--model",
            "vgg",
            "--width",
            "0.0625",
            "--data",
            "digits",
            "--holdout",
            "100",
            "--epochs",
            "2",
            "--out",
            "tiny",
            "--overwrite",
        ],
    ),
    (1, [*TRAIN, "--model", MODEL]),
    (1, [*TRAIN, "--model", MODEL, "--width", "1", "--batch-size", "256"]),
    (1, ["quickstart", "--out", "quickstart", "--overwrite"]),
    (1, ["explain", *OF, *PHOTOS, "--limit", "100", "--no-overlays", "--store", "maps-file.h5", "--out", "why"]),
    (1, ["explain", *OF, *PHOTOS, "--limit", "40", "--group", "--method", "attention", "--out", "group"]),
    (
        1,
        [
            "explain",
            *OF,
            "--method",
            METHODS,
            "--side",
            "256",
            *COARSE,
            "--out",
            "methods",
            "pictures/class-0/0000.jpg",
        ],
    ),
    (1, ["localize", *OF, *PHOTOS, "--limit", "200", *MASKS, "--out", "localization", "--write-masks", "found"]),
    (1, ["localize", *OF, *PHOTOS, "--limit", "20", *MASKS, "--side", "512", "--out", "large"]),
    (1, ["sanity", *OF, *PHOTOS, "--out", "sanity"]),
    (1, ["faithfulness", *OF, *PHOTOS, "--method", METHODS, "--limit", "40", "--out", "faithfulness"]),
    (1, ["robustness", *OF, "--data", "imagefolder:named", "--limit", "100", "--out", "robustness"]),
    (1, SVM),
    (1, [*SVM, "--max-memory", "8G"]),
    (0.5, SVM),
    (0.5, [*SVM, "--solver", "liblinear"]),
]
"""(share of the limit, command): everyday commands, and commands that do not fit."""


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for what is read and written.")
@click.option("--limit", type=click.IntRange(min=1), default=1600, show_default=True, help="MiB of the container.")
@click.option("--verbs", default="", help="Only these, with commas between. [default: all]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(work: Path, limit: int, verbs: str, out: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    make_pictures(work / "pictures")
    make_features(work / "features.h5")
    rows = []
    for share, command in CASES:
        if verbs and command[0] not in verbs.split(","):
            continue
        with container(int(share * limit)) as box:
            rows.append({"command": shlex.join(["l2a-transfer", *command]), **run(command, box, work)})
        print(rows[-1], file=sys.stderr, flush=True)
    bad = sum(row["exit_code"] not in (0, 1) for row in rows)
    document = {
        "schema": "l2a-benchmark/1",
        "what": "every verb in a container of little memory: exit 0, or 1 with a sentence that says what is needed",
        **provenance(shlex.join(["python", "benchmarks/small_machine.py", *sys.argv[1:]])),
        "machine_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "cases": rows,
        "bad": bad,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{out}: {len(rows)} cases, {bad} bad")
    sys.exit(bool(bad))


def make_pictures(root: Path) -> None:
    """JPEG files of 640 × 480 pixels in four class folders, always the same.

    The folder `named` has the same files with class names of the bundled network, and `masks` has a mask for each.
    """
    generator = np.random.default_rng(0)
    for number in range(PICTURES):
        path = root / f"class-{number % 4}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480)).save(path, quality=85)
        named = root.parent / "named" / NAMES[number % 4] / path.name
        named.parent.mkdir(parents=True, exist_ok=True)
        named.unlink(missing_ok=True)
        named.hardlink_to(path)
        mask = root.parent / "masks" / path.parent.name / f"{number:04d}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(coarse[:, :, 0] > 128, np.ones((20, 20), np.bool_))).save(mask)


def make_features(path: Path) -> None:
    """A feature file with CLASSES noisy clusters, always the same."""
    generator = np.random.default_rng(0)
    N = TRAINING_ROWS + TEST_ROWS
    labels = np.tile(np.arange(CLASSES, dtype=np.int32), N // CLASSES)
    centres = generator.normal(size=(CLASSES, COLUMNS))
    values = (centres[labels] + 6 * generator.normal(size=(N, COLUMNS))).astype(np.float32)
    meta = FeatureMeta(
        data="clouds",
        classes=tuple(f"class {k}" for k in range(CLASSES)),
        splits=("train", "test"),
        levels=(("L3", 0, COLUMNS),),
        card={"name": "clouds"},
        preprocess={},
        tap="ga",
        precision="fp32",
        backend="torch",
        fingerprint={},
    )
    split = (np.arange(N) >= TRAINING_ROWS).astype(np.uint8)
    ids = [f"{number:06d}" for number in range(N)]
    write_features(path, meta, labels=labels, ids=ids, split=split, blocks=[values], dim=COLUMNS)


@dataclass(frozen=True)
class Container:
    """`folder`: the control group; None if RLIMIT_AS is used, with `limit` MiB plus the addresses mapped by PyTorch."""

    limit: int
    kind: str
    folder: Path | None
    address_space: int = 0

    def enter(self) -> None:
        """Called in the child before it executes the command."""
        if self.folder is None:
            resource.setrlimit(resource.RLIMIT_AS, (self.address_space, self.address_space))
        else:
            (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def number(self, *names: str) -> int | None:
        for name in names if self.folder else ():
            with_name = self.folder / name  # type: ignore[operator]
            if with_name.exists():
                return int(with_name.read_text())
        return None

    def killed(self) -> int | None:
        """Number of processes killed here by the kernel because of memory."""
        for name in ("memory.oom_control", "memory.events") if self.folder else ():
            path = self.folder / name  # type: ignore[operator]
            if path.exists():
                fields = dict(line.split() for line in path.read_text().splitlines())
                return int(fields["oom_kill"])
        return None


@contextmanager
def container(limit: int) -> Iterator[Container]:
    """A container of `limit` MiB, removed afterwards."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        mount = Path(fields.split()[4])
        if kind == "cgroup" and "memory" in options.split(","):
            found = _made(mount, "memory.limit_in_bytes", limit)
        elif kind == "cgroup2":
            found = _made(mount, "memory.max", limit)
        else:
            continue
        if found is not None:
            try:
                yield Container(limit, kind, found)
            finally:
                found.rmdir()
            return
    yield Container(limit, "RLIMIT_AS", None, (limit << 20) + mapped_by_torch())


def _made(mount: Path, name: str, limit: int) -> Path | None:
    folder = mount / f"l2a-small-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / name).write_text(str(limit << 20))
    except OSError:
        if folder.is_dir():
            folder.rmdir()
        return None
    return folder


def mapped_by_torch() -> int:
    """Address space in bytes that importing PyTorch maps, beyond its resident memory."""
    program = (
        "import torch\nfor line in open('/proc/self/status'):\n  print(line) if line[:6] in ('VmSize', 'VmRSS:') else 0"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    return (int(said[1]) - int(said[4])) * 1024


def run(command: list[str], box: Container, work: Path) -> dict[str, Any]:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "l2a_transfer", "-q", *command],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=box.enter,
    )
    said = (done.stderr.strip().splitlines() or [""])[-1]
    peak = box.number("memory.max_usage_in_bytes", "memory.peak")
    return {
        "container": box.kind,
        "limit_mib": box.limit,
        "exit_code": done.returncode,
        "killed_by_kernel": box.killed(),
        "peak_mib": None if peak is None else round(peak / 2**20),
        "seconds": round(time.perf_counter() - began, 1),
        "said": said.replace(f"{work.absolute()}/", "") if done.returncode else "",
    }


if __name__ == "__main__":
    main()
