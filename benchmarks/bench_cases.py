"""The cases of `bench.py`, run by a process of one tree: `PYTHONPATH` determines which package is measured.

The first line of the output is the path of the package. Each request is a line of JSON, `{"case": NAME, "folder":
FOLDER, "tiny": BOOL}`, and its answer `{"seconds": S}` or `{"error": TEXT}`. The first request for a case prepares it
and runs it once before it is timed. Cases use only features that earlier versions also have, so that these can be
measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import l2a_transfer

MODEL = "vgg-att2-concat-pc.cifar10-w025"
Run = Callable[[], object]


def forward(folder: Path, *, tiny: bool) -> Run:
    """Features of 64 pictures of 32 × 32 pixels, twice, with the forward pass used for extraction."""
    import numpy as np

    backend = l2a_transfer.open_backend(MODEL, device="cpu")
    images_u8 = np.random.default_rng(0).integers(0, 256, (4 if tiny else 64, 3, 32, 32), dtype=np.uint8)
    return lambda: [backend.features(images_u8) for _ in range(1 if tiny else 2)]


def train_step(folder: Path, *, tiny: bool) -> Run:
    """An epoch of two steps with 32 pictures each, at width 0.25."""
    import numpy as np

    from l2a_transfer.data.sources import join_splits
    from l2a_transfer.models.config import ModelConfig
    from l2a_transfer.training.data import TrainingData
    from l2a_transfer.training.processes import Placement
    from l2a_transfer.training.recipe import TrainConfig
    from l2a_transfer.training.trainer import Trainer

    B = 8 if tiny else 32
    pixels = np.random.default_rng(0).integers(0, 256, (2 * B, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(2 * B, dtype=np.int32) % 4
    data = TrainingData.from_source(join_splits("made", "abcd", {"train": (pixels, labels), "test": (pixels, labels)}))
    recipe = TrainConfig("bench", epochs=10_000, batch_size=B, lr=0.01, dropout=1.0, resolutions=((0.0, 32),))
    config = ModelConfig("vgg-att2-concat-pc", num_classes=4, width=1 / 32 if tiny else 0.25)
    trainer = Trainer(config, recipe, data, placement=Placement("cpu", "fp32"))
    return lambda: trainer.run_epoch(progress=False)


def extract(folder: Path, *, tiny: bool) -> Run:
    """64 pictures per split of caltech-mini to a feature file, decoded in the same process."""
    source = l2a_transfer.open_source("caltech-mini", limit=4 if tiny else 64)
    backend = l2a_transfer.open_backend(MODEL, device="cpu")
    out = folder / f"extracted-{os.getpid()}.h5"
    return lambda: l2a_transfer.extract(source, backend, out, workers=0, overwrite=True, progress=False)


def made_rows(*, tiny: bool, columns: int) -> Any:
    """Features and labels that a linear classifier can partly separate."""
    import numpy as np

    n, classes = (60, 3) if tiny else (600, 10)
    random, y = np.random.default_rng(0), np.arange(n) % classes
    X = random.normal(size=(n, columns)).astype(np.float32)
    X[np.arange(n), y] += 2
    return X, y


def svm_grid(folder: Path, *, tiny: bool) -> Run:
    """Linear SVMs of ten classes, three folds and four values of C, on 600 rows of 256 columns."""
    X, y = made_rows(tiny=tiny, columns=16 if tiny else 256)
    return lambda: l2a_transfer.LinearSVCPath(Cs=(1e-4, 1e-3, 1e-2, 1e-1), cv=3, device="cpu").fit(X, y)


def svm_eval(folder: Path, *, tiny: bool) -> Run:
    """`svm-eval` of one file with a report: 600 rows of 64 columns, two draws."""
    from l2a_transfer.cli.main import main

    X, y = made_rows(tiny=tiny, columns=16 if tiny else 64)
    own = folder / f"evaluated-{os.getpid()}"
    features = l2a_transfer.write_features(X, y, own / "features.h5", name="made").path
    given = ["--protocol", "stratified", "--draws", "2", "--c-grid", "0.001,0.01", "--out", str(own / "report")]

    def run() -> None:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            main(["svm-eval", str(features), *given, "--overwrite"], standalone_mode=False)

    return run


def listing(folder: Path, *, tiny: bool) -> Run:
    """A folder of 20,000 files in 20 classes, listed and fingerprinted."""
    return lambda: l2a_transfer.open_source(f"imagefolder:{folder / 'listed'}").fingerprint()


CASES: dict[str, Callable[..., Run]] = {
    "forward": forward,
    "training step": train_step,
    "extraction": extract,
    "SVM grid": svm_grid,
    "svm-eval": svm_eval,
    "listing": listing,
}


def main() -> None:
    ready: dict[str, Run] = {}
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps({"package": str(Path(l2a_transfer.__file__).resolve())}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if asked["case"] not in ready:
                ready[asked["case"]] = CASES[asked["case"]](Path(asked["folder"]), tiny=asked["tiny"])
                ready[asked["case"]]()
            began = time.perf_counter()
            ready[asked["case"]]()
            answer: dict[str, Any] = {"seconds": time.perf_counter() - began}
        except (Exception, SystemExit) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
