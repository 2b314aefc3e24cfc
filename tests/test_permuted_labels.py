"""Networks trained on permuted labels: they learn by heart, cannot be mistaken, and `sanity` compares with them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from l2a_transfer.data.permuted import PermutedLabels
from l2a_transfer.data.sources import Subset
from l2a_transfer.errors import BackendError, TrainingError
from l2a_transfer.explain.checks.results import LABELS, PERMUTED, read_sanity
from l2a_transfer.explain.checks.sanity import check_sanity
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import read_card
from l2a_transfer.training.accuracy import evaluate
from l2a_transfer.training.data import read_pixels
from l2a_transfer.training.permuted_labels import by_heart, train_on_permuted_labels, with_permuted_labels
from l2a_transfer.training.recipe import RECIPES
from tests.conftest import assert_fails, l2a, memory_source, save_picture
from tests.test_sanity import pictures

MODEL = "untrained:vgg-gap@0.0625"


def test_labels_are_permuted_once_and_pictures_stay() -> None:
    source = memory_source(rows=40)
    one, again, other = (PermutedLabels.of(source, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(np.sort(one.labels), np.sort(source.labels))  # as many of each class
    np.testing.assert_array_equal(one.labels, again.labels)
    assert (one.labels != source.labels).mean() > 0.5
    assert (one.labels != other.labels).any()
    assert one.name == "memory-permuted-labels"
    assert one.ids == source.ids
    np.testing.assert_array_equal(np.asarray(one.image(7)), source.pictures[7])
    assert one.fingerprint() == again.fingerprint()
    assert len({source.fingerprint(), one.fingerprint(), other.fingerprint()}) == 3
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(one)).labels, one.labels)  # noqa: S301


def test_the_training_images_alone_are_trained_on_and_measured() -> None:
    source = memory_source(rows=40)
    data = with_permuted_labels(source, seed=3)
    assert data.test_metric == "train_accuracy"
    assert data.permuted_labels == 3
    assert data.train is data.test
    assert data.train.ids == tuple(name for k, name in enumerate(source.ids) if source.split[k] == 0)
    size = load_model(MODEL)[1].preprocess
    np.testing.assert_array_equal(
        read_pixels(data.train, size), read_pixels(Subset(source, np.flatnonzero(source.split == 0)), size)
    )
    with pytest.raises(TrainingError, match="has no split called train; its splits are left, test"):
        with_permuted_labels(type(source)(**{**vars(source), "splits": ("left", "test")}))


def test_a_recipe_to_learn_by_heart_has_nothing_that_hinders_it() -> None:
    recipe = by_heart(RECIPES["fast"], epochs=50)
    assert (recipe.epochs, recipe.lr, recipe.resolutions) == (50, RECIPES["fast"].lr, RECIPES["fast"].resolutions)
    off = (recipe.crop_pad, recipe.cutout, recipe.dropout, recipe.weight_decay, recipe.label_smoothing, recipe.flip)
    assert off == (0, 0, 0.0, 0.0, 0.0, False)
    assert by_heart(RECIPES["paper"]).epochs == 300


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "test"):
        for k in range(8):
            save_picture(root / split / "ab"[k % 2] / f"{k}.jpg", seed=k)
    return root


@pytest.mark.slow
def test_the_verb_trains_compares_and_goes_on(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As of a network that was trained on these photos.
    train = ("train", "--model", "vgg-gap", "--width", "0.0625", "--data", f"imagefolder:{photos}", "--out")
    done = l2a("-q", *train, tmp_path / "run", "--epochs", "1", "--batch-size", "4", "--set", "resolutions=0:16")
    assert done.exit_code == 0, done.output
    weights = next((tmp_path / "run").glob("*.safetensors"))
    data = ("--data", f"imagefolder:{photos}", "--method", "evidence")
    compare = ("-q", "sanity", "--model", weights, "--seeds", "1", "--no-independent", *data, "--labels")
    check = (*compare, "train", "--labels-data", f"imagefolder:{photos}")
    out = tmp_path / "out"
    result = l2a(*check, "--epochs", "2", "--out", out)
    assert result.exit_code == 0, result.output
    (made,) = (out / "permuted-labels").glob("*.safetensors")
    name = weights.stem.split(".")[1].replace("-w006", "-permuted-labels-w006")
    assert made.name == f"vgg-gap.{name}.safetensors"
    card = read_card(made)
    assert card.training["permuted_labels"] == 0
    assert card.training["split"] == "train"
    assert card.training["data"].endswith("-permuted-labels")
    assert card.training["recipe"]["epochs"] == 2
    assert card.training["n"] == 8

    found = read_sanity(out / "sanity.json")
    assert found.orders == ("cascade", LABELS)
    rows = found.rows_of(order=LABELS)
    assert {row.part for row in rows} == {PERMUTED}
    assert {row.label: row.unchanged for row in rows} == {"evidence L3": False, "sobel": True}
    assert found.labels is not None
    assert found.labels.name == card.name
    accuracy = found.labels.train_accuracy
    assert f"train_accuracy {accuracy:.4f} on permuted labels (n = 8)" in result.stdout
    assert f"{100 * accuracy:.1f} % on these labels" in (out / "sanity.html").read_text()
    network, _ = load_model(made)
    permuted = with_permuted_labels(permuted_source(photos))
    assert evaluate(network, permuted.train, card.preprocess) == accuracy
    assert "permuted_labels" in l2a("inspect", made).stdout

    # Of a part of the images.
    few = l2a(*check, "--epochs", "1", "--labels-limit", "4", "--out", tmp_path / "few")
    assert "on permuted labels (n = 4)" in few.stdout
    # A second call takes the finished run; the same weights can be named.
    monkeypatch.setattr("l2a_transfer.training.runs._run", lambda *_, **__: pytest.fail("trained again"))
    assert l2a(*check, "--epochs", "2", "--out", out, "--overwrite").exit_code == 0
    named = l2a(*compare, made, "--out", tmp_path / "named")
    assert named.exit_code == 0, named.output
    assert read_sanity(tmp_path / "named" / "sanity.json") == found
    # Other options are another run, which is not mixed with this one.
    assert_fails(l2a(*check, "--epochs", "3", "--out", out, "--overwrite"), 1, "permuted-labels")


def permuted_source(photos: Path) -> object:
    from l2a_transfer.data.readers import open_source

    return open_source(f"imagefolder:{photos}")


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, card = load_model(MODEL)
    source = memory_source(rows=40, side=16)
    options = {"epochs": 2, "device": "cpu"}
    whole = train_on_permuted_labels(card, source, tmp_path / "whole", **options)
    from l2a_transfer.training.trainer import Trainer

    run_epoch = Trainer.run_epoch

    def stopped(self: Trainer, **given: object) -> object:
        if self.epoch == 1:
            raise KeyboardInterrupt
        return run_epoch(self, **given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_on_permuted_labels(card, source, tmp_path / "parts", **options)
    assert (tmp_path / "parts" / "checkpoint.pt").exists()
    parts = train_on_permuted_labels(card, source, tmp_path / "parts", **options)
    first, second = (load_model(found.weights)[0].state_dict() for found in (whole, parts))
    assert all((first[key] == second[key]).all() for key in first)
    assert parts.metrics == whole.metrics


def test_only_a_network_of_the_same_config_is_compared(tmp_path: Path) -> None:
    _, card = load_model(MODEL)
    made = train_on_permuted_labels(card, memory_source(rows=40, side=16), tmp_path / "run", epochs=1, device="cpu")
    other, of = load_model(made.weights)  # four classes instead of ten
    with pytest.raises(BackendError, match=r"is vgg-gap at width 0\.0625 with 4 classes, unlike the network"):
        check_sanity(*load_model(MODEL), pictures(), methods=["evidence"], labels=(other, of))
    found = check_sanity(other, of, pictures(), methods=["evidence"], orders=[], labels=(other, of))
    assert all(row.unchanged and row.order == LABELS for row in found.rows)
    assert found.seeds == ()
    assert json.loads(json.dumps(found.document()))["labels"]["seed"] == 0


def test_a_data_set_of_other_classes_is_refused(tmp_path: Path) -> None:
    _, card = load_model("vgg-att2-concat-pc.cifar10-w025")
    with pytest.raises(TrainingError, match=r"memory has 4 classes, but vgg-att2-concat-pc.* was trained on 10"):
        train_on_permuted_labels(card, memory_source(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
