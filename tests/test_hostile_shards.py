"""Shards and plans of an interrupted extraction that others have changed, with their checksums renewed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from l2a_transfer.errors import StoreError
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.extraction import extract as extract_module
from l2a_transfer.features.extraction import shard_folder as shards_module
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.extraction.plan import fingerprint
from l2a_transfer.features.extraction.shard_folder import ABOUT, PLAN, ShardFolder
from l2a_transfer.features.store.reader import read_features, read_meta
from tests.conftest import MemorySource, memory_source
from tests.feature_files import blobs, feature_set, labels_of
from tests.feature_files import save as save_set

Arrays = dict[str, NDArray[Any]]


@pytest.fixture
def source() -> MemorySource:
    return memory_source()


def begun(source: MemorySource, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one shard of an extraction whose merge was interrupted."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(extract_module, "write_features", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(source, PixelsBackend(), out, batch_size=2, progress=False)
    (path,) = Path(f"{out}.shards").glob("rows-*")
    return path


def changed(path: Path, change: Callable[[Arrays], object], about: dict[str, Any] | None = None) -> None:
    """The shard with other arrays, and with the checksums that these have."""
    arrays = load(path.read_bytes())
    with shards_module.safe_open(path, framework="numpy") as file:
        said = json.loads(file.metadata()[ABOUT])
    change(arrays)
    said["sha256"] = {name: shards_module._sha256(values) for name, values in arrays.items()}
    path.write_bytes(save(arrays, metadata={ABOUT: json.dumps(said | (about or {}))}))


CHANGES: dict[str, Callable[[Arrays], object]] = {
    "kept without sides": lambda a: a.update(kept=np.array(3)),
    "kept of two sides": lambda a: a.update(kept=a["kept"][:, None]),
    "kept of floats": lambda a: a.update(kept=a["kept"].astype(np.float64)),
    "kept of int32": lambda a: a.update(kept=a["kept"].astype(np.int32)),
    "features of three sides": lambda a: a.update(features=a["features"][:, :, None]),
    "features of float64": lambda a: a.update(features=a["features"].astype(np.float64)),
    "features of int8": lambda a: a.update(features=a["features"].astype(np.int8)),
    "fewer columns": lambda a: a.update(features=np.ascontiguousarray(a["features"][:, :3])),
    "fewer rows": lambda a: a.update(features=np.ascontiguousarray(a["features"][:3])),
    "maps that nobody asked for": lambda a: a.update(map_l1=np.zeros((len(a["kept"]), 2, 2), np.float16)),
    "maps of two sides": lambda a: a.update(map_l1=np.zeros((len(a["kept"]), 2), np.float16)),
    "an array of another name": lambda a: a.update(other=np.zeros((len(a["kept"]), 2, 2), np.float16)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_shard_of_other_arrays_is_computed_again(
    name: str, source: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    extract(source, PixelsBackend(), tmp_path / "whole.h5", batch_size=2, progress=False)
    path = begun(source, tmp_path / "f.h5", monkeypatch)
    changed(path, CHANGES[name])
    result = extract(source, PixelsBackend(), tmp_path / "f.h5", batch_size=2, progress=False)
    assert result.computed == len(source)
    assert f"{path}: " in caplog.text
    assert "its rows are computed again" in caplog.text
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.parametrize(
    "about",
    [
        {"sha256": [[[1], 2]]},
        {"sha256": {"kept": 1}},
        {"skipped": [["9" * 5000, 1]]},
        {"skipped": [[-1, "x"]]},
        {"skipped": {"0": "x"}},
        {"plan": [1]},
        {"more": 1},
    ],
)
def test_a_shard_that_says_other_things_is_computed_again(
    about: dict[str, Any], source: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begun(source, tmp_path / "f.h5", monkeypatch)
    changed(path, lambda arrays: None, about)
    assert extract(source, PixelsBackend(), tmp_path / "f.h5", batch_size=2, progress=False).computed == len(source)


@pytest.mark.parametrize("value", [[1], {"a": 1}, [[]]])
@pytest.mark.parametrize("key", ["stamps", "weights", "other"])
def test_a_plan_that_is_not_flat_is_refused_by_name(
    key: str, value: Any, source: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begun(source, tmp_path / "f.h5", monkeypatch)
    plan = path.parent / PLAN
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {key: value, "data": "x"}))
    with pytest.raises(StoreError, match=rf"plan\.json: not a plan: plan\.{key} must be text .*; `overwrite=True`"):
        extract(source, PixelsBackend(), tmp_path / "f.h5", batch_size=2, progress=False)
    assert path.exists()
    identity = fingerprint(source, PixelsBackend(), 2, attention=False)
    with pytest.raises(StoreError, match="not a plan"):
        ShardFolder(path.parent, identity).belongs_to(identity)


@pytest.mark.parametrize("value", [[1], {"a": 1}])
def test_features_whose_fingerprint_is_not_flat_are_neither_written_nor_read(
    value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = labels_of(2, 4)
    made = feature_set(labels, blobs(labels, spread=1.0, seed=0))
    meta = dataclasses.replace(made.meta, fingerprint={"data": "x", "stamps": value})
    made = dataclasses.replace(made, meta=meta)
    words = r"f\.h5: the attribute 'fingerprint': fingerprint\.stamps must be text"
    with pytest.raises(StoreError, match=words):
        save_set(tmp_path / "f.h5", made)
    with monkeypatch.context() as patch:
        patch.setattr("l2a_transfer.features.store.writer.document", lambda *_: None)
        path = save_set(tmp_path / "f.h5", made)
    for read in (read_meta, read_features):
        with pytest.raises(StoreError, match=words):
            read(path)


def test_every_flat_value_is_taken(tmp_path: Path) -> None:
    labels = labels_of(2, 4)
    made = feature_set(labels, blobs(labels, spread=1.0, seed=0))
    flat = {"text": "x", "whole": -1, "number": 0.5, "flag": True, "nothing": None}
    path = save_set(tmp_path / "f.h5", dataclasses.replace(made, meta=dataclasses.replace(made.meta, fingerprint=flat)))
    assert read_meta(path)[0].fingerprint == flat
