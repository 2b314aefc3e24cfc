"""What is printed fits the terminal, no name is broken without need, and a pipe gets one line per row."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len

from l2a_transfer.cli.tables import pair_lines, table_lines, verdict_lines
from l2a_transfer.models.weights import pretrained_names
from tests.conftest import l2a
from tests.feature_files import feature_set, labels_of, save

HEADINGS = ["name", "images", "title"]
NUMBERS = [False, True, False]
ROWS = [["digits", "1,797", "handwritten digits of scikit-learn"], ["cifar10", "60,000", "small photographs"]]


def in_terminal(columns: int, *arguments: str | Path) -> str:
    """What `l2a-transfer ARGUMENTS` shows in a terminal of that many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-m", "l2a_transfer", *map(str, arguments)]
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env={**environment, "TERM": "xterm-256color", "FORCE_COLOR": "1"},
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # Linux answers so when the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode().replace("\r\n", "\n")


def test_a_row_is_one_line_without_a_width() -> None:
    assert table_lines(HEADINGS, ROWS, numbers=NUMBERS) == [
        "name     images  title",
        "digits    1,797  handwritten digits of scikit-learn",
        "cifar10  60,000  small photographs",
    ]


def test_the_widest_column_is_wrapped_between_words() -> None:
    assert table_lines(HEADINGS, ROWS, numbers=NUMBERS, width=36) == [
        "name     images  title",
        "digits    1,797  handwritten digits",
        "                 of scikit-learn",
        "cifar10  60,000  small photographs",
    ]


def test_rows_become_lists_where_a_word_does_not_fit() -> None:
    assert table_lines(HEADINGS, ROWS, numbers=NUMBERS, width=28) == [
        "digits",
        "  images",
        "    1,797",
        "  title",
        "    handwritten digits of",
        "    scikit-learn",
        "cifar10",
        "  images",
        "    60,000",
        "  title",
        "    small photographs",
    ]


@pytest.mark.parametrize("width", [None, *range(8, 80)])
def test_no_width_is_exceeded_and_no_letter_is_lost(width: int | None) -> None:
    rows = [["猫の写真 [bold]:smile:", "1,234", "a\x1b[2J\nb \x9bc"], ["", "", ""], ["x" * 50, "-1", "y " * 40]]
    for lines in (
        table_lines(HEADINGS, rows, numbers=NUMBERS, width=width),
        pair_lines([(row[0], row[2]) for row in rows], width=width),
    ):
        assert width is None or max(map(cell_len, lines)) <= width
        text = "".join(lines).replace(" ", "")
        for word in ("猫の写真", "[bold]:smile:", "a\\x1b[2J\\nb", "\\x9bc", "x" * 50):
            # Between two columns, the rest of a cell may stand on the next line.
            assert word in text or all(letter in text for letter in word)
        assert text.count("y") >= 40
        assert not any(ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0 for letter in text)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_models_and_data_sets_in_a_terminal(columns: int) -> None:
    shown = in_terminal(columns, "models")
    assert "\x1b" not in shown
    words = shown.split()
    assert all(name in words for name in pretrained_names())
    tables = [line for line in shown.splitlines() if not line.startswith(("Architectures", "Pretrained"))]
    assert max(map(cell_len, tables)) <= columns
    assert max(map(cell_len, in_terminal(columns, "datasets").splitlines()[:-1])) <= columns


def test_lists_of_models_and_data_sets_in_a_pipe() -> None:
    lines = l2a("models").stdout.splitlines()
    for name in pretrained_names():
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert line.endswith("seed)")
    (line,) = [line for line in l2a("datasets").stdout.splitlines() if line.startswith("digits ")]
    assert line.split()[1:3] == ["1,797", "10"]


@pytest.mark.parametrize("columns", [40, *(pytest.param(n, marks=pytest.mark.slow) for n in (80, 400))])
def test_an_evaluation_in_a_terminal_and_in_a_pipe(columns: int, tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", feature_set(labels_of(2, 12)))
    arguments = ["svm-eval", path, "--c-grid", "0.01", "--overwrite", "--out", tmp_path / "r"]
    lines = in_terminal(columns, *arguments).splitlines()
    table = lines[: lines.index("")]
    assert max(map(cell_len, table)) <= columns
    assert not [line for line in table if "|" in line]
    piped = l2a(*arguments).stdout.splitlines()
    assert all(line.startswith("| ") for line in piped[:3])
    cells = [cell.strip(" `") for cell in piped[2].split("|")[1:-1]]
    headings = [heading.strip() for heading in piped[0].split("|")[1:-1]]
    shown = " ".join(" ".join(table).split())
    said = " ".join(lines[len(table) : len(table) + 8])
    left_out = [name for name in headings if name in said.partition("Also in the report: ")[2].partition(".")[0]]
    assert ("mean class accuracy, % [95 %]" in left_out, "model" in left_out) == (False, False)
    assert bool(left_out) == (columns < 400)
    for heading, cell in zip(headings, cells, strict=True):
        assert heading in left_out or all(word in shown for word in cell.split()), heading


def test_inspect_in_a_terminal_keeps_the_digest_whole(tmp_path: Path) -> None:
    path = save(tmp_path / "f.h5", feature_set(labels_of(2, 12)))
    piped = dict(line.split(maxsplit=1) for line in l2a("inspect", path).stdout.splitlines())
    lines = in_terminal(60, "inspect", path).splitlines()
    assert max(map(cell_len, lines)) <= 60
    first = next(k for k, line in enumerate(lines) if line.startswith("sha256 "))
    assert lines[first].split()[1] + lines[first + 1].strip() == piped["sha256"]


def test_the_last_verdict_says_how_many_more_there_are_and_where() -> None:
    assert verdict_lines(["a", "b"], total=2, out=Path("r")) == ["- a", "- b"]
    assert verdict_lines(["a"], total=2, out=Path("r")) == ["- a", "- 1 more comparison is in r/report.html"]
    assert verdict_lines([], total=3, out=Path("r")) == ["- 3 more comparisons are in r/report.html"]
