"""Duration of a recipe, and the accuracy of its last epoch on the test images.

Nothing is chosen on the test images: they are evaluated once per seed, after the last epoch. A run is kept in --work
and continues if it was interrupted; `seconds` is the time of training alone, `wall_s` that of the whole call that
finished it, without the start of the process.

    python benchmarks/time_to_accuracy.py --data-dir data --work runs/tta --out benchmarks/results/time-to-accuracy.json

Under torchrun, the processes share each batch: on two CPU cores, two processes of one thread may be faster than one of
two.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/time_to_accuracy.py …
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click
from provenance import provenance

from l2a_transfer.data.readers import open_source
from l2a_transfer.devices import choose_device
from l2a_transfer.models.config import DEFAULT_WIDTH, ModelConfig
from l2a_transfer.models.weights import read_card
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.training.data import TrainingData
from l2a_transfer.training.processes import Placement, ProcessRank, exit_at_once, process_group
from l2a_transfer.training.recipe import find_recipe
from l2a_transfer.training.runs import run_training
from l2a_transfer.training.trainer import Trainer


@click.command()
@click.option("--model", default="vgg-att2-concat-pc", show_default=True)
@click.option("--width", type=float, default=DEFAULT_WIDTH, show_default=True)
@click.option("--data", default="cifar10", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds the data set.")
@click.option("--recipe", default="fast", show_default=True)
@click.option("--set", "settings", multiple=True, help="FIELD=VALUE of the recipe.")
@click.option("--seeds", default="0", show_default=True)
@click.option("--target", type=float, help="Accuracy to reach, in percent; reported, not enforced.")
@click.option("--device", default="auto", show_default=True)
@click.option("--compile/--no-compile", "compiled", default=False, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(
    model: str,
    width: float,
    data: str,
    data_dir: Path,
    recipe: str,
    settings: tuple[str, ...],
    seeds: str,
    target: float | None,
    device: str,
    compiled: bool,
    work: Path,
    out: Path,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    process = ProcessRank.from_environment(os.environ)
    starter = ["python"] if process.size == 1 else ["torchrun", "--nproc-per-node", str(process.size)]
    about = provenance(shlex.join([*starter, "benchmarks/time_to_accuracy.py", *sys.argv[1:]]))
    source = TrainingData.from_source(open_source(data, data_dir=data_dir))
    chosen = find_recipe(recipe, data).with_settings(settings)
    config = ModelConfig(model, num_classes=len(source.classes), width=width)
    placement = Placement(device=device, compile=compiled, process=process)
    with exit_at_once(process), process_group(process, choose_device(device, process.local)):
        runs: list[dict[str, Any]] = []
        for seed in map(int, seeds.split(",")):
            folder = work / f"seed-{seed}"
            began = time.perf_counter()
            trainer = Trainer(
                config, chosen, source, preprocess=Preprocess(size=chosen.size), seed=seed, placement=placement
            )
            result = run_training(trainer, folder, resume=True, progress=False)
            if not process.is_main:
                continue
            ((metric, value),) = result.metrics.items()
            training = read_card(result.weights).training
            accuracy = value["value"]
            runs.append(
                {
                    "seed": seed,
                    metric: accuracy,
                    "n": value["n"],
                    "seconds": result.seconds,
                    "wall_s": round(time.perf_counter() - began, 1),
                    "reached": None if target is None else 100 * accuracy >= target,
                    "ran_on": f"{training['device']} × {process.size}, {training['precision']}",
                    "commit": training["commit"],
                    "epochs": [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()],
                }
            )
            print({key: value for key, value in runs[-1].items() if key != "epochs"}, file=sys.stderr)
            document = {
                "schema": "l2a-benchmark/1",
                "what": "training time of a recipe, and the test accuracy of its last epoch",
                **about,
                "model": model,
                "width": width,
                "data": data,
                "recipe": chosen.to_json(),
                "compile": compiled,
                "target_percent": target,
                "runs": runs,
            }
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(document, indent=1) + "\n")
        if process.is_main:
            print(out)


if __name__ == "__main__":
    main()
