"""Compiling an extraction: when it is done, what is recorded, and that the bytes do not depend on interruptions."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from l2a_transfer import compiling
from l2a_transfer.errors import BackendError, OutputExistsError
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.features.extraction import plan as plan_module
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.store.reader import read_features, read_meta
from tests.conftest import TINY, MemorySource, memory_source


class Stopping(MemorySource):
    """A source whose pictures from row 12 on stop the extraction."""

    def image(self, row: int) -> Image.Image:
        if row >= 12:
            raise RuntimeError("stopped")
        return super().image(row)


def stopping(rows: int) -> Stopping:
    whole = memory_source(rows)
    return Stopping(whole.pictures, whole.labels, whole.classes)


class Compiler:
    """In place of torch.compile: keeps the sizes of the batches that run through compiled code."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        assert options == {"dynamic": False, "options": {"freezing": True}}

        def run(images: torch.Tensor, *others: Any) -> Any:
            self.batches.append(len(images))
            return function(images, *others)

        return run


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    found = Compiler()
    monkeypatch.setattr(torch, "compile", found)
    monkeypatch.setattr(compiling, "can_compile", lambda: True)
    monkeypatch.setenv(compiling.CACHE, "/somewhere/of/the/user")
    return found


def form_of(path: Path) -> str:
    found: str = read_meta(path)[0].fingerprint["form"]
    return found


def test_only_whole_batches_are_compiled(compiler: Compiler, tmp_path: Path) -> None:
    source, backend = memory_source(21), open_backend(TINY, device="cpu")
    extract(source, backend, tmp_path / "on.h5", batch_size=9, compile=True, progress=False)
    assert compiler.batches == [9, 9]
    assert form_of(tmp_path / "on.h5") == "folded, compiled"
    extract(source, backend, tmp_path / "off.h5", batch_size=9, compile=False, progress=False)
    assert compiler.batches == [9, 9]
    assert form_of(tmp_path / "off.h5") == "folded"
    np.testing.assert_array_equal(
        read_features(tmp_path / "on.h5").features[:], read_features(tmp_path / "off.h5").features[:]
    )


def test_a_form_is_not_mixed_with_another(compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "SHARD_ROWS", 8)
    source, out = memory_source(20), tmp_path / "f.h5"
    with pytest.raises(RuntimeError, match="stopped"):
        extract(stopping(20), TINY, out, batch_size=4, workers=0, compile=True, progress=False)
    with pytest.raises(OutputExistsError, match="form of the network"):
        extract(source, TINY, out, batch_size=4, workers=0, progress=False)
    extract(source, TINY, out, batch_size=4, workers=0, compile=True, progress=False)
    assert set(compiler.batches) == {4}
    with pytest.raises(OutputExistsError, match="form of the network"):
        extract(source, TINY, out, batch_size=4, resume=True, progress=False)
    assert extract(source, TINY, out, batch_size=4, compile=True, resume=True, progress=False).computed == 0


def test_what_cannot_be_compiled_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="pixels networks are not compiled"):
        extract(memory_source(4), "pixels", tmp_path / "f.h5", compile=True, progress=False)
    monkeypatch.setattr(compiling, "can_compile", lambda: False)
    with pytest.raises(BackendError, match=r"needs a C\+\+ compiler"):
        extract(memory_source(4), TINY, tmp_path / "f.h5", compile=True, progress=False)
    assert not (tmp_path / "f.h5").exists()


def test_a_compiler_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not compiling.can_compile()
    (tmp_path / "clang++").touch(mode=0o755)
    assert compiling.can_compile()
    monkeypatch.setenv("CXX", "icpx")
    assert not compiling.can_compile()


@pytest.mark.parametrize("default", ["", "torchinductor_someone"])
def test_compiled_code_is_not_read_from_a_shared_folder(
    default: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compiling, "can_compile", lambda: True)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(compiling.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(compiling.CACHE, str(tmp_path / default) if default else "")
    registered: list[str] = []
    monkeypatch.setattr(compiling.atexit, "register", lambda remove, path, **options: registered.append(path))
    compiling.compiled(len, "cpu")
    own = Path(os.environ[compiling.CACHE])
    assert own.name.startswith("l2a-transfer-")
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert registered == [str(own)]
    compiling.compiled(len, "cpu")
    assert os.environ[compiling.CACHE] == str(own)  # one folder a process


@pytest.mark.slow
@pytest.mark.skipif(not compiling.can_compile(), reason="there is no C++ compiler")
def test_compiled_features_differ_by_rounding_alone_and_not_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "SHARD_ROWS", 8)
    found = {}
    for name, compile in (("off", False), ("on", True), ("again", True)):
        out = tmp_path / f"{name}.h5"
        if name == "again":
            with pytest.raises(RuntimeError, match="stopped"):
                extract(stopping(21), TINY, out, batch_size=4, workers=0, attention=True, compile=compile)
        extract(memory_source(21), TINY, out, batch_size=4, workers=0, attention=True, compile=compile, progress=False)
        found[name] = read_features(out).features[:]
    np.testing.assert_allclose(found["on"], found["off"], rtol=1e-5, atol=1e-5 * np.abs(found["off"]).max())
    np.testing.assert_array_equal(found["on"], found["again"])
