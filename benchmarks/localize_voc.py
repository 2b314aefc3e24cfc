"""Do attention maps find objects better than their controls? Every map method on two sets with masks.

The sets are voc-coseg's pictures of CIFAR-10's classes (451) and airplanes of Caltech-101 (160), each as SET/images and
SET/masks in --data-dir. Networks have one width: bundled ones, those in benchmarks/zoo, and untrained ones. Each
network is measured alone and its results are kept in --work, so that an interrupted run continues with the next one.
Then all are compared on the same images, and over training seeds if there are three.

    python benchmarks/localize_voc.py --data-dir data --work work --out benchmarks/results/localization.json
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
from provenance import provenance

from l2a_transfer.data.masks import open_masks
from l2a_transfer.data.readers import open_source
from l2a_transfer.evaluation.groups import TRAINED, Source
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.files import replacing_all
from l2a_transfer.localization.compare import Measured, compare
from l2a_transfer.localization.lines import PIXELS_CARD
from l2a_transfer.localization.localize import localize
from l2a_transfer.localization.networks import CONTROLS
from l2a_transfer.localization.results import MEASURES, LocalizationConfig, LocalizationResults, read_localization
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import PRETRAINED, read_card, save_weights

ZOO = Path(__file__).parent / "zoo"
WIDTH, TRAINED_ON = 0.25, "cifar10"
ARCHITECTURES = tuple(f"vgg-att2-concat-{own}" for own in ("pc", "uniform", "dp", "add")) + ("vgg-gap",)
UNTRAINED, SEEDS = "vgg-att2-concat-pc", (0, 1, 2)
SAME_CLASS = {
    "voc-coseg": {"aeroplane": "airplane", "boat": "ship", "car": "automobile"},
    "caltech101-airplanes": {"airplanes": "airplane"},
}
SLOW = ("occlusion", "smoothgrad", "integrated-gradients")
"""Methods with many passes per image: only for the true class, and for one seed of each architecture."""
COMPARED = ("jaccard", "average_precision", "pointing")
PLANNED_NETWORKS = ("vgg-att2-concat-pc", "vgg-att2-concat-uniform")
PLANNED_MAPS = (("attention", "L3"), ("evidence", "all"))
"""Planned comparisons: attention and its uniform control, and both with the centre. Other rows only have intervals."""


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the two sets.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Results of each network.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--limit", type=int, help="So many pictures of each set, for a trial.")
@click.option("--limit-slow", type=int, help="So many pictures of each set for slow methods and the predicted class.")
@click.option("--methods", default="", help="These map methods only, with commas between, for a trial.")
@click.option("--targets", default="true,predicted", show_default=True, help="The classes that maps are about.")
@click.option("--models", default="", help="Networks whose names contain one of these words only, for a trial.")
@click.option("--device", default="auto", show_default=True)
def main(
    data_dir: Path,
    work: Path,
    out: Path,
    limit: int | None,
    limit_slow: int | None,
    methods: str,
    targets: str,
    models: str,
    device: str,
) -> None:
    work.mkdir(parents=True, exist_ok=True)
    networks = [path for path in find_networks(work) if not models or any(w in path.stem for w in models.split(","))]
    asked = tuple(methods.split(",")) if methods else tuple(name for name in METHODS if name not in CONTROLS)
    sets: dict[str, Any] = {}
    for data in SAME_CLASS:
        measured, first, classes, seconds = [], None, np.empty(0, dtype=np.int32), 0.0
        for target, group in product(targets.split(","), groups(asked)):
            own = tuple(name for name in group if target == "true" or METHODS[name].class_specific)
            config = LocalizationConfig(
                methods=own, target=target, same_class=SAME_CLASS[data], skip_unknown=True, side=64
            )
            is_slow = len(group) == 1 and group[0] in SLOW
            is_beside = is_slow or target == "predicted"
            chosen = one_of_each(networks) if is_beside else networks
            at_most = limit_slow if is_beside and limit_slow else limit
            for network in chosen if own and not (is_slow and target == "predicted") else ():
                results, values, own_classes, took = of_network(network, data, data_dir, work, config, at_most, device)
                measured += rows_of(results, values, with_controls=first is None)
                if first is None:
                    first, classes = results, own_classes
                seconds += took
        assert first is not None
        sets[data] = {
            **{key: first.document()[key] for key in ("images", "classes", "skipped", "foreground", "masks")},
            "seconds": round(seconds, 1),
            "rows": [dataclasses.asdict(row.row) for row, _ in measured],
            "comparisons": [
                dataclasses.asdict(own)
                for measure in COMPARED
                for own in compare(by_measure(measured, measure), classes, measure=measure, data=data)
                if own.family != "methods"
            ],
        }
    document = {
        "schema": "l2a-benchmark/1",
        "what": "maps of where networks look against masks of objects; every method, network and seed at hand, "
        "beside the centre, Sobel's edges, noise and everything; thresholds chosen on other images; rows of the true "
        "class; where they are asked for, slow methods and the predicted class, of one seed of each architecture, on "
        "as many pictures as n says",
        **provenance(shlex.join(["python", *sys.argv])),
        "networks": {path.stem: dataclasses.asdict(read_card(path)) for path in networks},
        "sets": sets,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1, default=str) + "\n")
    print(out)


def groups(methods: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Methods that are measured and cached together: the fast ones, and each slow one."""
    quick = tuple(name for name in methods if name not in SLOW)
    return [own for own in (quick, *((name,) for name in methods if name in SLOW)) if own]


def one_of_each(networks: list[Path]) -> list[Path]:
    """The first seed of each architecture, trained or not."""
    found: dict[tuple[str, bool], Path] = {}
    for path in networks:
        card = read_card(path)
        found.setdefault((card.config.architecture, bool(card.training.get("untrained"))), path)
    return list(found.values())


def by_measure(measured: list[tuple[Measured, np.ndarray]], measure: str) -> list[Measured]:
    """The rows to compare, including controls, with one of their measures for each image."""
    column = list(MEASURES).index(measure)
    return [
        dataclasses.replace(row, values=values[:, column])
        for row, values in measured
        if row.row.control
        or (
            (row.row.method, row.row.map) in PLANNED_MAPS
            and row.source.kind == TRAINED
            and row.source.card["config"]["architecture"] in PLANNED_NETWORKS
        )
    ]


def find_networks(work: Path) -> list[Path]:
    """Weights of the architectures at one width trained on CIFAR-10, then untrained ones with its classes."""
    found = []
    for path in sorted([*PRETRAINED.glob("*.safetensors"), *ZOO.glob("*.safetensors")], key=lambda path: path.name):
        card = read_card(path)
        if card.config.width == WIDTH and card.training.get("data") == TRAINED_ON:
            found += [path] if card.config.architecture in ARCHITECTURES else []
    found.sort(key=lambda path: ARCHITECTURES.index(read_card(path).config.architecture))
    classes = read_card(found[0]).classes
    for seed in SEEDS:
        path = work / f"untrained-{UNTRAINED}-seed-{seed}.safetensors"
        if not path.exists():
            network, card = load_model(f"untrained:{UNTRAINED}@{WIDTH}", seed=seed)
            save_weights(network, dataclasses.replace(card, classes=classes), path)
        found.append(path)
    return found


def of_network(
    network: Path,
    data: str,
    data_dir: Path,
    work: Path,
    config: LocalizationConfig,
    limit: int | None,
    device: str,
) -> tuple[LocalizationResults, np.ndarray, np.ndarray, float]:
    """Results of one network, its measures (rows, N, M), the images' classes (N,), and seconds; read from cache if
    present."""
    which = config.methods[0] if config.methods[0] in SLOW else "quick"
    folder = work / f"{data}-{config.target}-{which}-{network.stem}{f'-{limit}' if limit else ''}"
    kept, arrays = folder / "localization.json", folder / "values.npz"
    if not kept.exists():
        print(folder.name, file=sys.stderr)
        source = open_source(f"imagefolder:{data_dir / data / 'images'}", limit=limit)
        began = time.perf_counter()
        masks = open_masks(f"png:{data_dir / data / 'masks'}")
        found = localize([network], source, masks, config, device=device, progress=sys.stderr.isatty())
        took = time.perf_counter() - began
        rows = np.flatnonzero(found.measured)
        folder.mkdir(exist_ok=True)
        np.savez(
            arrays,
            values=np.stack([line.tally.values[rows] for line in found.lines]),
            classes=source.labels[found.selection.rows[rows]],
            seconds=took,
        )
        with replacing_all(folder) as put:
            put(kept.name, json.dumps(found.results.document()).encode())
    results = read_localization(kept)
    if results.config != dataclasses.replace(config, measure=results.config.measure):
        raise click.ClickException(f"{folder} has results of other settings; remove it")
    with np.load(arrays) as stored:
        return results, stored["values"], stored["classes"], float(stored["seconds"])


def rows_of(
    results: LocalizationResults, values: np.ndarray, *, with_controls: bool
) -> list[tuple[Measured, np.ndarray]]:
    """Rows with their origin and measures (N, M). Labels name the class that a map explains."""
    found = []
    for row, own in zip(results.rows, values, strict=True):
        if row.control and not with_controls:
            continue
        if results.config.target != "true" and not row.target:
            continue
        card = PIXELS_CARD if row.control else results.models[row.model]
        method = f"{row.method}, predicted class," if row.target == "predicted" else row.method
        label = row.label if row.control else f"{method} {row.map} of {row.model}"
        named = dataclasses.replace(row, label=label, method=method)
        digest = row.weights_sha256 or row.label
        source = Source(label, results.data, card, digest, tap=f"{method} {row.map}")
        found.append((Measured(named, source, own[:, 0]), own))
    return found


if __name__ == "__main__":
    main()
