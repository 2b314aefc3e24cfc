"""Data in memory: arrays, labels and torch's data sets become image sources, and what is ambiguous is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from l2a_transfer import open_source
from l2a_transfer.errors import ArgumentError, DataError, UnknownNameError


def pictures(n: int = 6, side: int = 8, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


class Pets(Dataset[tuple[Image.Image, int]]):
    """As torchvision's data sets are: items of Pillow images and labels, the names of the classes beside them."""

    classes: tuple[str, ...] = ("cat", "dog")

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        if row >= len(self.images):
            raise IndexError(row)
        self.read.append(row)
        return Image.fromarray(self.images[row]), row % 2


class WithTargets(Pets):
    @property
    def targets(self) -> list[int]:
        return [row % 2 for row in range(len(self.images))]


def read(data: Any) -> list[Image.Image]:
    source = open_source(data)
    return [source.image(row) for row in range(len(source))]


def test_an_array_is_a_source_without_labels() -> None:
    images = pictures()
    source = open_source(images)
    assert (source.name, source.classes, source.splits, len(source)) == ("memory", (), ("all",), 6)
    assert source.labels.tolist() == [-1] * 6
    np.testing.assert_array_equal(np.asarray(source.image(3)), images[3])
    grey = open_source(images[..., 0]).image(1)
    assert grey.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(grey)[..., 2], images[1, ..., 0])


def test_labels_are_numbers_or_names() -> None:
    numbers = open_source((pictures(4), [2, 0, -1, 2]))
    assert (numbers.classes, numbers.labels.tolist()) == (("0", "1", "2"), [2, 0, -1, 2])
    named = open_source((pictures(3), np.array(["dog", "cat", "dog"])), name="pets")
    assert (named.name, named.classes, named.labels.tolist()) == ("pets", ("cat", "dog"), [1, 0, 1])
    assert numbers.labels.dtype == named.labels.dtype == np.int32


def test_a_torch_data_set_gives_its_pictures_labels_and_classes() -> None:
    images = pictures()
    source = open_source(Pets(images))
    assert (source.classes, source.labels.tolist()) == (("cat", "dog"), [0, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(np.asarray(source.image(5)), images[5])
    part = open_source(Subset(Pets(images), [5, 2]))
    assert (part.classes, part.labels.tolist()) == (("0", "1"), [1, 0])
    np.testing.assert_array_equal(np.asarray(part.image(0)), images[5])


def test_targets_spare_the_reading_of_every_picture() -> None:
    known, unknown = WithTargets(pictures()), Pets(pictures())
    assert open_source(known).labels.tolist() == open_source(unknown).labels.tolist()
    assert set(known.read) == {0}
    assert set(unknown.read) == set(range(6))


def test_tensors_have_their_channels_first() -> None:
    images = pictures()
    tensors = TensorDataset(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.arange(6) % 3)
    source = open_source(tensors)
    assert (source.classes, source.labels.tolist()) == (("0", "1", "2"), [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(np.asarray(source.image(4)), images[4])


def test_splits_are_named_by_a_mapping() -> None:
    train, test = pictures(4), pictures(2, seed=1)
    arrays = open_source({"train": (train, [0, 1, 0, 1]), "test": (test, [1, 0])})
    datasets = open_source({"train": Pets(train), "test": Pets(test)})
    for source in (arrays, datasets):
        assert (source.splits, source.split.tolist()) == (("train", "test"), [0, 0, 0, 0, 1, 1])
        assert source.ids == ("train/00000", "train/00001", "train/00002", "train/00003", "test/00000", "test/00001")
        np.testing.assert_array_equal(np.asarray(source.image(5)), test[1])
        np.testing.assert_array_equal(np.asarray(source.image(0)), train[0])
    only = open_source({"train": Pets(train), "test": Pets(test)}, split="test")
    np.testing.assert_array_equal(np.asarray(only.image(0)), test[0])


def test_the_fingerprint_is_of_pictures_and_labels() -> None:
    images = pictures()
    changed = images.copy()
    changed[5, 7, 7, 2] ^= 1
    for make in (lambda x: (x, [0, 1] * 3), Pets):
        one, same, other = (open_source(make(x)).fingerprint() for x in (images, images.copy(), changed))
        assert one == same != other
    assert open_source((images, [0] * 6)).fingerprint() != open_source((images, [0] * 5 + [1])).fingerprint()


def test_a_source_is_taken_as_it_is() -> None:
    source = open_source("digits", limit=30)
    assert len(source) == 30
    assert len(open_source(source, limit=10)) == 10
    assert open_source(source) is source


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (pictures() / 255, TypeError, r"uint8 0…255.*got float64.*np\.rint\(255 \* x\)"),
        (pictures().transpose(0, 3, 1, 2), ValueError, r"channels come last: x\.transpose\(0, 2, 3, 1\)"),
        (pictures()[0], ValueError, r"for a single image, use x\[None\]"),
        ((pictures(3), [0, 1]), DataError, "labels must be 3 integers or names"),
        ((pictures(3), [0.5, 1, 2]), DataError, "labels must be 3 integers or names"),
        ((pictures(3), [0, -2, 1]), DataError, "labels must be −1 or between 0 and 1"),
        (TensorDataset(torch.zeros(3, 3, 8, 8), torch.zeros(3, dtype=torch.long)), DataError, "without a transform"),
        ({"train": (pictures(2), [0, 1]), "test": (pictures(2), ["a", "b"])}, DataError, "names in all of them"),
        (7, TypeError, "data must be a data set's name"),
        ({}, TypeError, "data must be a data set's name"),
        ([pictures(1)[0], "a.jpg"], DataError, "must be a Pillow image"),
    ],
)
def test_what_is_not_pictures_is_refused(data: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read(data)


def test_options_of_files_are_refused_for_data_in_memory_and_the_other_way_round() -> None:
    with pytest.raises(ArgumentError, match="can only be used with data on disk"):
        open_source(pictures(), download=True)
    with pytest.raises(ArgumentError, match="name can only be used with data in memory"):
        open_source("digits", name="mine")
    with pytest.raises(UnknownNameError, match="split of memory must be one of all"):
        open_source(pictures(), split="test")
