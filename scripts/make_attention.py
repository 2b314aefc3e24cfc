"""Writes the table of docs/attention.md: every attention of the family, from its config, cards and results.

python scripts/make_attention.py
python scripts/make_attention.py --check
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from attention_family import FAMILY, Member  # noqa: E402

from l2a_transfer.export import not_exported  # noqa: E402
from l2a_transfer.models.selection import find_selection  # noqa: E402
from l2a_transfer.models.weights import read_card  # noqa: E402

PAGE = ROOT / "docs" / "attention.md"
RESULTS = ROOT / "benchmarks" / "results"
COST, TRANSFER = RESULTS / "attention-cost.json", RESULTS / "attention-transfer.json"
BLOCK = re.compile(r"(<!-- table -->\n)(.*?)(<!-- end -->)", re.DOTALL)
SETS = ("caltech101", "stanford40")
HEAD = (
    "attention",
    "weights a_i",
    "g acts",
    "sum to 1",
    "trained by",
    "ONNX",
    "step over uniform",
    "CIFAR-10, %",
    *SETS,
)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    new = BLOCK.sub(lambda found: found[1] + table() + found[3], text)
    if "--check" in sys.argv[1:]:
        if new != text:
            sys.exit(
                "docs/attention.md is not what configs, cards and results say; run: python scripts/make_attention.py"
            )
    else:
        PAGE.write_text(new, encoding="utf-8")


def table() -> str:
    cost, transfer = (json.loads(path.read_text()) if path.exists() else {"rows": []} for path in (COST, TRANSFER))
    steps = {row["attention"]: row["over_uniform"] for row in cost["rows"]}
    reached = {(row["attention"], row["data"]): row for row in transfer["rows"]}
    rows = [HEAD, ["---"] * 6 + ["---:"] * 4, *(cells(member, steps, reached) for member in FAMILY)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cells(member: Member, steps: dict[str, float], reached: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    config, path = member.config(), member.weights()
    metrics = read_card(path).metrics if path else {}
    draws = find_selection(config.selection).samplers
    sampler = member.recipe().sampler
    drawn = f"draws, `{sampler}`" if draws and sampler != "exact" else "expectation over draws" if draws else "draws"
    by = "gradient" if config.selection == "soft" else drawn
    return [
        f"`{member.name}`",
        member.formula,
        yes(config.builds_global_branch),
        yes(all(spec.kind != "gate" for spec in config.maps)),
        by,
        yes(not not_exported(config)),
        f"{steps[member.name]:.2f}" if member.name in steps else "–",
        f"{100 * metrics['test_accuracy']['value']:.2f}" if metrics else "–",
        *(accuracy(reached.get((member.name, data))) for data in SETS),
    ]


def accuracy(row: dict[str, Any] | None) -> str:
    """Mean accuracy over classes with its interval, in percent."""
    if row is None:
        return "–"
    low, high = (100 * value for value in row["mean_class_accuracy_ci95"])
    return f"{100 * row['mean_class_accuracy']:.1f} ({low:.1f} to {high:.1f})"


def yes(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    main()
