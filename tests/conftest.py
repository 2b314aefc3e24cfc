"""Small things that several test modules need: a source in memory, a tiny network, the command line."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import settings
from numpy.typing import NDArray
from PIL import EpsImagePlugin, Image

from l2a_transfer.cli.main import main
from l2a_transfer.threads import prepare_threads

if TYPE_CHECKING:
    from torch import Tensor

    from l2a_transfer.models.interface import Network

TINY = "untrained:vgg-att2-concat-pc@0.0625"

settings.register_profile("quick", max_examples=40, deadline=None)
settings.register_profile("full", max_examples=1000, deadline=None)
settings.load_profile("quick")  # `make slow` asks for the other by --hypothesis-profile


def pytest_configure(config: pytest.Config) -> None:
    """Let each worker of pytest-xdist, and what it starts, compute with one thread: the workers share the cores.

    Threads that wait sleep soon, as in the command line.
    """
    prepare_threads()
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class MemorySource:
    """Pictures in an array, (N, H, W, 3) uint8, with labels; half train, half test."""

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int32]
    classes: tuple[str, ...]
    name: str = "memory"
    splits: tuple[str, ...] = ("train", "test")

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"{i:05d}" for i in range(len(self.pictures)))

    @property
    def split(self) -> NDArray[np.uint8]:
        return (np.arange(len(self.pictures)) % 2).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.pictures)

    def image(self, row: int) -> Image.Image:
        return Image.fromarray(self.pictures[row])

    def fingerprint(self) -> str:
        return hashlib.sha256(self.pictures.tobytes() + self.labels.tobytes()).hexdigest()


def script(name: str) -> ModuleType:
    """A module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def memory_source(rows: int = 40, side: int = 32, classes: int = 4, seed: int = 0) -> MemorySource:
    rng = np.random.default_rng(seed)
    return MemorySource(
        rng.integers(0, 256, (rows, side, side, 3), dtype=np.uint8),
        (np.arange(rows) // 2 % classes).astype(np.int32),
        tuple(f"class {i}" for i in range(classes)),
    )


@pytest.fixture
def source() -> MemorySource:
    return memory_source()


def with_partners(model: Network, images: Tensor) -> tuple[Tensor, ...]:
    """What a network takes: the images, and where it attends each with others, those that follow it."""
    import torch

    others = [images.roll(-step, dims=0) for step in range(1, 1 + model.partners)]
    return (images, torch.stack(others, dim=1)) if others else (images,)


def l2a(*arguments: str | Path) -> Result:
    """`l2a-transfer ARGUMENTS` in this process; stdout and stderr apart, exceptions turned into exit codes."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def assert_fails(result: Result, code: int, *words: str) -> None:
    """The command ended with `code`, said each of `words`, and showed no traceback."""
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    for word in words:
        assert word in result.stderr, (word, result.stderr)
    assert "Traceback" not in result.output


def save_picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 48)) -> Path:
    """A JPEG of smooth random colours, (W, H) pixels."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
    return path


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once Ghostscript was started."""
    started = tmp_path / "started"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{started}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return started


@pytest.fixture(scope="session")
def exported_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of the tiny network, to be read alone."""
    from l2a_transfer.export import export_onnx
    from l2a_transfer.models.loading import load_model

    path = export_onnx(load_model(TINY), tmp_path_factory.mktemp("onnx") / "tiny.onnx").path
    path.chmod(0o444)
    return path


CURVES: dict[object, bytes] = {}


@pytest.fixture
def curves_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the learning curve once for each kind of history; it takes longer than the training of a tiny network."""
    from l2a_transfer.training import runs

    draw: Callable[..., bytes] = runs.learning_curve

    def drawn(rows: Sequence[dict[str, Any]], title: str) -> bytes:
        kind = tuple((row["epoch"], row["resolution"], *row) for row in rows)
        if kind not in CURVES:
            CURVES[kind] = draw(rows, title)
        return CURVES[kind]

    monkeypatch.setattr(runs, "learning_curve", drawn)
