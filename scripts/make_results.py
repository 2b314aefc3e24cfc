"""Write the tables of docs/results.md from benchmarks/results/study.json.

python scripts/make_results.py
python scripts/make_results.py --check
python scripts/make_results.py --study OUT --command COMMAND

The last takes over the report of a study first, on the machine that ran it: its results, the command, and the figures,
which go to docs/images.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from provenance import provenance  # noqa: E402

from l2a_transfer.evaluation.verdict import p_text, with_interval  # noqa: E402
from l2a_transfer.wording import with_minus  # noqa: E402

PAGE, RESULT = ROOT / "docs" / "results.md", ROOT / "benchmarks" / "results" / "study.json"
BLOCK = re.compile(r"(<!-- (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
FIGURES = ("forest-H1-vgg", "forest-H2", "low-shot-caltech101-low-shot", "low-shot-stanford40-low-shot")
TARGETS = ("caltech101", "stanford40", "svhn1083", "digits", "fashion-mnist", "caltech-mini", "cifar100", "cifar10")
VERDICTS = ("hypothesis", "in words", "verdict")
COMPARISONS = ("comparison", "features", "over", "difference, points [95 %]", "p", "interval over runs", "verdict")
ONE_TARGET = ("comparison", "target", "training / test images", "difference, points [95 %, adjusted]", "p, adjusted")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--study", type=Path)
    parser.add_argument("--command")
    given = parser.parse_args()
    if given.study is not None:
        take_over(given.study / "report", given.command)
    results = json.loads(RESULT.read_text(encoding="utf-8"))["results"]
    tables = {"verdicts": verdicts, "comparisons": comparisons, "targets": targets, "accuracies": accuracies}
    text = PAGE.read_text(encoding="utf-8")
    new = BLOCK.sub(lambda found: found[1] + tables[found[2]](results) + found[4], text)
    if not given.check:
        PAGE.write_text(new, encoding="utf-8")
    elif new != text:
        sys.exit("docs/results.md is not what the study's results say; run: python scripts/make_results.py")


def take_over(report: Path, command: str) -> None:
    results = json.loads((report / "results.json").read_text(encoding="utf-8"))
    commits = [program.rpartition("commit ")[2] for program in results["programs"]]
    about = provenance(command) | {"commit": " ".join(commits)}
    document = {"schema": "l2a-benchmark/1", "what": "results of the study", **about, "results": results}
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for name in FIGURES:
        shutil.copy(report / f"{name}.svg", ROOT / "docs" / "images" / f"study-{name}.svg")


def verdicts(results: Any) -> str:
    return table(VERDICTS, 3, [[own["name"], own["says"], said(own)] for own in results["hypotheses"]])


def comparisons(results: Any) -> str:
    """Those that have a verdict."""
    rows = []
    for own in complete(results):
        for summary in own["summaries"]:
            estimate, runs = summary["estimate"], summary["over_runs"]
            verdict = said(own) if summary is own["summaries"][0] else "–"
            rows.append(
                [
                    own["name"],
                    features(own),
                    f"{summary['name']} ({len(summary['targets'])})",
                    interval(estimate),
                    p_text(estimate["p_adjusted"]).removeprefix("= "),
                    interval(runs).partition(" ")[2],
                    verdict,
                ]
            )
    return table(COMPARISONS, 3, rows)


def targets(results: Any) -> str:
    rows = []
    for own in complete(results):
        if own["features"] == "matched":
            continue
        for target in own["targets"]:
            estimate, draws = target["estimate"], f", {target['draws']} draws" if target["draws"] > 1 else ""
            rows.append(
                [
                    own["name"],
                    target["target"],
                    f"{target['n_train']:,} / {target['n_test']:,}{draws}",
                    interval(estimate),
                    p_text(estimate["p_adjusted"]).removeprefix("= "),
                ]
            )
    return table(ONE_TARGET, 2, rows)


def accuracies(results: Any) -> str:
    """Mean class accuracy of each network's features as they are, with all training images."""
    found: dict[str, dict[str, str]] = {}
    for row in results["rows"]:
        if row["shots"] is None and row["components"] is None and not row["missing"] and row["mean"] is not None:
            sd = f" ± {100 * row['sd']:.1f}" if row["sd"] is not None else ""
            found.setdefault(row["model"], {})[row["target"]] = f"{100 * row['mean']:.1f}{sd}"
    rows = [[f"`{model}`", *(own.get(target, "–") for target in TARGETS)] for model, own in found.items()]
    return table(("network", *TARGETS), 1, rows)


def complete(results: Any) -> list[Any]:
    return [own for own in results["comparisons"] if not own["missing"]]


def features(comparison: Any) -> str:
    return f"PCA to {comparison['width']}" if comparison["features"] == "matched" else "as they are"


def said(own: Any) -> str:
    return str(own["verdict"]) + (f" ({own['note']})" if own["note"] else "")


def interval(estimate: Any) -> str:
    """For example `+0.6 [−0.1, +1.3]`."""
    low, high = estimate["ci95_adjusted"]
    return with_minus(with_interval(estimate["difference"], (low, high), apart=low > 0 or high < 0))


def table(head: tuple[str, ...], left: int, rows: list[list[str]]) -> str:
    """The first `left` columns are words; the others are numbers."""
    lines = [list(head), ["---"] * left + ["---:"] * (len(head) - left), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
