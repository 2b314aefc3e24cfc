"""SIGTERM ends a command as Ctrl-C does: in one line, with what was done kept; only the exit code is another."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from l2a_transfer.cli.failures import Terminated, terminable, terminate
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import save_weights
from tests.conftest import TINY, l2a, save_picture

SAID = "Interrupted before it finished; run it again."
SLOW = """
    import sys, time
    from pathlib import Path

    import l2a_transfer.cli.main as main

    def work(*arguments):
        Path(sys.argv[1]).touch()
        time.sleep(60)

    main.VERBS = {"inspect": "inspect"}
    import l2a_transfer.cli.inspect as verb

    verb.command.callback = work
    main.main(["inspect", "features.h5"], prog_name="l2a-transfer")
"""


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        os.sched_yield()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_in_one_line(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SLOW).replace("*arguments", "**_"), str(tmp_path / "began")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path / "began", process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", f"{SAID}\n")


DATA = ("--data", "imagefolder:{pictures}", "--model", "{weights}")
VERBS = {
    "explain": ("explain.compute.map_batch", (*DATA, "--side", "16")),
    "explain --store": ("explain.compute.map_batch", (*DATA, "--side", "16", "--store", "{out}/maps.h5")),
    "explain --group": (
        "explain.grouping.group_maps_beside",
        (*DATA, "--side", "16", "--group", "--method", "attention"),
    ),
    "localize": ("localization.lines.maps_of", (*DATA, "--side", "16", "--masks", "csv:{boxes}")),
    "localize --write-masks": (
        "localization.mask_files.mask_png",
        (*DATA, "--side", "16", "--masks", "csv:{boxes}", "--write-masks", "{out}/masks"),
    ),
    "sanity": ("report.sanity.written", (*DATA, "--side", "16", "--seeds", "1", "--method", "evidence")),
    "faithfulness": ("report.faithfulness.figure", (*DATA, "--steps", "1", "--orders", "1", "--resamples", "1000")),
    "robustness": ("report.robustness.figure", (*DATA, "--epsilon", "1", "--attack", "fgsm")),
}
"""Verb → in what it is interrupted, and its arguments."""


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_is_terminated_leaves_nothing(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, arguments = VERBS[verb]
    for k in range(4):
        save_picture(tmp_path / "pictures" / "ab"[k % 2] / f"{k}.jpg", k)
    (tmp_path / "boxes.csv").write_text("".join(f"{'ab'[k % 2]}/{k}.jpg,1,1,9,9\n" for k in range(4)))
    network, card = load_model(TINY)
    save_weights(
        network, dataclasses.replace(card, classes=tuple("abcdefghij"), name="net"), tmp_path / "w.safetensors"
    )
    out = tmp_path / "out"
    out.mkdir()
    given = {"pictures": tmp_path / "pictures", "boxes": tmp_path / "boxes.csv", "out": out}
    given["weights"] = tmp_path / "w.safetensors"
    began = list[int]()

    def terminated(*_: Any, **__: Any) -> None:
        began.append(1)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(f"l2a_transfer.{where}", terminated)
    run = [verb.split()[0], *(argument.format(**given) for argument in arguments), "--out", out / "report"]
    result = l2a("-q", *run)
    assert (result.exit_code, result.stdout, result.stderr) == (143, "", f"{SAID}\n")
    assert began
    assert not any(out.iterdir())


@pytest.mark.slow
def test_an_extraction_that_is_terminated_says_what_is_kept(tmp_path: Path) -> None:
    program = """
        import sys, time
        from pathlib import Path

        from l2a_transfer.features.extraction import extract
        from l2a_transfer.cli.main import main

        def compute(*_, **__):
            Path(sys.argv[1]).touch()
            time.sleep(60)
            yield

        extract.compute_shards = compute
        main(["-q", "extract", "--model", "pixels", "--data", "digits", "--out", sys.argv[2]], prog_name="l2a-transfer")
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "began"), str(tmp_path / "f.h5")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path / "began", process)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.startswith("Interrupted: no rows of ")
    assert err.count("\n") == 1
    assert not (tmp_path / "f.h5").exists()


def test_the_second_signal_and_forked_workers_end_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminable():
        assert signal.getsignal(signal.SIGTERM) is terminate
        worker = multiprocessing.get_context("fork").Process(target=signal.pause)
        worker.start()
        worker.terminate()
        worker.join(60)
        assert worker.exitcode == -signal.SIGTERM
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_a_handler_that_is_there_stays(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with terminable():
            assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_nothing_is_set_in_a_thread_or_a_group_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def look() -> None:
        with terminable():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    monkeypatch.setenv("WORLD_SIZE", "2")
    look()
    assert terminate not in found
    assert len(found) == 2


def test_ctrl_c_while_the_program_is_loaded_ends_in_one_line() -> None:
    program = """
        import sys

        class Interrupting:
            def find_spec(self, name, path=None, target=None):
                if name == "l2a_transfer.cli.main":
                    raise KeyboardInterrupt

        sys.meta_path.insert(0, Interrupting())
        from l2a_transfer.__main__ import run

        run()
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", f"{SAID}\n")
