"""Duration of the quickstart from the shell, and the table that it prints, which is the first table of the README.

python benchmarks/quickstart.py --out benchmarks/results/quickstart.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from provenance import provenance


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True)
def main(out: Path, repeats: int) -> None:
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            run = Path(folder) / str(number)
            started = time.perf_counter()
            command = [sys.executable, "-m", "l2a_transfer", "-q", "quickstart", "--out", str(run)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(round(time.perf_counter() - started, 2))
        rows = json.loads((run / "results.json").read_text())["rows"]
    document = {
        "schema": "l2a-benchmark/1",
        "what": "l2a-transfer quickstart, process start to process end, seconds of each repeat",
        **provenance(f"python benchmarks/quickstart.py --out {out.as_posix()} --repeats {repeats}"),
        "seconds": seconds,
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out, seconds)


if __name__ == "__main__":
    main()
