"""Pictures that are needed several times are decoded once."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from l2a_transfer.data import torchvision_files
from l2a_transfer.data.torchvision_files import PcamFile
from l2a_transfer.evaluation import tested as tested_module
from l2a_transfer.evaluation.faithfulness import evaluate_faithfulness
from l2a_transfer.evaluation.faithfulness_results import FaithfulnessConfig
from l2a_transfer.evaluation.robustness import evaluate_robustness
from l2a_transfer.evaluation.robustness_results import RobustnessConfig
from l2a_transfer.evaluation.tested import SharedImages
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Network
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import Card
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.training import data as data_module
from l2a_transfer.training.accuracy import measure
from l2a_transfer.training.data import TrainingData, read_pixels
from l2a_transfer.training.processes import Placement
from l2a_transfer.training.runs import run_training, train_seeds
from tests.conftest import TINY, MemorySource, memory_source
from tests.test_training import new_trainer


class Counted(MemorySource):
    """Notes how often each picture is decoded."""

    decoded: Counter[int]

    def image(self, row: int) -> Image.Image:
        self.decoded[row] += 1
        return super().image(row)


def counted(rows: int = 40) -> tuple[TrainingData, Counter[int]]:
    """Data whose pictures are decoded, and how often each was: even rows train, odd rows test."""
    whole = memory_source(rows)
    source = Counted(whole.pictures, whole.labels, whole.classes)
    object.__setattr__(source, "decoded", Counter())
    return TrainingData.from_source(source), source.decoded


def times(decoded: Counter[int], *, odd: bool) -> set[int]:
    return {decoded[row] for row in range(int(odd), 40, 2)}


def test_measuring_after_every_epoch_decodes_each_picture_once(tmp_path: Path) -> None:
    data, decoded = counted()
    run_training(new_trainer(data, epochs=2, batch_size=8), tmp_path, eval_every=1, progress=False)
    assert times(decoded, odd=False) == times(decoded, odd=True) == {1}


def test_seeds_share_what_was_decoded(tmp_path: Path) -> None:
    data, decoded = counted()
    train_seeds(lambda seed: new_trainer(data, seed=seed, epochs=1, batch_size=8), tmp_path, [0, 1, 2], progress=False)
    assert times(decoded, odd=False) == {1}
    assert times(decoded, odd=True) == {2}  # the first time streamed, the second time kept


def test_a_network_that_is_measured_in_several_ways_decodes_each_picture_once() -> None:
    data, decoded = counted()
    network = build_model(ModelConfig("vgg-att2-concat-pc", num_classes=4, width=1 / 32, selection="hard"))
    found = measure(network, data, Preprocess(32), workers=0)
    assert len(found) > 1
    assert times(decoded, odd=True) == {1}


def test_where_memory_is_short_test_pictures_are_streamed_with_the_same_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_model(ModelConfig("vgg-att2-concat-pc", num_classes=4, width=1 / 32, selection="hard"))
    data, _ = counted()
    kept = measure(network, data, Preprocess(32), workers=0)
    data, decoded = counted()
    monkeypatch.setattr(data_module, "usable_memory", lambda: 4 * 20 * 3 * 32 * 32 - 1)
    assert measure(network, data, Preprocess(32), workers=0) == kept
    assert times(decoded, odd=True) == {len(kept)}
    monkeypatch.setattr(data_module, "usable_memory", lambda: 4 * 20 * 3 * 32 * 32)
    assert data.test_pixels(Preprocess(32)) is not None


def test_other_pictures_and_sizes_share_nothing() -> None:
    data, decoded = counted()
    data.train_pixels(Preprocess(32), torch.device("cpu"), Placement("cpu"))
    assert data.test_pixels(Preprocess(16), again=False) is None
    assert data.holdout(4)._kept == {}
    other = data.test_pixels(Preprocess(32))
    assert other is not None
    assert other.shape == (20, 3, 32, 32)
    assert times(decoded, odd=True) == {1}


@pytest.fixture
def networks() -> list[tuple[Network, Card]]:
    """Three networks, of which the last takes larger pictures."""
    found = []
    for seed, size in ((0, 32), (1, 32), (2, 48)):
        network, card = load_model(TINY, seed=seed)
        preprocess = Preprocess(size, mean=(0.1 * seed, 0.5, 0.5))  # which decides no pixel
        classes = ("class 0", "class 1", "class 2", "class 3", *"efghij")
        found.append((network, dataclasses.replace(card, name=f"net-{seed}", classes=classes, preprocess=preprocess)))
    return found


def images_of(networks: list[tuple[Network, Card]], source: Any, batch_size: int = 8) -> list[Any]:
    """What each network is given, one after the other."""
    images = SharedImages(source, [card.preprocess for _, card in networks])
    device = torch.device("cpu")
    return [
        torch.cat([own for own, _ in images.batches(card.preprocess, device=device, batch_size=batch_size)])
        for _, card in networks
    ]


def test_networks_that_take_pictures_alike_share_what_was_decoded(networks: list[tuple[Network, Card]]) -> None:
    data, decoded = counted()
    first, second, larger = images_of(networks, data.test)
    assert times(decoded, odd=True) == {2}
    assert torch.equal(first, second)
    assert larger.shape == (20, 3, 48, 48)
    expected = read_pixels(data.test, Preprocess(32), workers=0)
    np.testing.assert_array_equal(first.numpy(), expected)


def test_where_memory_is_short_each_network_has_them_decoded(
    networks: list[tuple[Network, Card]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tested_module, "usable_memory", lambda: 1000)
    data, decoded = counted()
    first, second, _ = images_of(networks, data.test)
    assert times(decoded, odd=True) == {3}
    assert torch.equal(first, second)


def test_robustness_and_faithfulness_decode_pictures_once(networks: list[tuple[Network, Card]]) -> None:
    data, decoded = counted()
    robustness = RobustnessConfig(epsilon=(1,), attack=("fgsm",), batch_size=8)
    evaluate_robustness(networks[:2], data.test, robustness)
    assert times(decoded, odd=True) == {1}
    faithfulness = FaithfulnessConfig(method=("attention",), target="predicted", steps=2, batch_size=8)
    evaluate_faithfulness(networks[:2], data.test, faithfulness)
    assert times(decoded, odd=True) == {2}


def test_pcam_unpacks_a_chunk_once_and_opens_its_file_once_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.h5"
    images = np.random.default_rng(0).integers(0, 256, (12, 96, 96, 3), dtype=np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=images, chunks=(6, 96, 96, 3), compression="gzip")
    opened: list[dict[str, Any]] = []
    real = h5py.File

    def noted(path: Path, **options: Any) -> Any:
        opened.append(options)
        return real(path, **options)

    monkeypatch.setattr(torchvision_files.h5py, "File", noted)
    split = PcamFile(path)
    for row in (0, 1, 2, 7, 3):
        np.testing.assert_array_equal(split.picture(row), images[row])
    assert len(opened) == 2  # to look at its chunks, and to read
    monkeypatch.setattr("os.getpid", lambda: -1)  # as after a fork
    np.testing.assert_array_equal(split.picture(11), images[11])
    assert len(opened) == 4
