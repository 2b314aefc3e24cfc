"""Does Ray with two actors, with an actor killed, or with a node killed, give the same bytes as the local engine?

Each extraction is a separate process; actors are killed with `kill -9`, a node with `ray.cluster_utils`.

    python benchmarks/ray_kill.py --data-dir data --out benchmarks/results/ray-kill.json
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import click
from kill import digests
from provenance import provenance
from ray.cluster_utils import Cluster

WHAT = ("two actors", "actors killed", "node killed")


@click.command()
@click.option("--data", default="cifar10", show_default=True)
@click.option("--split", default="test", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the data set.")
@click.option("--model", default="untrained:vgg-att2-concat-pc@0.0625", show_default=True)
@click.option("--only", type=click.Choice(WHAT), multiple=True, default=WHAT, show_default=True)
@click.option("--append/--no-append", default=False, help="Add to the runs in --out, where it is there.")
@click.option("--kills", type=click.IntRange(min=1), default=3, show_default=True, help="Actors killed in one run.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(
    data: str, split: str, data_dir: Path, model: str, only: tuple[str, ...], append: bool, kills: int, out: Path
) -> None:
    rng = random.Random(0)
    extract = [sys.executable, "-m", "l2a_transfer", "-q", "extract", "--model", model, "--data", data]
    extract += ["--split", split, "--data-dir", str(data_dir), "--attention", "--device", "cpu", "--threads", "1"]
    about = provenance(shlex.join(["python", "benchmarks/ray_kill.py", *sys.argv[1:]]))
    runs: list[dict[str, Any]] = json.loads(out.read_text())["runs"] if append and out.exists() else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run([*extract, "--out", str(folder / "local.h5")], lambda child: None)
        expected = digests(folder / "local.h5")

        def compare(what: str, more: list[str], disturb: Callable[[subprocess.Popen[bytes], Path], Any]) -> None:
            path = folder / f"{what.replace(' ', '-')}.h5"
            command = [*extract, "--out", str(path), "--engine", "ray", *more]
            seconds, events = run(command, lambda child: disturb(child, shards_of(path)))
            same = digests(path)
            equal = {key: same[key] == expected[key] for key in expected}
            runs.append({"what": what, "seconds": seconds, "events": events, "equal": equal, **about})
            print(what, seconds, events, equal, file=sys.stderr)

        def kill_actors(child: subprocess.Popen[bytes], shards: Path) -> list[dict[str, Any]]:
            events = []
            for number in range(kills):
                wait_for(child, shards, 1 + number)
                time.sleep(rng.uniform(0, 0.5))
                victims = actors()
                if victims and child.poll() is None:
                    pid = rng.choice(victims)
                    os.kill(pid, signal.SIGKILL)
                    events.append({"killed_actor": pid, "finished_shards": finished(shards)})
            return events

        if "two actors" in only:
            compare("two actors", ["--actors", "2"], lambda child, shards: None)
        if "actors killed" in only:
            compare("actors killed", ["--actors", "2"], kill_actors)
        if "node killed" in only:
            with_a_cluster(compare)
    document = {
        "schema": "l2a-benchmark/1",
        "what": "the Ray engine, disturbed or not, against the local engine: are the data sets equal byte for byte?",
        "ray": version("ray"),
        "model": model,
        "data": f"{data}, split {split}",
        "threads": 1,
        "runs": runs,
        "all_equal": all(all(run["equal"].values()) for run in runs),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out, "all equal:", document["all_equal"])


def with_a_cluster(compare: Callable[..., None]) -> None:
    """A head without CPUs and two nodes with one each; the first node is killed once two shards are finished."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()

        def kill_node(child: subprocess.Popen[bytes], shards: Path) -> list[dict[str, Any]]:
            wait_for(child, shards, 2)
            there = finished(shards)
            cluster.remove_node(nodes[0], allow_graceful=False)
            return [{"killed_node": 1, "finished_shards": there}]

        compare("node killed", ["--actors", "2", "--ray-address", cluster.address], kill_node)
    finally:
        cluster.shutdown()


def run(command: list[str], disturb: Callable[[subprocess.Popen[bytes]], Any]) -> tuple[float, Any]:
    """Seconds of a command that succeeds while being disturbed, and the result of `disturb`."""
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    events = disturb(child)
    if child.wait():
        raise SystemExit(f"{shlex.join(command)} ended with {child.returncode}")
    return round(time.perf_counter() - began, 2), events


def shards_of(path: Path) -> Path:
    return path.with_name(path.name + ".shards")


def finished(shards: Path) -> int:
    return len(list(shards.glob("rows-*.safetensors")))


def wait_for(child: subprocess.Popen[bytes], shards: Path, count: int) -> None:
    """Wait until this many shards are finished, or the child has ended."""
    while finished(shards) < count and child.poll() is None:
        time.sleep(0.01)


def actors() -> list[int]:
    """Process ids of the running actors on this machine."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes().startswith(b"ray::Extractor"):
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended meanwhile
    return found


if __name__ == "__main__":
    main()
