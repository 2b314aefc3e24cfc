"""Is an extraction that is killed at random moments, some during the merge, and resumed, byte-identical?

A child process extracts 10,000 images; `kill -9` hits it at a random moment; after the same command with --resume,
every dataset must be byte-identical to that of an undisturbed extraction. The children are forked from this process,
which has imported everything but computed nothing, because a short process spends most of its time starting, when
nothing can be lost yet.

    python benchmarks/kill.py --data-dir data --out benchmarks/results/kill.json
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import h5py
from provenance import provenance

from l2a_transfer.cli.main import main as l2a_transfer_main

PRELOADED = (
    "torch.utils.data",
    "l2a_transfer.data.readers",
    "l2a_transfer.features.extraction.extract",
    "l2a_transfer.models.registry",
    "l2a_transfer.models.weights",
)
"""Modules that a child would import; they are loaded before the fork."""
DATA_SETS = ("features", "labels", "ids", "split")


@click.command()
@click.option("--data", default="cifar10", show_default=True)
@click.option("--split", default="test", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the data set.")
@click.option("--model", default="pixels", show_default=True)
@click.option("--attention/--no-attention", default=False, help="With attention maps.")
@click.option("--kills", type=click.IntRange(min=0), default=20, show_default=True, help="At any moment.")
@click.option("--merge-kills", type=click.IntRange(min=0), default=5, show_default=True, help="During the merge.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the moments.")
@click.option("--append/--no-append", default=False, help="Add to the kills in --out, where it is there.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(
    data: str,
    split: str,
    data_dir: Path,
    model: str,
    attention: bool,
    kills: int,
    merge_kills: int,
    seed: int,
    append: bool,
    out: Path,
) -> None:
    for module in PRELOADED:
        import_module(module)
    earlier = json.loads(out.read_text()) if append and out.exists() else {"runs": [], "kills": []}
    rows: list[dict[str, Any]] = earlier["kills"]
    before = len(rows)
    rng = random.Random(f"{seed} {before}")
    extract = ["-q", "extract", "--model", model, "--data", data]
    extract += ["--split", split, "--data-dir", str(data_dir), "--device", "cpu", "--resume"]
    extract += ["--attention", "--out"] if attention else ["--out"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = folder / "whole.h5"
        undisturbed = watch([*extract, str(whole)], whole)
        expected = digests(whole)
        with h5py.File(whole) as file:
            n = len(file["ids"])
        while len(rows) < before + kills + merge_kills:
            path = folder / f"{len(rows)}.h5"
            merging = len(rows) >= before + kills
            span = undisturbed["merge_s"] if merging else undisturbed["extraction_s"]
            found = interrupt([*extract, str(path)], path, rng.uniform(0, span), merging=merging)
            if found is None:
                continue  # it had finished before the moment came; another moment is drawn
            began = time.perf_counter()
            assert Child([*extract, str(path)]).wait() == 0
            same = digests(path)
            rows.append(
                {
                    **found,
                    "resume_s": round(time.perf_counter() - began, 3),
                    "equal": {key: same[key] == expected[key] for key in expected},
                    "left_behind": sorted(p.name for p in folder.glob(f"{path.name}.*")),
                }
            )
            print(len(rows), rows[-1]["phase"], rows[-1]["killed_after_s"], rows[-1]["equal"], file=sys.stderr)
            path.unlink()
    run = {**provenance(shlex.join(["python", "benchmarks/kill.py", *sys.argv[1:]])), "undisturbed": undisturbed}
    document = {
        "schema": "l2a-benchmark/1",
        "what": "extraction killed at random moments and resumed; are the data sets those of the undisturbed one?",
        "runs": [*earlier["runs"], {**run, "kills": [before, len(rows)]}],
        "model": model,
        "data": f"{data}, split {split}",
        "n": n,
        "kills": rows,
        "kills_total": len(rows),
        "kills_in_merge": sum(row["phase"] == "merge" for row in rows),
        "all_equal": all(all(row["equal"].values()) for row in rows),
        "nothing_left_behind": not any(row["left_behind"] for row in rows),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out, len(rows), "kills, all equal:", document["all_equal"])


class Child:
    """`l2a-transfer ARGUMENTS` in a forked process."""

    def __init__(self, arguments: list[str]) -> None:
        self.pid = os.fork()
        self.code: int | None = None
        if self.pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            try:
                l2a_transfer_main(arguments)
            except SystemExit as end:
                os._exit(int(end.code or 0))
            finally:
                os._exit(70)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.code if self.code is not None else self._reaped(os.WNOHANG)

    def wait(self) -> int:
        code = self.poll()
        return self._reaped(0) if code is None else code  # type: ignore[return-value]

    def _reaped(self, options: int) -> int | None:
        pid, status = os.waitpid(self.pid, options)
        self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code


def watch(command: list[str], path: Path) -> dict[str, float]:
    """Times of an undisturbed process: until its first trace on disk, from there to the end, and of its merge."""
    began = time.perf_counter()
    child = Child(command)
    seen: dict[str, float] = {}
    traces = {"extraction": shards_of(path).exists, "merge": lambda: merging_of(path), "end": path.exists}
    while child.poll() is None:
        for name, trace in traces.items():
            if name not in seen and trace():
                seen[name] = time.perf_counter()
        time.sleep(0.0005)
    assert child.wait() == 0
    return {
        "start_s": round(seen["extraction"] - began, 3),
        "extraction_s": round(seen["end"] - seen["extraction"], 3),
        "merge_s": round(seen["end"] - seen["merge"], 4),
    }


def interrupt(command: list[str], path: Path, delay: float, *, merging: bool) -> dict[str, Any] | None:
    """Kill -9 after `delay` seconds from the start of the extraction or of its merge; None if it had already
    finished."""
    child = Child(command)
    shards = shards_of(path)
    while not (merging_of(path) if merging else shards.exists()) and child.poll() is None:
        time.sleep(0.0005)
    began = time.perf_counter()
    time.sleep(delay)
    os.kill(child.pid, signal.SIGKILL)
    killed_after = time.perf_counter() - began
    child.wait()
    partials = merging_of(path)
    phase = "merge" if partials else "shards"
    if path.exists() or (merging and phase != "merge"):
        shutil.rmtree(shards, ignore_errors=True)
        for trace in (path, *partials):
            trace.unlink(missing_ok=True)
        return None
    return {
        "phase": phase,
        "killed_after_s": round(killed_after, 4),
        "finished_shards": len(list(shards.glob("rows-*.safetensors"))),
        "partial_files": len(list(shards.glob("*.partial"))) + len(partials),
    }


def shards_of(path: Path) -> Path:
    return path.with_name(path.name + ".shards")


def merging_of(path: Path) -> list[Path]:
    """The partial file of a merge, if one has started."""
    return list(path.parent.glob(f"{path.name}.*.partial"))


def digests(path: Path) -> dict[str, str]:
    """SHA-256 of each dataset's bytes, type and shape."""
    with h5py.File(path) as file:
        found = {name: file[name] for name in (*DATA_SETS, *(f"maps/{level}" for level in file.get("maps", ())))}
        return {
            f"/{name}": hashlib.sha256(f"{d.dtype} {d.shape} ".encode() + d[:].tobytes()).hexdigest()
            for name, d in found.items()
        }


if __name__ == "__main__":
    main()
