"""A backbone from outside the package: one file, which the command line and the library then take by its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2a_transfer.errors import BackendError, PluginError, UnknownNameError
from l2a_transfer.features.backends.registry import BACKENDS, REGISTERED_BACKENDS, open_backend, register_backend
from l2a_transfer.features.store.reader import read_features
from tests.conftest import assert_fails, l2a
from tests.newcomers import import_file, install, run_with, shown_file

CODE = shown_file("A new backbone")


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[None]:
    import_file(tmp_path, "toy_backbone", CODE)
    yield
    REGISTERED_BACKENDS.remove("toy")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures of 32 pixels: left half red, and all white."""
    half = np.zeros((32, 32, 3), dtype=np.uint8)
    half[:, :16, 0] = 200
    for name, pixels in (("half", half), ("white", np.full((32, 32, 3), 255, dtype=np.uint8))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / name / "1.png")
    return tmp_path / "photos"


HALF = [200, 0, 200, 0, 0, 0, 0, 0, 0, 0, 0, 0]
"""The features of 2 × 2 cells: red left and right above, left and right below, then green and blue."""


@pytest.mark.usefixtures("toy")
def test_the_command_line_takes_its_name(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.h5"
    arguments = ("extract", "--model", "toy:2", "--data", f"imagefolder:{photos}", "--out", out)
    result = l2a(*arguments)
    assert result.exit_code == 0, result.output
    found = read_features(out)
    np.testing.assert_array_equal(found.features, [HALF, [255] * 12])
    assert (found.meta.backend, found.meta.levels) == ("toy", (("grid", 0, 12),))
    assert l2a(*arguments, "--backend", "toy", "--resume").exit_code == 0
    result = l2a(*arguments, "--overwrite", "--tap", "ga-bn-relu")
    assert_fails(result, 1, "toy:2: toy has no such option; leave out --tap")
    assert_fails(l2a(*arguments, "--overwrite", "--backend", "torch"), 1, "runs in toy; torch accepts a bundled name")


@pytest.mark.usefixtures("toy")
def test_the_library_takes_its_name() -> None:
    assert tuple(BACKENDS)[:4] == ("auto", "torch", "onnxruntime", "pixels")
    assert tuple(BACKENDS)[-1] == "toy"
    backend = open_backend("toy:4")
    assert backend.features(np.zeros((0, 3, 32, 32), dtype=np.uint8)).shape == (0, 48)
    with pytest.raises(BackendError, match=r"^toy:4: toy has no such option; leave out `levels`$"):
        open_backend("toy:4", levels=["grid"])
    with pytest.raises(PluginError, match="'toy' is declared twice"):
        register_backend("toy", models="other", names=("other",))(lambda model: backend)


def test_its_name_is_unknown_without_it() -> None:
    assert "toy" not in BACKENDS
    with pytest.raises(UnknownNameError, match="toy:4"):
        open_backend("toy:4")


def test_an_installed_plugin_is_found_by_its_entry_point(photos: Path, tmp_path: Path) -> None:
    site = install(tmp_path / "site", "toy_backbone", CODE)
    out = tmp_path / "f.h5"
    done = run_with(site, "extract", "--model", "toy:2", "--data", f"imagefolder:{photos}", "--out", out)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read_features(out).features[0], HALF)


def test_a_plugin_that_cannot_be_imported_is_named(photos: Path, tmp_path: Path) -> None:
    site = install(tmp_path / "site", "toy_backbone", "import a_module_that_is_not_there")
    done = run_with(site, "extract", "--model", "pixels", "--data", f"imagefolder:{photos}", "--out", tmp_path / "f.h5")
    assert done.returncode == 1
    assert "Error: the plugin 'toy_backbone' (toy_backbone) cannot be loaded: ModuleNotFoundError" in done.stderr


def test_a_plugin_that_ends_the_program_is_no_success(photos: Path, tmp_path: Path) -> None:
    site = install(tmp_path / "site", "toy_backbone", "raise SystemExit(0)")
    done = run_with(site, "extract", "--model", "pixels", "--data", f"imagefolder:{photos}", "--out", tmp_path / "f.h5")
    assert done.returncode == 1
    assert "Error: the plugin 'toy_backbone' (toy_backbone) cannot be loaded: SystemExit: 0" in done.stderr
