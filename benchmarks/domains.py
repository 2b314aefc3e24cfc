"""How much accuracy does a change of domain cost frozen features? Pairs of real domains, by running commands.

Three cases, each with the bundled networks at width 0.25 and raw pixels:

- scikit-learn's digits and svhn1083: handwritten digits and house numbers, one file per domain.
- cifar10 and caltech101: six common classes, with a mapping file. The networks were trained on cifar10's training
  images, so one domain of this pair is not new to them.
- stanford40 by orientation (wider than high, or not) and, if wider, size (more pixels than the median photograph, or
  not): three domains, read from each picture's header, in one file with a column of domains. They are also left out one
  by one. All pictures are used, because some classes have few in a domain.

    python benchmarks/domains.py --data-dir data --work work --limit 2000 --out benchmarks/results/domains.json
"""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from PIL import Image
from provenance import provenance

MODELS = {
    "attention": "vgg-att2-concat-pc.cifar10-w025",
    "uniform": "vgg-att2-concat-uniform.cifar10-w025",
    "pixels": "pixels",
}
CIFAR_CLASSES = {
    "airplanes": "airplane",
    "car_side": "automobile",
    "dalmatian": "dog",
    "emu": "bird",
    "ferry": "ship",
    "flamingo": "bird",
    "ibis": "bird",
    "ketch": "ship",
    "pigeon": "bird",
    "rooster": "bird",
    "schooner": "ship",
    "wild_cat": "cat",
}
"""Class of caltech101 → the class of cifar10 that it is mapped to."""
PAIRS = {"digits and svhn1083": ("digits", "svhn1083"), "cifar10 and caltech101": ("cifar10", "caltech101")}
CROSS = ("--protocol", "cross-domain")
KEPT = ("model", "data", "file", "protocol", "n_classes", "n_train", "n_test", "dim", "C", "interval")
KEPT += ("accuracy", "mean_class_accuracy", "mean_class_accuracy_ci95", "chance", "unconverged", "notes")


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the data sets.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Feature files and reports.")
@click.option("--limit", type=click.IntRange(min=1), default=2000, help="Of each split of the sets of pairs, at most.")
@click.option("--folds", type=click.IntRange(min=2), default=5, help="Folds that choose C; few images need fewer.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(data_dir: Path, work: Path, limit: int, folds: int, out: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    mapping, attributes = work / "class-map.json", work / "attributes.json"
    mapping.write_text(json.dumps(CIFAR_CLASSES, indent=1))
    attributes.write_text(json.dumps(orientations_and_sizes(data_dir), indent=1))
    by_attributes = ("--domain-from", f"file:{attributes}")
    photographs = extracted(("stanford40",), data_dir, work, None, by_attributes)
    pairs = {name: extracted(sets, data_dir, work, limit) for name, sets in PAIRS.items()}
    cases: dict[str, tuple[list[Path], tuple[Any, ...]]] = {
        "digits and svhn1083": (pairs["digits and svhn1083"], (*CROSS,)),
        "cifar10 and caltech101": (pairs["cifar10 and caltech101"], (*CROSS, "--class-map", mapping)),
        "stanford40 by orientation and size": (photographs, (*CROSS,)),
        "stanford40, one left out": (photographs, ("--protocol", "leave-one-domain-out")),
    }
    document: dict[str, Any] = {
        "schema": "l2a-benchmark/1",
        "what": "linear SVM on frozen features, fitted and C chosen on one domain, tested on another; the drop is "
        "within the target minus across, on the same test images",
        **provenance(
            f"python benchmarks/domains.py --data-dir data --work work --limit {limit} --folds {folds} "
            f"--out {out.as_posix()}"
        ),
        "limit": limit,
        "class_map": CIFAR_CLASSES,
        "domains_of_stanford40": "portrait where the photograph is not wider than high, else landscape-large where it "
        "has more pixels than the median photograph, else landscape-small",
        "cases": {},
    }
    for k, (case, (files, options)) in enumerate(cases.items()):
        report = work / f"report-{k}"
        asked: list[Any] = ["svm-eval", *files, *options, "--folds", folds]
        asked += ["--out", report, "--overwrite"]
        run(asked)
        results = json.loads((report / "results.json").read_text())
        short = [part.name if isinstance(part, Path) else str(part) for part in asked]
        document["cases"][case] = {
            "svm_eval": shlex.join(["l2a-transfer", *short]),
            "rows": [{key: row[key] for key in KEPT} for row in results["rows"]],
            "domains": results["domains"],
            "drops": results["drops"],
            "comparisons": results["comparisons"],
        }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(out)


def extracted(
    sets: tuple[str, ...], data_dir: Path, work: Path, limit: int | None, options: tuple[str, ...] = ()
) -> list[Path]:
    """A feature file for each set and model; existing files are verified."""
    files = []
    for data in sets:
        for name, model in MODELS.items():
            file = work / f"{data}-{name}-{limit or 'all'}.h5"
            where = ["--model", model, "--data", data, "--data-dir", data_dir, *options]
            where += ["--limit", limit] if limit else []
            run(["extract", *where, "--out", file, "--resume"])
            files.append(file)
    return files


def orientations_and_sizes(data_dir: Path) -> dict[str, str]:
    """Id of each picture of stanford40 → its domain; only headers are read."""
    from l2a_transfer.data.readers import open_source

    sizes = {}
    for name in open_source("stanford40", data_dir=data_dir).ids:
        path = next(path for path in (data_dir / "stanford40" / name, _picture(data_dir, name)) if path.is_file())
        with Image.open(path, formats=("JPEG",)) as image:
            sizes[name] = image.size
    median = statistics.median(width * height for width, height in sizes.values())
    return {
        name: f"landscape-{'large' if width * height > median else 'small'}" if width > height else "portrait"
        for name, (width, height) in sizes.items()
    }


def _picture(data_dir: Path, name: str) -> Path:
    return data_dir / "stanford40" / "JPEGImages" / Path(name).name


def run(arguments: list[Any]) -> None:
    """Run `l2a-transfer ARGUMENTS` in a separate process. Raises: CalledProcessError if it fails."""
    command = [sys.executable, "-m", "l2a_transfer", *map(str, arguments)]
    print("l2a-transfer", *arguments[:3], file=sys.stderr)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
