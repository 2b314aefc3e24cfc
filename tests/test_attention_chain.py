"""Every attention from training to the SVM: resumed to the bit, extracted, exported or refused, and explained."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from l2a_transfer.errors import BackendError, Interrupted
from l2a_transfer.evaluation.evaluate import evaluate
from l2a_transfer.explain.maps import explain_images
from l2a_transfer.export import export_onnx, relative_error
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.store.reader import read_features, read_maps
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.weights import read_card
from l2a_transfer.training.runs import run_training
from l2a_transfer.training.trainer import Trainer
from tests.conftest import memory_source
from tests.test_training import CPU, RECIPE, colours

pytestmark = pytest.mark.usefixtures("curves_drawn_once")

KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sparsemax": ("vgg-att2-concat-pc", {"normalizer": "sparsemax"}, {}),
    "entmax15": ("vgg-att2-indep-add", {"normalizer": "entmax15"}, {}),
    "sigmoid": ("vgg-att2-concat-pc", {"normalizer": "sigmoid"}, {}),
    "sigmoid-sum": ("vgg-att1-dp", {"normalizer": "sigmoid-sum"}, {}),
    "tvmax": ("vgg-att2-concat-pc", {"normalizer": "tvmax:0.1"}, {}),
    "reinforce": ("vgg-att2-concat-pc", {"selection": "hard"}, {"samples": 2, "baseline": "others"}),
    "gumbel": ("vgg-att2-concat-dp", {"selection": "hard"}, {"sampler": "gumbel-st", "temperature": 2.0}),
    "exact": ("vgg-att2-indep-pc", {"selection": "hard"}, {"sampler": "exact", "entropy_until": 0.5}),
    "top": ("vgg-att2-concat-pc", {"selection": "top:3"}, {"sampler": "gumbel-st"}),
    "random": ("vgg-att2-concat-uniform", {"selection": "random"}, {}),
    "pan": ("vgg-pan", {}, {}),
    "gap": ("vgg-gap", {}, {}),  # without maps
}
NOT_EXPORTED = {
    "tvmax": r"its normalizer tvmax:0\.1 is computed iteratively, for which ONNX has no operators",
    "random": "its positions are drawn from the pixels, which cannot be exported to ONNX",
}


QUICK = ("reinforce",)
"""In the default run; the others take as long and share most of their code with it."""


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in QUICK else [pytest.mark.slow]) for kind in KINDS]
)
def test_from_training_to_the_svm(kind: str, tmp_path: Path) -> None:
    architecture, options, settings = KINDS[kind]
    recipe = dataclasses.replace(RECIPE, epochs=2, resolutions=((0.0, 16),), **settings)
    config = ModelConfig(architecture, num_classes=4, width=1 / 32, **options)

    def trainer() -> Trainer:
        return Trainer(config, recipe, colours(32), placement=CPU)

    whole = run_training(trainer(), tmp_path / "whole", progress=False)
    cut = trainer()
    steps = iter([False, False, False, False, False, True])
    original = cut.run_epoch
    cut.run_epoch = lambda **options: original(**{**options, "stop": lambda: next(steps)})  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        run_training(cut, tmp_path / "cut", progress=False)
    resumed = run_training(trainer(), tmp_path / "cut", resume=True, progress=False)
    one, other = (load_file(result.weights) for result in (whole, resumed))
    assert {name: value.numpy().tobytes() for name, value in one.items()} == {
        name: value.numpy().tobytes() for name, value in other.items()
    }
    rows = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["train_loss"]) for row in rows)
    card = read_card(whole.weights)
    assert {key: getattr(card.config, key) for key in options} == options
    names = {"sampled", "expected", "soft"} if options.get("selection") == "hard" else set()
    assert card.metrics.keys() == {"test_accuracy", *(f"test_accuracy_{name}" for name in names)}

    source = memory_source()
    made = extract(source, whole.weights, tmp_path / "f.h5", attention=bool(config.maps), progress=False)
    features = read_features(made.path).features
    maps_read = read_maps(made.path) if config.maps else {}
    weights = {level: values.astype(np.float64) for level, values in maps_read.items()}
    assert list(weights) == list(config.map_levels)
    for spec, values in zip(config.maps, weights.values(), strict=True):
        sums = values.sum(axis=(1, 2))
        assert np.allclose(sums, 1, atol=2e-3) == (spec.kind != "gate")
        if spec.kind == "mask":
            assert set(np.unique(values)) == {0, 1}

    if kind in NOT_EXPORTED:
        with pytest.raises(BackendError, match=NOT_EXPORTED[kind]):
            export_onnx(whole.weights, tmp_path / "n.onnx")
        assert not (tmp_path / "n.onnx").exists()
    else:
        exported = export_onnx(whole.weights, tmp_path / "n.onnx")
        backend = open_backend(str(exported.path))
        pixels = np.stack([backend.preprocess.pixels(source.image(k)) for k in range(len(source))])
        assert relative_error(backend.features(pixels), features) < 1e-4

    (maps,) = explain_images(whole.weights, source.image(0), method="evidence", side=32)
    assert maps.completeness is not None
    assert maps.completeness < 5e-5
    (row,) = evaluate(made.path, c_grid=[1e-2]).rows
    assert row.dim == sum(config.feature_levels.values())
