"""Different backbones in one table: attention networks, others with random weights, imported features, and pixels.

Runs the commands that README shows for caltech-mini and for Caltech-101, then one `svm-eval` over all files. resnet18
appears twice with the same random weights: with `--model torchvision:resnet18`, and as features computed by
thingsvision in a separate environment and read by `l2a-transfer import`. Finished files in --work are reused.

    python3.10 -m venv tv && tv/bin/pip install thingsvision "numpy<2"
    python benchmarks/backbones.py --data-dir data --python tv/bin/python --work work --out backbones.json
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
from provenance import provenance
from thingsvision_side import ROOT, random_weights
from transfer import evaluated, run

from l2a_transfer.data.readers import open_source

RESNET, WEIGHTS = "torchvision:resnet18", "resnet18-random.safetensors"
MODELS: dict[str, list[str]] = {
    "attention": ["vgg-att2-concat-pc.cifar10-w025"],
    "uniform": ["vgg-att2-concat-uniform.cifar10-w025"],
    "resnet18": [RESNET, "--weights", WEIGHTS],
    "vit-tiny": ["untrained:timm:vit_tiny_patch16_224"],
    "pixels": ["pixels"],
}
DATA = ("caltech-mini", "caltech101")


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True, help="Holds caltech101.")
@click.option("--python", type=click.Path(path_type=Path, exists=True), required=True, help="Of thingsvision's venv.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Feature files and the evaluation.")
@click.option("--data", default=",".join(DATA), show_default=True, help="With commas between.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
def main(data_dir: Path, python: Path, work: Path, data: str, out: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    weights = work / WEIGHTS
    if not weights.exists():
        random_weights(RESNET, weights)
    files: list[Path] = []
    for name in data.split(","):
        where = ["--data", name, "--data-dir", data_dir]
        for short, model in MODELS.items():
            files.append(work / f"{name}-{short}.h5")
            given = [weights if own == WEIGHTS else own for own in model]
            run(["extract", "--model", *given, *where, "--out", files[-1], "--resume"])
        files.append(work / f"{name}-thingsvision.h5")
        if not files[-1].exists():
            thingsvision(name, data_dir, python.absolute(), work, weights)
            labels = work / f"{name}-resnet18.h5"
            own = ["--labels", labels, "--name", "thingsvision resnet18"]
            run(["import", work / f"thingsvision-{name}" / "features.npy", *own, "--out", files[-1]])
    document = {
        "schema": "l2a-benchmark/1",
        "what": "linear SVM on frozen features of attention networks, of networks of others with random weights, of "
        "features that thingsvision computed with the weights of resnet18's row, and on pixels",
        **provenance(shlex.join(["python", "benchmarks/backbones.py", *sys.argv[1:]])),
        **evaluated(files, work / "report"),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out)


def thingsvision(name: str, data_dir: Path, python: Path, work: Path, weights: Path) -> None:
    """The thingsvision features of a data set, in `work/thingsvision-NAME`, in the order of the data set's rows."""
    source, images = open_source(name, data_dir=data_dir), work / f"images-{name}"
    images.mkdir(exist_ok=True)
    for row in range(len(source)):
        path = images / f"{row:06d}.png"  # nothing is lost, and the order of names is that of the rows
        if not path.exists():
            source.image(row).save(path)
    into = work / f"thingsvision-{name}"
    into.mkdir(exist_ok=True)
    child = [ROOT / "benchmarks" / "thingsvision_child.py", RESNET, images, into, 64, weights, "npy"]
    subprocess.run([python, *map(str, child)], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


if __name__ == "__main__":
    main()
