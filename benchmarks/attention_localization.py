"""Do maps of the attention family find objects? Every member that was trained, beside the uniform control.

Attention and evidence on the pictures and masks of localize_voc.py, about the true class. Results of a network are kept
in --work and are not made again.

    python benchmarks/attention_localization.py --data-dir data --work work \\
        --out benchmarks/results/attention-localization.json
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
from attention_family import CONTROL, FAMILY, TRAINED_WIDTH
from localize_voc import COMPARED, SAME_CLASS, of_network, rows_of
from provenance import provenance

from l2a_transfer.localization.compare import Measured, compare
from l2a_transfer.localization.results import MEASURES, LocalizationConfig

METHODS = ("attention", "evidence")


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the two sets.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Results of each network.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--limit", type=int, help="So many pictures of each set, for a trial.")
@click.option("--device", default="auto", show_default=True)
def main(data_dir: Path, work: Path, out: Path, limit: int | None, device: str) -> None:
    work.mkdir(parents=True, exist_ok=True)
    weights = {member.name: path for member in FAMILY if (path := member.weights()) is not None}
    document = {
        "schema": "l2a-benchmark/1",
        "what": f"attention and evidence of each attention of the family that was trained: width {TRAINED_WIDTH}, "
        "CIFAR-10, recipe fast, seed 0; maps about the true class against masks; thresholds chosen on other images; "
        "comparisons with the same map of the uniform control, adjusted for all of one measure and set",
        **provenance(shlex.join(["python", *sys.argv])),
        "networks": {name: path.stem for name, path in weights.items()},
        "sets": {data: of_set(data, weights, data_dir, work, limit, device) for data in SAME_CLASS},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1, default=str) + "\n")
    print(out)


def of_set(
    data: str, weights: dict[str, Path], data_dir: Path, work: Path, limit: int | None, device: str
) -> dict[str, Any]:
    config = LocalizationConfig(methods=METHODS, target="true", same_class=SAME_CLASS[data], skip_unknown=True, side=64)
    rows: list[tuple[str, Measured, np.ndarray]] = []
    about: dict[str, Any] = {}
    classes = np.empty(0, dtype=np.int32)
    for name, path in weights.items():
        results, values, classes, _ = of_network(path, data, data_dir, work, config, limit, device)
        measured = rows_of(results, values, with_controls=not about)
        rows += [("" if row.row.control else name, row, own) for row, own in measured]
        about = about or {key: results.document()[key] for key in ("images", "classes", "skipped", "foreground")}
    return {
        **about,
        "rows": [{"attention": name, **dataclasses.asdict(row.row)} for name, row, _ in rows],
        "comparisons": [own for measure in COMPARED for own in with_control(rows, classes, measure, data)],
    }


def with_control(
    rows: list[tuple[str, Measured, np.ndarray]], classes: np.ndarray, measure: str, data: str
) -> list[dict[str, Any]]:
    """Each row beside the same map of the control. p is adjusted for their number (Bonferroni)."""
    column = list(MEASURES).index(measure)
    taken = {
        (name, row.row.method, row.row.map): dataclasses.replace(row, values=values[:, column])
        for name, row, values in rows
        if name
    }
    pairs = [(key, own, taken.get((CONTROL, *key[1:]))) for key, own in taken.items() if key[0] != CONTROL]
    found = [
        {"attention": key[0], **dataclasses.asdict(comparison)}
        for key, own, control in pairs
        if control is not None
        for comparison in compare([own, control], classes, measure=measure, data=data)
        if comparison.family == "models"
    ]
    for comparison in found:
        p = comparison["p"]
        comparison |= {"comparisons": len(found), "p_adjusted": None if p is None else min(1.0, len(found) * p)}
        for of_one_pair in ("ci95_simultaneous", "verdict"):
            del comparison[of_one_pair]
    return found


if __name__ == "__main__":
    main()
