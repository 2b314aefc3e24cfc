"""The simulation of the statistics, in short; `benchmarks/statistics_check.py` does it at length."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import binom

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_verdicts_are_rarely_false_and_intervals_cover(tmp_path: Path) -> None:
    """With 40 repeats a scenario is told from 5 % and 95 % only roughly; together the scenarios are many."""
    command = [sys.executable, str(ROOT / "benchmarks" / "statistics_check.py"), "--repeats", "40", "--cases", "60"]
    child = subprocess.run(
        [*command, "--seed", "3", "--out", str(tmp_path / "check.json")], capture_output=True, text=True, cwd=ROOT
    )
    assert child.returncode == 0, child.stderr
    found = json.loads((tmp_path / "check.json").read_text())
    assert found["summary"]["verdicts_of_the_wrong_sign"] == 0
    assert found["summary"]["verdicts_at_odds_with_their_interval_or_p"] == 0
    assert found["summary"]["significant_verdicts"] > 5
    for part in ("one_split", "draws", "seeds"):
        lines = [line for line in found[part] if "false_verdicts" in line]
        trials = [line.get("repeats", found["repeats"]) for line in lines]
        false = sum(round(line["false_verdicts"] * n) for line, n in zip(lines, trials, strict=True))
        assert false <= binom.ppf(0.9999, sum(trials), 0.05), part
    for what in ("mean class accuracy", "accuracy", "difference, one split"):
        lines = [line for part in ("rows", "one_split") for line in found[part] if line["what"] == what]
        assert sum(line["coverage"] for line in lines) / len(lines) > 0.935, what


def test_the_documents_say_what_the_simulation_found() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "statistics-check.json").read_text())
    summary = found["summary"]
    text = " ".join((ROOT / "docs" / "protocols.md").read_text(encoding="utf-8").split())
    said = text.partition("## Checked by simulation")[2].partition(" ## ")[0]
    assert f"each of {found['repeats']:,} repeats" in said
    assert f"at most {100 * summary['most_false_verdicts']:.1f} %" in said
    assert ("none of them more than three standard errors above 5 %" in said) == (summary["scenarios_above_it"] == 0)
    assert f"{100 * summary['least_coverage_from_10_images_a_class']:.1f} to " in said
    assert f"In {summary['verdicts']:,} random comparisons" in said
    wrong = summary["verdicts_of_the_wrong_sign"] + summary["verdicts_at_odds_with_their_interval_or_p"]
    assert ("the verdict named the model that the estimate favours every time" in said) == (wrong == 0)
    for classes in {line["classes"] for part in ("rows", "one_split", "draws", "seeds") for line in found[part]}:
        assert classes in said
