"""Files that are replaced while they are read: what is reported is of one content, or the file is named and refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2a_transfer.errors import StoreError
from l2a_transfer.evaluation import evaluate
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.results import EvalConfig
from l2a_transfer.features.store import verify
from l2a_transfer.models import weights
from l2a_transfer.models.digest import file_sha256, network_sha256
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import Card, load_weights, save_weights
from tests.conftest import assert_fails, l2a
from tests.feature_files import blobs, feature_set, labels_of, save

LABELS = labels_of(3, 20)
ONE_C = EvalConfig(c_grid=(0.01,))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two feature files, and one with the second's rows in another order: its training rows stand where the second
    has its test rows."""
    first = save(tmp_path / "a.h5", feature_set(LABELS, blobs(LABELS, spread=1.0), model="a"))
    features, order = blobs(LABELS, spread=4.0), np.arange(len(LABELS))[::-1]
    own = feature_set(LABELS, features, model="b")
    second = save(tmp_path / "b.h5", own)
    turned = feature_set(
        LABELS[order], features[order], model="b", split=own.split[order], ids=tuple(own.ids[k] for k in order)
    )
    return first, second, save(tmp_path / "turned.h5", turned)


def moved(source: Path, target: Path) -> None:
    shutil.copy(source, target.with_suffix(".tmp"))
    os.replace(target.with_suffix(".tmp"), target)


def written_over(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def during(monkeypatch: pytest.MonkeyPatch, name: str, happens: Callable[[], None]) -> None:
    """Let something happen after the first call of a step of the evaluation."""
    real, calls = getattr(evaluate, name), []

    def step(*given: Any, **named: Any) -> Any:
        found = real(*given, **named)
        if not calls:
            happens()
        calls.append(name)
        return found

    monkeypatch.setattr(evaluate, name, step)


@pytest.mark.parametrize("replace", [moved, written_over])
@pytest.mark.parametrize("step", ["name_files", "measure_row"])
def test_a_feature_file_replaced_between_planning_and_measuring_is_named(
    step: str, replace: Callable[[Path, Path], None], files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The splits' row numbers were used on the other file: training rows were tested, and the exit code was 0."""
    first, second, turned = files
    during(monkeypatch, step, lambda: replace(turned, second))
    with pytest.raises(StoreError, match=r"b\.h5: was replaced by another file while it was read; start again"):
        evaluate_files([first, second], ONE_C)


def test_a_feature_file_written_over_while_it_is_measured_is_named(
    files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its open handle gives the new bytes, whose chunks have good checksums of their own."""
    _, second, turned = files
    during(monkeypatch, "measure_row", lambda: written_over(turned, second))
    with pytest.raises(StoreError, match=r"b\.h5: was replaced"):
        evaluate_files([second], ONE_C)


def test_a_feature_file_replaced_by_the_same_bytes_is_read_on(
    files: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = files
    expected = [row.accuracy for row in evaluate_files([first, second], ONE_C).rows]
    shutil.copy(second, tmp_path / "copy")
    during(monkeypatch, "measure_row", lambda: moved(tmp_path / "copy", second))
    assert [row.accuracy for row in evaluate_files([first, second], ONE_C).rows] == expected


def test_a_feature_file_that_goes_away_is_named(
    files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = files
    during(monkeypatch, "measure_row", second.unlink)
    with pytest.raises(StoreError, match=r"b\.h5: no such file"):
        evaluate_files([first, second], ONE_C)


def test_a_feature_file_replaced_between_its_description_and_its_check_is_named(
    files: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`inspect --verify` said "checksums ok" of one content beside the card and rows of another."""
    first, second, _ = files
    real = verify.verify_features
    monkeypatch.setattr(verify, "verify_features", lambda path: real(second))
    assert_fails(l2a("inspect", first, "--verify"), 1, f"{first}: was replaced by another file while it was read")


def test_card_and_tensors_of_weights_are_of_one_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card was read, and then the file was opened again for the tensors, whose digest nobody had checked."""
    path, other = tmp_path / "w.safetensors", tmp_path / "other.safetensors"
    for target, seed in ((path, 0), (other, 1)):
        save_weights(*load_model("untrained:vgg-att1-pc@0.0625", seed=seed), target)
    before, content = network_sha256(load_weights(path)[0]), path.read_bytes()
    real = weights._checked_card

    def read_then_replaced(*given: Any, **named: Any) -> Card:
        card = real(*given, **named)
        shutil.copy(other, path)
        return card

    monkeypatch.setattr(weights, "_checked_card", read_then_replaced)
    network, card = load_weights(path)
    assert (card.training["seed"], network_sha256(network)) == (0, before)
    path.write_bytes(content)
    assert file_sha256(path) == before
    path.write_bytes(content)
    assert_fails(l2a("inspect", path, "--verify"), 1, f"{path}: was replaced by another file while it was read")
