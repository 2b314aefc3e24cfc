"""The sanity check of map methods on trained networks, and its duration.

For each network, it runs the cascade from the logits down and each part alone, with three random networks, and writes a
figure to `--figures`. The time is that of one cascade with 17 states of vgg-att2-concat-pc (the unchanged network, and
16 with one more random part or convolution each) on 48 images, with the maps of attention, evidence, grad-cam, saliency
and guided-backprop.

    python benchmarks/sanity.py --data-dir data --out benchmarks/results/sanity.json --figures docs

With `--labels`, each network is also compared with its twin, the same network trained on permuted labels, if given.
Such weights are made by the command below, which takes 15 minutes on one thread, and continues if it is interrupted and
run again:

    l2a-transfer sanity --model vgg-att2-concat-pc.cifar10-w025 --data cifar10 --data-dir data --out runs/sanity \\
        --labels train --labels-limit 1000 --epochs 60 --device cpu

    python benchmarks/sanity.py … --labels runs/sanity/permuted-labels/*.safetensors
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch
from provenance import provenance

from l2a_transfer.data.readers import open_source
from l2a_transfer.explain.checks.pictures import Pictures, pictures_of
from l2a_transfer.explain.checks.results import SanityResults, statements
from l2a_transfer.explain.checks.sanity import check_sanity
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.networks.soft import AttentionVGG
from l2a_transfer.models.parts import Parts
from l2a_transfer.models.weights import read_card
from l2a_transfer.report.sanity_figure import figure

HERE = Path(__file__).parent
NETWORKS = (
    "vgg-att2-concat-pc.cifar10-w025",
    str(HERE / "zoo" / "vgg-att2-concat-dp.cifar10-w025.fast.seed-0.safetensors"),
    str(HERE / "zoo" / "vgg-gap.cifar10-w025.fast.seed-0.safetensors"),
)
CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Number of convolutions in each block."""


class ByConvolution(AttentionVGG):
    """The network with a part for each convolution, so that a cascade has 17 states."""

    def parts(self) -> Parts:
        parts = {name: of for name, of in super().parts().items() if not name.startswith("block")}
        for block in reversed(range(len(CONVOLUTIONS))):
            for k in reversed(range(CONVOLUTIONS[block])):
                parts[f"conv {sum(CONVOLUTIONS[:block]) + k + 1}"] = (f"trunk.{block}.{k}",)
        return {"classifier and heads": parts.pop("classifier") + parts.pop("heads"), **parts}


@click.command()
@click.option("--data", default="cifar10", show_default=True, help="Its test images are explained.")
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the data set.")
@click.option("--limit", default=48, show_default=True, help="Images.")
@click.option("--seeds", default=3, show_default=True, help="Random networks.")
@click.option(
    "--labels", multiple=True, type=click.Path(path_type=Path, exists=True), help="Weights of permuted labels."
)
@click.option("--repeats", default=3, show_default=True, help="Samples of the time; 0 takes none.")
@click.option("--figures", type=click.Path(path_type=Path), required=True, help="Folder of the figures.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.argument("models", nargs=-1)
def main(
    models: tuple[str, ...],
    data: str,
    data_dir: Path,
    limit: int,
    seeds: int,
    labels: tuple[Path, ...],
    repeats: int,
    figures: Path,
    out: Path,
) -> None:
    source = open_source(data, data_dir=data_dir)
    twins = {(card.config.architecture, card.config.width): path for path in labels for card in [read_card(path)]}
    rows = []
    for name in models or NETWORKS:
        network, card = load_model(name)
        pictures = pictures_of(source, card.preprocess, limit=limit)
        twin = twins.get((card.config.architecture, card.config.width))
        started = time.perf_counter()
        found = check_sanity(
            network, card, pictures, seeds=seeds, labels=None if twin is None else load_model(twin), progress=True
        )
        seconds = time.perf_counter() - started
        figures.mkdir(parents=True, exist_ok=True)
        (figures / f"sanity-{card.config.architecture}.svg").write_text(figure(found).file(), encoding="utf-8")
        rows.append({**summary(found), "seconds": round(seconds, 1)})
        print(card.name, f"{seconds:.1f} s", file=sys.stderr)
    document = {
        **provenance(shlex.join(["python", *sys.argv])),
        "threads": torch.get_num_threads(),
        "data": data,
        "images": limit,
        "seeds": seeds,
        "networks": rows,
        "speed": speed(source, limit, repeats) if repeats else None,
    }
    out.write_text(compact(document) + "\n", encoding="utf-8")


def compact(document: dict[str, Any]) -> str:
    """JSON with one line per map of each network, and six decimals."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(of) for key, of in value.items()}
        if isinstance(value, list | tuple):
            return [rounded(of) for of in value]
        return round(value, 6) if isinstance(value, float) else value

    lines: dict[str, str] = {}
    networks = []
    for row in document["networks"]:
        cascade = {}
        for label, of in row["cascade"].items():
            cascade[label] = f"@{len(lines)}@"
            lines[cascade[label]] = json.dumps(rounded(of), ensure_ascii=False)
        networks.append({**row, "cascade": cascade})
    text = json.dumps({**document, "networks": networks}, indent=1, ensure_ascii=False)
    for mark, line in lines.items():
        text = text.replace(f'"{mark}"', line)
    return text


def summary(found: SanityResults) -> dict[str, Any]:
    """A summary of the results; the full results are stored next to the figure."""
    cascade: dict[str, dict[str, Any]] = {}
    for row in found.rows:
        if row.order != "independent":
            cascade.setdefault(row.label, {})[row.part] = {
                "unchanged": row.unchanged,
                **{name: dataclasses.asdict(of) for name, of in row.similarity.items()},
            }
    return {
        "network": found.network,
        "weights_sha256": found.weights_sha256,
        "seeds": found.seeds,
        "parts": [part.name for part in found.parts],
        "labels": None if found.labels is None else dataclasses.asdict(found.labels),
        "cascade": cascade,
        "statements": statements(found),
    }


def speed(source: Any, limit: int, repeats: int) -> dict[str, Any]:
    """Seconds of one cascade of 17 states, after a short one as warm-up."""
    network, card = load_model(NETWORKS[0])
    network.__class__ = ByConvolution
    pictures = pictures_of(source, card.preprocess, limit=limit)
    few = Pictures(pictures.name, pictures.ids[:4], pictures.images_u8[:4])
    check_sanity(network, card, few, seeds=1, orders=["cascade"])
    samples, of_processor = [], []
    for _ in range(repeats):
        started, before = time.perf_counter(), time.process_time()
        found = check_sanity(network, card, pictures, seeds=1, orders=["cascade"])
        samples.append(round(time.perf_counter() - started, 2))
        of_processor.append(round(time.process_time() - before, 2))
    return {
        "network": card.name,
        "states": 1 + len(found.parts),
        "images": len(found.ids),
        "maps": list(found.maps),
        "measures": list(found.rows[0].similarity),
        "seconds": samples,
        "processor_seconds": of_processor,
        "median_seconds": sorted(samples)[len(samples) // 2],
    }


if __name__ == "__main__":
    main()
