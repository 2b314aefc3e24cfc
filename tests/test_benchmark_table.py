"""The table of all that was measured: it is that of the result files, and none is left out."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def write_figures(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("write_figures")


def test_every_result_file_is_in_the_table(write_figures: Any) -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        assert text.count(f"(results/{path.name})") == 1, path.name
    assert write_figures.page() == text, "run: python scripts/write_figures.py"


def test_no_description_is_left_of_a_result_that_is_gone(write_figures: Any) -> None:
    assert write_figures.WHAT.keys() <= write_figures.FIGURES.keys()


def test_every_row_has_figures_device_commit_and_command(write_figures: Any) -> None:
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        cells = write_figures.row(path)
        assert len(cells) == len(write_figures.COLUMNS)
        assert all(cell.strip("`") for cell in cells), (path.name, cells)


@pytest.fixture
def results(tmp_path: Path, write_figures: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two results of which one has its headline."""
    monkeypatch.setattr(write_figures, "ROOT", tmp_path)
    monkeypatch.setattr(write_figures, "RESULTS", tmp_path)
    monkeypatch.setattr(write_figures, "PAGE", tmp_path / "README.md")
    figure = importlib.import_module("figures").Figure(lambda d: f"{d['speed']:.1f} | images/s", "3 runs")
    monkeypatch.setattr(write_figures, "FIGURES", {"a": figure})
    runs = [{"command": f"python a.py {k}", "commit": c * 40, "device": "x"} for k, c in enumerate("ab")]
    (tmp_path / "a.json").write_text(json.dumps({"what": "a's speed", "speed": 1.25, "runs": runs}))
    return tmp_path


def test_a_row(results: Path, write_figures: Any) -> None:
    assert write_figures.page().splitlines()[-1] == (
        r"| [a](results/a.json) | a's speed | 1.2 \| images/s | 3 runs | x | aaaaaaa, bbbbbbb | "
        "`python a.py 0` and 1 more |"
    )


def test_a_result_without_a_headline_is_refused_and_so_is_a_table_of_earlier_results(
    results: Path, write_figures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["write_figures.py"])
    write_figures.main()
    monkeypatch.setattr("sys.argv", ["write_figures.py", "--check"])
    write_figures.main()
    (results / "a.json").write_text((results / "a.json").read_text().replace("1.25", "2.25"))
    with pytest.raises(SystemExit, match=r"run: python scripts/write_figures\.py"):
        write_figures.main()
    (results / "b.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"b\.json: scripts/figures\.py has no entry for it; add its headline there"):
        write_figures.main()
    (results / "b.json").unlink()
    (results / "a.json").unlink()
    with pytest.raises(SystemExit, match="there is no result file for a"):
        write_figures.main()
