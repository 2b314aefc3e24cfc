"""Write the tables of docs/attention.md: every attention of the family, from its config, cards and results.

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

from attention_family import FAMILY, WIDTH, Member  # noqa: E402

from l2a_transfer.export import not_exported  # noqa: E402
from l2a_transfer.models.selection import find_selection  # noqa: E402
from l2a_transfer.models.weights import read_card  # noqa: E402

PAGE = ROOT / "docs" / "attention.md"
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = re.compile(r"(<!-- (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
SETS = ("caltech101", "stanford40")
MASKS = "voc-coseg"
MAPS = (("attention", "L3", "jaccard"), ("attention", "L3", "pointing"), ("evidence", "L3", "jaccard"))
MECHANISM = ("attention", "weights a_i", "g acts", "sum to 1", "trained by", "ONNX", "step over uniform")
REACHED = ("attention", "CIFAR-10, width ¼", "CIFAR-10", *SETS, "J of attention", "pointing", "J of evidence")


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    tables = {"mechanism": mechanism, "reached": reached, "differences": differences}
    new = BLOCK.sub(lambda found: found[1] + tables[found[2]]() + found[4], text)
    if "--check" in sys.argv[1:]:
        if new != text:
            sys.exit(
                "docs/attention.md is not what configs, cards and results say; run: python scripts/make_attention.py"
            )
    else:
        PAGE.write_text(new, encoding="utf-8")


def mechanism() -> str:
    """What each member computes, and what a step costs."""
    steps = {row["attention"]: cost(row) for row in result("attention-cost")["rows"]}
    return table(MECHANISM, 6, [[*words(member), steps.get(member.name, "–")] for member in FAMILY])


def words(member: Member) -> list[str]:
    config = member.config()
    draws = find_selection(config.selection).samplers
    sampler = member.recipe().sampler
    drawn = f"draws, `{sampler}`" if draws and sampler != "exact" else "expectation over draws" if draws else "draws"
    return [
        f"`{member.name}`",
        unbroken(member.formula),
        yes(config.builds_global_branch),
        yes(all(spec.kind != "gate" for spec in config.maps)),
        "gradient" if config.selection == "soft" else drawn,
        yes(not not_exported(config)),
    ]


def unbroken(formula: str) -> str:
    """The formula with no-break spaces around its operators and within ⟨ ⟩."""
    return re.sub(r"(?<=[=+−/]) | (?=[=+−/])|(?<=⟨u,) |(?<=⟨l_i,) ", "\N{NO-BREAK SPACE}", formula)


def cost(row: dict[str, Any]) -> str:
    """The median over rounds of the time of a step over the control's, and the range of the rounds."""
    low, high = min(row["all_over_uniform"]), max(row["all_over_uniform"])
    median = f"{row['over_uniform']:.2f}"
    return median if low == high else f"{median} ({low:.2f}–{high:.2f})"


def reached() -> str:
    """The results of the trained members."""
    svm = {(row["attention"], row["data"]): row for row in result("attention-transfer")["rows"]}
    maps = {
        (row["attention"], row["method"], row["map"]): row
        for row in result("attention-localization").get("sets", {}).get(MASKS, {}).get("rows", ())
    }
    rows = []
    for member in FAMILY:
        wide, own = member.weights(WIDTH), member.weights()
        if wide is None and own is None:
            continue
        rows.append(
            [
                f"`{member.name}`",
                tested(wide),
                tested(own),
                *(accuracy(svm.get((member.name, data))) for data in SETS),
                *(measured(maps.get((member.name, method, level)), name) for method, level, name in MAPS),
            ]
        )
    kept = [i for i in range(len(REACHED)) if any(row[i] != "–" for row in rows)]  # not what nobody has measured
    return table(tuple(REACHED[i] for i in kept), 1, [[row[i] for i in kept] for row in rows])


def differences() -> str:
    """Mean class accuracy of the trained members minus that of the control, in points."""
    transfer = result("attention-transfer")
    names = {row["model"]: row["attention"] for row in transfer["rows"]}
    found = {(names[own["a"]], own["data"]): own for own in transfer.get("comparisons", ())}
    members = [member.name for member in FAMILY if (member.name, SETS[0]) in found]
    rows = [[f"`{name}`", *(points(found[name, data]) for data in SETS)] for name in members]
    return table(("attention", *SETS), 1, rows)


def points(comparison: dict[str, Any]) -> str:
    low, high = comparison["ci95_simultaneous"]
    own, low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in (comparison["difference"], low, high))
    return f"{own} [{low}, {high}]"


def table(head: tuple[str, ...], left: int, rows: list[list[str]]) -> str:
    """A Markdown table; columns from `left` on contain numbers."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * left + ["---:"] * (len(head) - left), *rows])


def result(name: str) -> dict[str, Any]:
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": []}
    return found


def tested(path: Path | None) -> str:
    """The test accuracy in the card, in percent."""
    if path is None:
        return "–"
    metrics = read_card(path).metrics
    found = metrics.get("test_accuracy_own_partner", metrics["test_accuracy"])  # earlier cards of networks of pairs
    return f"{100 * found['value']:.2f}"


def accuracy(row: dict[str, Any] | None) -> str:
    """Mean class accuracy with its interval, in percent."""
    return "–" if row is None else interval(row["mean_class_accuracy"], row["mean_class_accuracy_ci95"])


def measured(row: dict[str, Any] | None, name: str) -> str:
    """A measure of maps, mean over classes, with its interval, in percent."""
    return "–" if row is None else interval(*(row["measures"][name][key] for key in ("class_mean", "class_ci95")))


def interval(value: float, ci95: tuple[float, float]) -> str:
    return f"{100 * value:.1f} ({100 * ci95[0]:.1f} to {100 * ci95[1]:.1f})"


def yes(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    main()
