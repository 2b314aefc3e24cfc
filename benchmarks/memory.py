"""Does an extraction's memory grow with the number of images? Peak memory of the same command on two folders.

Creates two image folders of the same JPEG files (links), one ten times as large as the other, extracts each in a
separate process, and samples the memory of that process and its workers: their own pages and shared memory, each page
counted once (PSS), without the mapped files of libraries, whose share depends on other processes. It also records the
peak resident size of the process itself, including libraries.

    python benchmarks/memory.py --images data/caltech101 --out benchmarks/results/memory.json
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from provenance import provenance


@click.command()
@click.option("--images", type=click.Path(path_type=Path, exists=True), required=True, help="A folder of JPEG files.")
@click.option("--rows", type=int, nargs=2, default=(2000, 20000), show_default=True)
@click.option("--model", default="vgg-att2-concat-pc.cifar10-w025", show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(images: Path, rows: tuple[int, int], model: str, repeats: int, out: Path) -> None:
    files = sorted(images.rglob("*.jpg"))
    samples: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in rows:
            link(files, folder / str(count), count)
        for _ in range(repeats):
            for count in rows:
                command = [sys.executable, "-m", "l2a_transfer", "-q", "extract", "--model", model, "--device", "cpu"]
                command += ["--data", f"imagefolder:{folder / str(count)}", "--overwrite", "--out", f"{folder}/f.h5"]
                samples.append({"rows": count, **peak(command)})
                print(samples[-1], file=sys.stderr)

    def grows(key: str) -> float:
        small, large = (statistics.median(s[key] for s in samples if s["rows"] == count) for count in rows)
        return 100 * (large - small) / small

    document = {
        "schema": "l2a-benchmark/1",
        "what": "peak memory of an extraction from an image folder, at two numbers of images",
        **provenance(shlex.join(["python", "benchmarks/memory.py", *sys.argv[1:]])),
        "model": model,
        "samples": samples,
        "difference_percent": {key: grows(key) for key in ("peak_own_mib", "peak_rss_mib")},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out, document["difference_percent"])


def link(files: list[Path], root: Path, count: int) -> None:
    """`count` links in ten class folders."""
    for number in range(count):
        path = root / f"class-{number % 10}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(files[number % len(files)].resolve())


def peak(command: list[str], said: Path = Path(os.devnull)) -> dict[str, float]:
    """Run the command with its output in `said`. Returns peaks in MiB of its own and its children's pages, sampled
    every 20 ms, and of the resident size of its first process; and its seconds from start to end."""
    began = time.perf_counter()
    with open(said, "w") as file:
        child = subprocess.Popen(command, stdout=file)
    highest = resident = 0
    while child.poll() is None:
        # A page that processes share counts in parts, so a sample that one of them leaves half-way counts it too often.
        highest = max(highest, min(sum(own(pid) for pid in tree(child.pid)) for _ in range(2)))
        resident = max(resident, status(child.pid, "status", "VmHWM"))
        time.sleep(0.02)
    if child.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {child.returncode}")
    return {
        "peak_own_mib": round(highest / 1024, 1),
        "peak_rss_mib": round(resident / 1024, 1),
        "seconds": round(time.perf_counter() - began, 2),
    }


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for at in found:
        try:
            for task in os.listdir(f"/proc/{at}/task"):
                found += map(int, Path(f"/proc/{at}/task/{task}/children").read_text().split())
        except OSError:
            continue  # it ended meanwhile
    return found


def own(pid: int) -> int:
    """Memory of a process in KiB that is not backed by a file."""
    return status(pid, "smaps_rollup", "Pss_Anon", "Pss_Shmem")


def status(pid: int, file: str, *keys: str) -> int:
    """KiB: the sum of these lines of /proc/PID/FILE; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in keys)


if __name__ == "__main__":
    main()
