"""How the accuracy of co-attention depends on the partners: the same networks tested with several rules, on digits.

Trains `vgg-att2-concat-pc`, and from it `vgg-att2-concat-pc-co` with a live and with a frozen trunk, for each seed.

    OMP_NUM_THREADS=1 python benchmarks/partner_rules.py --work work --out benchmarks/results/partner-rules.json
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from provenance import provenance

from l2a_transfer.data.readers import open_source
from l2a_transfer.features.extraction.partners import partner_rows
from l2a_transfer.models.loading import load_model
from l2a_transfer.training.accuracy import evaluate
from l2a_transfer.training.data import TrainingData
from l2a_transfer.training.train import train

BASE, CO, HOLDOUT = "vgg-att2-concat-pc", "vgg-att2-concat-pc-co", 400
OPTIONS = {"holdout": HOLDOUT, "epochs": 14, "width": 1 / 16, "image_size": 16, "batch_size": 64, "device": "cpu"}


def partners_by_rule(labels: NDArray[np.int32], ids: tuple[str, ...]) -> dict[str, NDArray[np.int64]]:
    """Rule → partners (N, 1). The last two use the labels of the test images, so their results are not accuracies."""
    rng, own = np.random.default_rng(0), np.arange(len(labels))
    drawn = {
        "of its class": [rng.choice(np.flatnonzero((labels == labels[i]) & (own != i))) for i in own],
        "of another class": [rng.choice(np.flatnonzero(labels != labels[i])) for i in own],
    }
    rules = {"from the set": partner_rows(ids, 1), "itself": own[:, None]}
    return {**rules, **{name: np.array(rows)[:, None] for name, rows in drawn.items()}}


@click.command()
@click.option("--seeds", default=3, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="The runs.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(seeds: int, work: Path, out: Path) -> None:
    source = open_source("digits")
    test = TrainingData.from_source(source, holdout=HOLDOUT).test
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        base = train(BASE, source, work / f"base-{seed}", seed=seed, overwrite=True, **OPTIONS)
        network, card = load_model(str(base.weights))
        found.setdefault(BASE, {}).setdefault("none", []).append(evaluate(network, test, card.preprocess))
        for trunk, settings in (("live", []), ("frozen", ["freeze=trunk"])):
            start = str(base.weights)
            result = train(
                CO,
                source,
                work / f"{trunk}-{seed}",
                seed=seed,
                settings=settings,
                init_from=start,
                overwrite=True,
                **OPTIONS,
            )
            network, card = load_model(str(result.weights))
            for rule, rows in partners_by_rule(test.labels, test.ids).items():
                accuracy = evaluate(network, test, card.preprocess, partners=rows)
                found.setdefault(f"{CO}, {trunk} trunk", {}).setdefault(rule, []).append(accuracy)
    document = {
        "schema": "l2a-benchmark/1",
        "what": f"accuracy on {HOLDOUT} images held out of digits, by the rule that partners are drawn by",
        **provenance(shlex.join(["python", "benchmarks/partner_rules.py", *sys.argv[1:]])),
        "n": HOLDOUT,
        "seeds": seeds,
        "rows": [
            {"network": name, "partners": rule, "accuracies": values, "mean": statistics.fmean(values)}
            for name, rules in found.items()
            for rule, values in rules.items()
        ],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    for row in document["rows"]:
        print(f"{row['network']:40} {row['partners']:18} {100 * row['mean']:.1f}")


if __name__ == "__main__":
    main()
