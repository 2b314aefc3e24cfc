"""Full disks, read-only folders, missing images and damaged shards: is each detected and named, and is nothing lost?

Every extraction is a separate process. After each fault, the same command runs again without it, and its file must
equal that of an undisturbed extraction. A small tmpfs serves as the full disk, so this needs root.

    python benchmarks/faults.py --images data/caltech101 --out benchmarks/results/faults.json
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from memory import link
from provenance import provenance

MODEL = "pixels"
ROWS = 3000
"""Three shards of up to 12.6 MB; the small disk has room for one of them, or for all of them without the merged
file."""
FAULTS: dict[str, Callable[[Scene, str], dict[str, Any]]] = {
    "full disk while shards are written": lambda scene, name: scene.full_disk(name, "20m"),
    "full disk during the merge": lambda scene, name: scene.full_disk(name, "55m"),
    "read-only folder": lambda scene, name: scene.read_only(name),
    "image removed in mid-run": lambda scene, name: scene.vanished(name),
    "flipped bit in a shard": lambda scene, name: scene.damaged(name, flip),
    "shard cut short": lambda scene, name: scene.damaged(name, lambda content: content[: len(content) // 2]),
}


@click.command()
@click.option("--images", type=click.Path(path_type=Path, exists=True), required=True, help="A folder of JPEG files.")
@click.option("--only", type=click.Choice(list(FAULTS)), multiple=True, default=list(FAULTS))
@click.option("--append/--no-append", default=False, help="Add to the faults in --out, where it is there.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(images: Path, only: tuple[str, ...], append: bool, out: Path) -> None:
    about = provenance(shlex.join(["python", "benchmarks/faults.py", *sys.argv[1:]]))
    faults: list[dict[str, Any]] = json.loads(out.read_text())["faults"] if append and out.exists() else []
    with tempfile.TemporaryDirectory() as name:
        scene = Scene(Path(name), sorted(images.rglob("*.jpg")), ROWS)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(scene.disk)], check=True)
        try:
            for name in only:
                faults.append({**FAULTS[name](scene, name), **about})
        finally:
            subprocess.run(["umount", str(scene.disk)], check=True)
    document = {
        "schema": "l2a-benchmark/1",
        "what": "extractions with a fault, and the same command again: detected, named, nothing lost?",
        "model": MODEL,
        "n": ROWS,
        "faults": faults,
        "all_passed": all(fault["named"] and fault["same_bytes"] for fault in faults),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out, "all passed:", document["all_passed"])


class Scene:
    """A folder of images, the file of an undisturbed extraction, and a small disk."""

    def __init__(self, folder: Path, files: list[Path], rows: int) -> None:
        self.folder, self.images, self.disk = folder, folder / "images", folder / "disk"
        self.disk.mkdir()
        link(files, self.images, rows)
        assert self.extract(folder / "whole.h5")[0] == 0
        self.whole = (folder / "whole.h5").read_bytes()

    def command(self, out: Path) -> list[str]:
        run = [sys.executable, "-m", "l2a_transfer", "-q", "extract", "--model", MODEL, "--device", "cpu"]
        return [*run, "--data", f"imagefolder:{self.images}", "--out", str(out)]

    def extract(self, out: Path) -> tuple[int, str]:
        done = subprocess.run(self.command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        return done.returncode, done.stderr.strip()

    def until(self, out: Path, shards: int, then: Callable[[subprocess.Popen[str]], None]) -> tuple[int, str]:
        """Start an extraction, do something once there are `shards` shards; return its exit code and output."""
        child = subprocess.Popen(self.command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while finished(out) < shards and child.poll() is None:
            time.sleep(0.002)
        then(child)
        said = child.communicate()[1]
        return child.returncode, said.strip()

    def result(self, fault: str, out: Path, code: int, said: str, name: str) -> dict[str, Any]:
        """The result of a fault, after running the same command again."""
        kept, partial = finished(out), [p.name for p in out.parent.rglob("*.partial")]
        again, after = self.extract(out)
        found = {
            "fault": fault,
            "exit_code": code,
            "said": said.replace(str(self.folder), "…"),
            "named": bool(re.search(name, said + after)),
            "shards_kept": kept,
            "partial_files": partial,
            "again_exit_code": again,
            "again_said": after.replace(str(self.folder), "…"),
            "same_bytes": out.exists() and out.read_bytes() == self.whole,
        }
        print(found, file=sys.stderr)
        out.unlink(missing_ok=True)
        return found

    def full_disk(self, fault: str, size: str) -> dict[str, Any]:
        out = self.disk / "f.h5"
        self.remount(f"size={size}")
        code, said = self.extract(out)
        self.remount("size=200m")
        return self.result(fault, out, code, said, r"f\.h5.*(No space left)")

    def read_only(self, fault: str) -> dict[str, Any]:
        out = self.disk / "f.h5"
        self.remount("ro")
        code, said = self.extract(out)
        self.remount("rw")
        return self.result(fault, out, code, said, r"f\.h5.*Read-only file system")

    def remount(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.disk)], check=True)

    def vanished(self, fault: str) -> dict[str, Any]:
        out, last = self.folder / "f.h5", sorted(self.images.rglob("*.jpg"))[-1]
        target = last.readlink()
        code, said = self.until(out, 1, lambda child: last.unlink())
        last.symlink_to(target)
        return self.result(fault, out, code, said, f"{last.name}: cannot be read")

    def damaged(self, fault: str, damage: Callable[[bytes], bytes]) -> dict[str, Any]:
        out = self.folder / "f.h5"
        code, said = self.until(out, 2, lambda child: child.send_signal(signal.SIGKILL))
        shard = sorted(shards_of(out).glob("rows-*"))[0]
        shard.write_bytes(damage(shard.read_bytes()))
        return self.result(fault, out, code, said, f"{shard.name}: .*; its rows are computed again")


def flip(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 16
    return bytes(changed)


def shards_of(out: Path) -> Path:
    return out.with_name(out.name + ".shards")


def finished(out: Path) -> int:
    return len(list(shards_of(out).glob("rows-*.safetensors")))


if __name__ == "__main__":
    main()
