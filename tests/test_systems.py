"""Where it runs: worker processes however Python starts them, and a plain word on systems that it is not made for."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import save_picture
from tests.shard_files import parquet, png, tar

ROOT = Path(__file__).parents[1]
METHODS = ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)]
"""Python's start methods; forkserver is Linux's default from 3.14 on."""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program as a user has it: a file that worker processes import again."""
    return tmp_path / "program.py"


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(program), *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


EVERYTHING = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
import numpy as np
from torch.utils.data import DataLoader
from l2a_transfer.cli.main import main
from l2a_transfer.data.loader import pixel_batches
from l2a_transfer.data.readers import open_source
from l2a_transfer.features.store.views import open_features
from l2a_transfer.preprocess import Preprocess

def total(file, rows):
    return float(file.features[rows].sum())

def command(*arguments):
    try:
        main(["-q", *map(str, arguments)])
    except SystemExit as end:
        assert not end.code, (arguments, end.code)

def everything(root):
    for workers in (0, 2):
        command("extract", "--model", "pixels", "--data", f"imagefolder:{root / 'in'}", "--out", root / f"{workers}.h5",
                "--batch-size", "2", "--workers", workers, "--on-error", "skip")
    assert (root / "0.h5").read_bytes() == (root / "2.h5").read_bytes()
    for data in (f"wds:{root / 'tars'}", f"parquet:{root / 'tables'}"):
        source = open_source(data)
        rows = [range(0, 2), range(2, len(source))]
        found = [batch.images_u8 for batch in pixel_batches(source, Preprocess(size=8), rows, workers=2)]
        assert np.concatenate(found)[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    file = open_features(root / "2.h5")
    loader = DataLoader(file, batch_size=2, num_workers=2)
    assert np.array_equal(np.concatenate([x.numpy() for x, _ in loader]), file.features[:])
    with ProcessPoolExecutor(2) as pool:
        parts = list(pool.map(total, [file] * 2, [slice(0, 2), slice(2, None)]))
    assert parts == [total(file, slice(0, 2)), total(file, slice(2, None))]
    for name, options in {"memory": ["--workers", "0"], "stream": ["--workers", "2"]}.items():
        command("train", "--model", "vgg", "--width", "0.0625", "--data", f"imagefolder:{root / 'whole'}",
                "--holdout", "2", "--epochs", "1", "--batch-size", "2", "--precision", "fp32", "--pixels", name,
                *options, "--out", root / name)
    metrics = [(root / name / "metrics.jsonl").read_text().partition("images_per")[0] for name in ("memory", "stream")]
    assert metrics[0] == metrics[1]

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    multiprocessing.set_forkserver_preload(["l2a_transfer.data.loader", "l2a_transfer.features.store.views", "torch"])
    everything(Path(sys.argv[2]))
    print("all the same")
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_workers_change_nothing_however_they_are_started(method: str, tmp_path: Path, program: Path) -> None:
    for label in ("ant", "bee"):
        for k in range(4):
            for folder in ("in", "whole"):
                save_picture(tmp_path / folder / label / f"{k}.jpg", seed=10 * len(label) + k)
    (tmp_path / "in" / "bee" / "1.jpg").write_text("no picture")
    tar(tmp_path / "tars" / "a.tar", {f"{k}.png": png(k) for k in range(4)})
    parquet(tmp_path / "tables" / "a.parquet", [png(k) for k in range(4)], [0, 1, 0, 1])
    program.write_text(EVERYTHING)
    done = run(program, method, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all the same\n")


WORKING = """
import multiprocessing, sys, time
from pathlib import Path
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.extraction.extract import extract
from tests.conftest import memory_source

class Slow(PixelsBackend):
    def features(self, images_u8):
        print(*(process.pid for process in multiprocessing.active_children()), flush=True)
        time.sleep(60)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    extract(memory_source(4000), Slow(), Path(sys.argv[2]), workers=2, progress=False)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
@pytest.mark.parametrize("method", METHODS)
def test_a_kill_takes_the_workers_along_however_they_were_started(method: str, tmp_path: Path, program: Path) -> None:
    program.write_text(WORKING)
    child = subprocess.Popen(
        [sys.executable, str(program), method, str(tmp_path / "f.h5")],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    with child:
        assert child.stdout is not None
        workers = [Path(f"/proc/{pid}") for pid in child.stdout.readline().split()]
        assert len(workers) == 2
        assert all(worker.exists() for worker in workers)
        time.sleep(1)  # until the pipe to the parent is full
        child.kill()
    for _ in range(200):
        if not any(worker.exists() for worker in workers):
            return
        time.sleep(0.1)
    raise AssertionError("the workers are still there")


UNGUARDED = """
import multiprocessing, sys
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.extraction.extract import extract
from tests.conftest import memory_source

multiprocessing.set_start_method(sys.argv[1], force=True)
workers = int(sys.argv[3])
print(extract(memory_source(), PixelsBackend(), sys.argv[2], batch_size=4, workers=workers, progress=False).rows)
"""


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_script_without_a_guard_is_told_of_it(method: str, tmp_path: Path, program: Path) -> None:
    program.write_text(UNGUARDED)
    done = run(program, method, tmp_path / "f.h5", "2")
    assert done.returncode == 1
    said = done.stderr.partition("l2a_transfer.errors.BackendError: ")[2]
    assert said == (
        f"{program}: decoding processes started by {method} import this script and would run it again; put the "
        'code of the script below `if __name__ == "__main__":`, or decode in this process with `workers=0`\n'
    )
    assert done.stderr.count("Traceback") == 1
    assert run(program, method, tmp_path / "f.h5", "0").stdout == "40\n"


@pytest.mark.slow
def test_workers_that_end_while_they_import_the_script_are_told_of(tmp_path: Path, program: Path) -> None:
    program.write_text(f"# of __main__, but without a guard{UNGUARDED}")
    done = run(program, "forkserver", tmp_path / "f.h5", "2")
    assert done.returncode == 1
    said = (
        "a decoding process ended; with the start method forkserver, it imports the main program again; put the code "
        "of the script"
    )
    assert f"l2a_transfer.errors.BackendError: {said} below `if __name__" in done.stderr


WITHOUT_POSIX = "import sys; sys.modules['fcntl'] = None; "
SAID = "l2a-transfer runs on POSIX systems such as Linux and macOS"


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["extract", "--help"]])
def test_the_command_says_at_once_that_it_needs_posix(arguments: list[str]) -> None:
    code = f"{WITHOUT_POSIX} from l2a_transfer.cli.main import main; main({arguments!r}, prog_name='l2a-transfer')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {SAID}")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_extraction_from_python_says_that_it_needs_posix(tmp_path: Path) -> None:
    code = f"""{WITHOUT_POSIX}
import l2a_transfer
source = l2a_transfer.open_source("digits", limit=2)
try:
    l2a_transfer.extract(source, l2a_transfer.open_backend("pixels"), sys.argv[1], progress=False)
except l2a_transfer.errors.L2AError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "f.h5")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.stdout.startswith(SAID), done.stderr
    assert not list(tmp_path.iterdir())
