"""Accuracy under attack of the available networks on CIFAR-10's test images: one JSON file, one table.

    python benchmarks/robustness.py --data-dir data --out benchmarks/results/robustness.json
    python benchmarks/robustness.py --data-dir data --attack fgsm --out benchmarks/results/robustness-fgsm.json

The second takes about a minute on one core, the first about ten times as long. `--all` uses every network of CIFAR-10
in `benchmarks/zoo`, with all training seeds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from l2a_transfer.data.readers import open_source
from l2a_transfer.evaluation.robustness import evaluate_robustness
from l2a_transfer.evaluation.robustness_results import DOCUMENT, RobustnessConfig
from l2a_transfer.evaluation.tested import chosen_images
from l2a_transfer.files import write_whole
from l2a_transfer.report.document import block_markdown
from l2a_transfer.report.folder import json_lines
from l2a_transfer.report.robustness import accuracy_grid

ZOO = Path(__file__).parent / "zoo"
BUNDLED = ("vgg-att2-concat-pc.cifar10-w025", "vgg-att2-concat-uniform.cifar10-w025")
BESIDE = tuple(ZOO / f"{name}.cifar10-w025.fast.seed-0.safetensors" for name in ("vgg-att2-concat-dp", "vgg"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="holds cifar-10-batches-py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--attack", default="fgsm,pgd")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--all", action="store_true", help="every network of CIFAR-10 in benchmarks/zoo")
    given = parser.parse_args()
    models = [*BUNDLED, *(sorted(ZOO.glob("*.cifar10-*.safetensors")) if given.all else BESIDE)]
    source = chosen_images(open_source("cifar10", data_dir=given.data_dir), limit=given.limit)
    config = RobustnessConfig(attack=tuple(given.attack.split(",")), steps=given.steps, device=given.device)
    began = time.perf_counter()
    results = evaluate_robustness(models, source, config, progress=True)
    seconds = time.perf_counter() - began
    document = results.document()
    DOCUMENT.check(document, "robustness")
    text = json_lines({**document, "seconds": round(seconds, 1)})
    write_whole(given.out, text.encode())
    print(block_markdown(accuracy_grid(results)), *results.warnings, f"{seconds:.0f} s", sep="\n")


if __name__ == "__main__":
    main()
