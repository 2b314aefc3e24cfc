"""Results made by hand, without an SVM: what stands in a report can then be told exactly."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from l2a_transfer.evaluation.compare import Comparison
from l2a_transfer.evaluation.results import EvalConfig, EvalDetail, EvalResults, EvalRow
from l2a_transfer.evaluation.seeds import SeedSummary
from l2a_transfer.evaluation.splits import Split

CARD = {
    "name": "good",
    "config": {"architecture": "vgg", "width": 0.25},
    "classes": ["a", "b"],
    "parameters": 12,
    "metrics": {"test_accuracy": {"value": 0.9191, "n": 10000, "seeds": 1}},
    "training": {"data": "cifar10", "seed": 0, "commit": "2fdc86f", "recipe": {"name": "fast", "epochs": 14}},
    "preprocess": {"size": 32, "mean": [0.5, 0.25], "flip": True},
}


def digest(label: str, data: str = "toy") -> str:
    """The digest of the feature file that a made row, of the model `label` on `data`, is of."""
    return hashlib.sha256(f"{label} on {data}".encode("utf-8", "surrogatepass")).hexdigest()


def cells(matrix: Sequence[Sequence[int]]) -> tuple[tuple[int, int, int], ...]:
    """Confusion counts as a detail keeps them."""
    return tuple((i, k, count) for i, line in enumerate(matrix) for k, count in enumerate(line) if count)


def row(label: str = "good", value: float = 0.5, **changes: Any) -> EvalRow:
    """One row of two classes, four test images and one draw, whose interval is 0.1 to each side."""
    made = EvalRow(
        label=label,
        variant="",
        model=label,
        data="toy",
        file=f"{label}.h5",
        file_sha256=digest(label, changes.get("data", "toy")),
        line=0,
        tap="ga",
        levels=("L2", "L3"),
        precision="fp32",
        backend="torch",
        normalization="standardize",
        solver="batched",
        protocol="official",
        why="as asked",
        shots=None,
        draws=1,
        n_classes=2,
        n_train=8,
        n_test=4,
        dim=6,
        components=None,
        C=(0.01,),
        c_grid_draws=((0.001, 0.01),),
        cv_accuracy_draws=((0.5, 0.75),),
        interval="score",
        accuracy=value,
        accuracy_ci95=(value - 0.1, value + 0.1),
        accuracy_draws=(value,),
        mean_class_accuracy=value,
        mean_class_accuracy_ci95=(value - 0.1, value + 0.1),
        mean_class_accuracy_draws=(value,),
        macro_f1=0.25,
        top5=None,
        chance=0.5,
        fits=11,
        unconverged=1,
        seconds=1.5,
        splits=(0,),
        notes=(),
    )
    return dataclasses.replace(made, **changes)


def comparison(a: str, b: str, difference: float = 0.1, p: float = 0.01, **changes: Any) -> Comparison:
    """One of two comparisons of its family, of the made rows that are called `a` and `b`. `p`: adjusted."""
    (first, _, variant_a), (second, _, variant_b) = a.partition(", "), b.partition(", ")
    data = changes.get("data", "toy")
    own, both = ((difference - half, difference + half) for half in (0.04, 0.05))
    made = Comparison(
        data="toy",
        protocol="official",
        shots=None,
        family="models",
        comparisons=2,
        a=a,
        b=b,
        population="these two weight files",
        n=(1, 1),
        difference=difference,
        ci95=own,
        ci95_simultaneous=both,
        only_a=3,
        only_b=1,
        test="permutation",
        p=p / 2,
        p_adjusted=p,
        p_mcnemar=0.625,
        effect=0.25,
        not_defined="",
        verdict=f"{a} against {b}",
        files=((digest(first, data),), (digest(second, data),)),
        variants=(variant_a, variant_b),
    )
    return dataclasses.replace(made, **changes)


def results(
    rows: Sequence[EvalRow],
    comparisons: Sequence[Comparison] = (),
    *,
    classes: tuple[str, ...] = ("cat", "dog"),
    confusion: tuple[tuple[int, ...], ...] = ((2, 0), (1, 1)),
    card: dict[str, Any] | None = None,
    seeds: Sequence[SeedSummary] = (),
    **config: Any,
) -> EvalResults:
    """Results with one detail a row and one split a data set, protocol and k; a label is a model, as in no report."""
    details = tuple(
        EvalDetail(r.label, r.file_sha256, r.variant, r.data, r.shots, classes, cells(confusion), ((0,) * 4,))
        for r in rows
    )
    places = list(dict.fromkeys((r.data, r.protocol, r.shots) for r in rows))
    splits = tuple(
        Split(data, protocol, 0, None, f"{k:064x}", (0, 1), (2, 3), shots=shots)
        for k, (data, protocol, shots) in enumerate(places)
    )
    lines = list(dict.fromkeys(r.label for r in rows))
    placed = [
        dataclasses.replace(r, splits=(places.index((r.data, r.protocol, r.shots)),), line=lines.index(r.label))
        for r in rows
    ]
    cards = {r.file_sha256: CARD if card is None else card for r in rows}
    versions = {"l2a-transfer": "0.1.0", "python": "3.11.7"}
    return EvalResults(
        EvalConfig(**config), tuple(placed), tuple(comparisons), tuple(seeds), details, cards, splits, versions
    )
