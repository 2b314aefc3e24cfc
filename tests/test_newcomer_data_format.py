"""A data format from outside the package: one function, which `--data PREFIX:PATH` and `open_source` then take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from l2a_transfer.data.readers import open_source
from l2a_transfer.data.registry import FORMATS
from l2a_transfer.errors import ArgumentError, DataError, UnknownNameError
from l2a_transfer.features.store.reader import read_features
from tests.conftest import assert_fails, l2a, save_picture
from tests.newcomers import import_file, shown_file


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[None]:
    import_file(tmp_path, "toy_format", shown_file("A new data format"))
    yield
    FORMATS.remove("toy")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for k, name in enumerate(("a.png", "b.png", "c.png")):
        save_picture(tmp_path / "in" / name, k)
    path = tmp_path / "in" / "pairs.lst"
    path.write_text("b.png dog\na.png cat\nc.png dog\n")
    return path


@pytest.mark.usefixtures("toy")
def test_the_command_line_takes_its_prefix(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.h5"
    result = l2a("extract", "--model", "pixels", "--data", f"toy:{pairs}", "--out", out)
    assert result.exit_code == 0, result.output
    found = read_features(out)
    assert (found.ids, found.meta.classes, found.labels.tolist()) == (
        ("b.png", "a.png", "c.png"),
        ("cat", "dog"),
        [1, 0, 1],
    )
    result = l2a("extract", "--model", "pixels", "--data", pairs, "--out", out)
    assert_fails(result, 2, f"is a path, not the name of a data set; did you mean 'toy:{pairs}'?")
    assert "or toy:FILE." in l2a("datasets").stdout


@pytest.mark.usefixtures("toy")
def test_its_source_is_held_to_what_every_source_is(pairs: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^split_from can only be used with imagefolder:, wds: and parquet:; toy:"):
        open_source(f"toy:{pairs}", split_from="none")
    with pytest.raises(ArgumentError, match=r"needs a path after the colon, for example toy:pictures\.lst"):
        open_source("toy:")
    pairs.write_text("a.png cat\na.png dog\n")
    with pytest.raises(DataError, match=r"row 1: the id 'a\.png' appears twice"):
        open_source(f"toy:{pairs}")


def test_its_prefix_is_unknown_without_it(pairs: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"data set must be one of .*; got 'toy:"):
        open_source(f"toy:{pairs}")
