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
from l2a_transfer.errors import BackendError, OutputExistsError, UnknownNameError
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.features.extraction import form
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
    monkeypatch.setattr(form, "can_compile", lambda: True)
    monkeypatch.setenv(compiling.CACHE, "/somewhere/of/the/user")
    return found


def form_of(path: Path) -> str:
    found: str = read_meta(path)[0].fingerprint["form"]
    return found


def test_only_whole_batches_are_compiled(compiler: Compiler, tmp_path: Path) -> None:
    source, backend = memory_source(21), open_backend(TINY, device="cpu")
    extract(source, backend, tmp_path / "on.h5", batch_size=9, compile="on", progress=False)
    assert compiler.batches == [9, 9]
    assert form_of(tmp_path / "on.h5") == "folded, compiled"
    extract(source, backend, tmp_path / "off.h5", batch_size=9, compile="off", progress=False)
    assert compiler.batches == [9, 9]
    assert form_of(tmp_path / "off.h5") == "folded"
    np.testing.assert_array_equal(
        read_features(tmp_path / "on.h5").features[:], read_features(tmp_path / "off.h5").features[:]
    )


@pytest.mark.parametrize(("images", "compiles"), [(23, False), (24, True)])
def test_auto_compiles_many_images(
    images: int, compiles: bool, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form, "IMAGES_PER_THREAD", 12)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    extract(memory_source(images), TINY, tmp_path / "f.h5", batch_size=8, progress=False)
    assert bool(compiler.batches) == compiles
    assert form_of(tmp_path / "f.h5") == ("folded, compiled" if compiles else "folded")


def test_auto_compiles_nothing_without_a_compiler_or_in_half_precision(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form, "IMAGES_PER_THREAD", 1)
    half = open_backend(TINY, device="cpu", precision="bf16")
    extract(memory_source(8), half, tmp_path / "bf16.h5", batch_size=8, progress=False)
    extract(memory_source(8), "pixels", tmp_path / "pixels.h5", batch_size=8, progress=False)
    monkeypatch.setattr(form, "can_compile", lambda: False)
    extract(memory_source(8), TINY, tmp_path / "none.h5", batch_size=8, progress=False)
    assert compiler.batches == []


@pytest.mark.parametrize("compile", ["on", "off"])
def test_auto_continues_as_an_extraction_began(
    compile: str, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "SHARD_ROWS", 8)
    monkeypatch.setattr(form, "IMAGES_PER_THREAD", 1 if compile == "off" else 1_000_000)
    source, out = memory_source(20), tmp_path / "f.h5"
    with pytest.raises(RuntimeError, match="stopped"):
        extract(stopping(20), TINY, out, batch_size=4, workers=0, compile=compile, progress=False)
    assert any(out.with_name("f.h5.shards").glob("rows-*"))
    extract(source, TINY, out, batch_size=4, workers=0, progress=False)
    wanted = "folded, compiled" if compile == "on" else "folded"
    assert form_of(out) == wanted
    assert set(compiler.batches) == ({4} if compile == "on" else set())
    assert extract(source, TINY, out, batch_size=4, resume=True, progress=False).computed == 0  # verified in its form
    other = "off" if compile == "on" else "on"
    with pytest.raises(OutputExistsError, match="form of the network"):
        extract(source, TINY, out, batch_size=4, compile=other, resume=True, progress=False)
    extract(source, TINY, out, batch_size=4, overwrite=True, progress=False)
    assert form_of(out) != wanted


def test_overwriting_does_not_read_a_damaged_plan(compiler: Compiler, tmp_path: Path) -> None:
    shards = tmp_path / "f.h5.shards"
    shards.mkdir()
    (shards / "plan.json").write_text("{")
    (shards / "rows-000000000-000000008.safetensors").write_bytes(b"")
    extract(memory_source(8), TINY, tmp_path / "f.h5", overwrite=True, progress=False)
    assert not shards.exists()


def test_a_file_that_is_in_the_way_is_not_read(compiler: Compiler, tmp_path: Path) -> None:
    (tmp_path / "f.h5").write_text("notes")
    with pytest.raises(OutputExistsError, match="exists"):
        extract(memory_source(8), TINY, tmp_path / "f.h5", progress=False)


def test_bad_values_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="compile must be one of auto, on, off; got 'yes'"):
        extract(memory_source(4), TINY, tmp_path / "f.h5", compile="yes", progress=False)
    with pytest.raises(BackendError, match="pixels networks are not compiled here"):
        extract(memory_source(4), "pixels", tmp_path / "f.h5", compile="on", progress=False)
    monkeypatch.setattr(compiling, "can_compile", lambda: False)
    with pytest.raises(BackendError, match=r"needs a C\+\+ compiler"):
        extract(memory_source(4), TINY, tmp_path / "f.h5", compile="on", progress=False)
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
    for name, compile in (("off", "off"), ("on", "on"), ("again", "on")):
        out = tmp_path / f"{name}.h5"
        if name == "again":
            with pytest.raises(RuntimeError, match="stopped"):
                extract(stopping(21), TINY, out, batch_size=4, workers=0, attention=True, compile=compile)
        extract(memory_source(21), TINY, out, batch_size=4, workers=0, attention=True, compile=compile, progress=False)
        found[name] = read_features(out).features[:]
    np.testing.assert_allclose(found["on"], found["off"], rtol=1e-5, atol=1e-5 * np.abs(found["off"]).max())
    np.testing.assert_array_equal(found["on"], found["again"])
