"""`open_features`: any rows in any order, as NumPy, torch or pandas, by blocks, from many processes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from torch.utils.data import DataLoader

import l2a_transfer
from l2a_transfer.errors import MissingExtraError, StoreError, UnknownNameError
from l2a_transfer.features.store import sealed as store
from l2a_transfer.features.store import views, writer
from l2a_transfer.features.store.views import FeatureFile, open_features
from tests.feature_files import blobs, feature_set, labels_of
from tests.feature_files import save as save_set
from tests.test_store import FEATURES, META, ROWS, reseal, save


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Four rows: the labels 0, 1, −1, 0, two of each split, the levels L2 (2 columns) and L3 (1)."""
    return save(tmp_path / "f.h5")


@pytest.fixture
def chunked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, NDArray[np.float32]]:
    """1,000 rows of 6 columns in chunks of 10 rows."""
    labels = labels_of(4, 250)
    features = blobs(labels)
    monkeypatch.setattr(writer, "CHUNK_BYTES", 240)
    path = save_set(tmp_path / "g.h5", feature_set(labels, features))
    monkeypatch.undo()
    with h5py.File(path) as file:
        assert file["features"].chunks == (10, 6)
    return path, features


def test_what_is_inside(small: Path) -> None:
    with l2a_transfer.open_features(str(small)) as f:
        assert f.meta == META
        assert f.labels.tolist() == [0, 1, -1, 0]
        assert f.split.tolist() == [0, 0, 1, 1]
        assert f.ids == tuple(ROWS["ids"])
        assert len(f) == len(f.features) == 4
        assert (f.features.shape, f.features.dtype) == ((4, 3), np.float32)
        assert f.rows("test").tolist() == [2, 3]
        assert f.rows().tolist() == [0, 1, 2, 3]
        assert f.columns("L3") == slice(2, 3)


def test_a_feature_file_shows_itself_in_a_line(small: Path) -> None:
    with open_features(small) as f:
        facts = f"4 rows × 3 columns of float32, {META.data} by {META.card['name']}, levels L2 2, L3 1, 2 classes, "
        assert repr(f) == f"<FeatureFile f.h5: {facts}splits train, test, open>"
        assert repr(f.features) == "<FeatureRows f.h5: (4, 3) float32 on disk, read by index>"
        assert repr(f.meta).startswith(
            f"<FeatureMeta {META.data} by {META.card['name']}: levels L2 2, L3 1, 2 classes, "
        )
    assert repr(f).endswith("closed>")
    assert repr(l2a_transfer.read_features(small)) == f"<FeatureSet f.h5: {facts}splits train, test>"


def test_a_feature_file_is_a_table_in_a_notebook_and_its_names_stay_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\u202e"
    path = save(tmp_path / "<b>.h5", meta=dataclasses.replace(META, data=evil, card={**META.card, "name": evil}))
    with open_features(path) as f:
        shown = f._repr_html_()
    assert shown == l2a_transfer.read_features(path.absolute())._repr_html_()
    assert "L2 0:2, L3 2:3" in shown
    assert shown.count("&lt;script&gt;") == 2
    assert "&lt;b&gt;.h5" in shown
    assert "<script" not in shown
    assert "\u202e" not in shown


def test_rows_by_number_slice_list_and_mask(small: Path) -> None:
    with open_features(small) as f:
        X = f.features
        np.testing.assert_array_equal(X[1], [4, 5, 6])
        np.testing.assert_array_equal(X[-1], np.array([0, 0, 1e-6], np.float32))
        np.testing.assert_array_equal(X[1:3], [[4, 5, 6], [-7, 0.5, 9]])
        np.testing.assert_array_equal(X[::-2], FEATURES[[3, 1]])
        np.testing.assert_array_equal(X[[2, 0, 2, -3]], FEATURES[[2, 0, 2, 1]])
        np.testing.assert_array_equal(X[np.array([True, False, False, True])], FEATURES[[0, 3]])
        assert X[[]].shape == X[4:9].shape == X[3:1].shape == (0, 3)
        assert X[f.rows("train")].shape == (2, 3)


@pytest.mark.parametrize("key", [4, -5, [0, 4], [-5], [True, False]])
def test_rows_that_are_not_there(small: Path, key: object) -> None:
    with open_features(small) as f, pytest.raises(IndexError, match="4"):
        f.features[key]  # type: ignore[index]


def test_keys_that_are_no_rows(small: Path) -> None:
    with open_features(small) as f:
        for key in (1.0, [[0, 1]], "a"):
            with pytest.raises(TypeError, match="rows must be a row number, a slice, row numbers or a mask"):
                f.features[key]  # type: ignore[index]


def test_random_rows_over_many_chunks(chunked: tuple[Path, NDArray[np.float32]]) -> None:
    path, features = chunked
    rng = np.random.default_rng(0)
    with open_features(path) as f:
        for _ in range(20):
            rows = rng.integers(0, 1000, rng.integers(1, 60))
            np.testing.assert_array_equal(f.features[rows], features[rows])
        np.testing.assert_array_equal(f.features[::-7], features[::-7])


def test_each_chunk_is_read_once(chunked: tuple[Path, NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = chunked
    spans: list[tuple[int, int]] = []

    def spy(path: Path, features: h5py.Dataset, start: int, stop: int) -> NDArray[np.float32]:
        spans.append((start, stop))
        return store.read_block(path, features, start, stop)

    monkeypatch.setattr(views, "read_block", spy)
    with open_features(path) as f:
        _ = f.features[[995, 3, 17, 9, 12, 3]]
    assert spans == [(3, 10), (12, 18), (995, 996)]


def test_blocks(chunked: tuple[Path, NDArray[np.float32]]) -> None:
    path, features = chunked
    with open_features(path) as f:
        blocks = list(f.blocks(300))
        assert [len(block) for block in blocks] == [300, 300, 300, 100]
        np.testing.assert_array_equal(np.concatenate(blocks), features)
        (whole,) = f.blocks()
        np.testing.assert_array_equal(whole, features)
        with pytest.raises(ValueError, match="at least 1, got 0"):
            next(f.blocks(0))


def test_numpy_and_torch(small: Path, chunked: tuple[Path, NDArray[np.float32]]) -> None:
    with open_features(small) as f:
        X, y = f.to_numpy()
        np.testing.assert_array_equal(X, FEATURES)
        assert y.tolist() == [0, 1, -1, 0]
        X, y = f.to_numpy("test", "L2")
        np.testing.assert_array_equal(X, np.array([[-7, 0.5], [0, 0]], np.float32))
        assert (y.tolist(), y.dtype) == ([-1, 0], np.int32)
        tensors = f.to_torch("test", level="L2")
        assert str([t.dtype for t in tensors]) == "[torch.float32, torch.int64]"
        np.testing.assert_array_equal(tensors[0].numpy(), X)
        assert tensors[1].tolist() == [-1, 0]
        with pytest.raises(UnknownNameError, match="train, test; got 'tset'; did you mean 'test'"):
            f.to_numpy("tset")
        with pytest.raises(UnknownNameError, match="L2, L3; got 'L4'"):
            f.to_numpy(level="L4")
    path, features = chunked
    with open_features(path) as f:
        np.testing.assert_array_equal(f.to_numpy("test")[0], features[f.split == 1])


def test_pandas(small: Path) -> None:
    frame = open_features(small).to_pandas()
    assert frame.index.tolist() == ROWS["ids"]
    assert frame.columns.tolist() == ["split", "class", "label", "L2.0", "L2.1", "L3.0"]
    assert frame["split"].tolist() == ["train", "train", "test", "test"]
    assert frame["class"].isna().tolist() == [False, False, True, False]
    assert frame["class"].dropna().tolist() == ["ant", "bée", "ant"]
    assert frame["class"].cat.categories.tolist() == ["ant", "bée"]
    assert frame["label"].tolist() == [0, 1, -1, 0]
    np.testing.assert_array_equal(frame[["L2.0", "L2.1", "L3.0"]].to_numpy(), FEATURES)
    assert open_features(small).to_pandas("test", "L3").columns.tolist() == ["split", "class", "label", "L3.0"]


def test_without_pandas_the_extra_is_named(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"needs the package pandas.*l2a-transfer\[pandas\]"):
        open_features(small).to_pandas()


def test_neither_torch_nor_pandas_is_imported(small: Path) -> None:
    code = (
        "import sys, l2a_transfer\n"
        "with l2a_transfer.open_features(sys.argv[1]) as f: f.to_numpy(), f[0]\n"
        "print('torch' in sys.modules, 'pandas' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code, str(small)], capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["False", "False"]


def test_nan_is_refused_or_handed_out(small: Path) -> None:
    with h5py.File(small, "r+", libver=("v110", "v110")) as file:
        file["features"][2, 1] = np.nan
    reseal(small)
    with open_features(small) as f:
        np.testing.assert_array_equal(f.features[:2], FEATURES[:2])
        for read in (lambda: f.features[2], lambda: f.features[1:], lambda: f.to_numpy(), lambda: list(f.blocks(1))):
            with pytest.raises(StoreError, match=r"f\.h5: /features: .* the first is 'c'"):
                read()
    with open_features(small, finite=False) as f:
        assert np.isnan(f.features[:]).sum() == 1


def test_a_chunk_whose_checksum_differs_is_named(small: Path) -> None:
    content = small.read_bytes()
    assert content.count(FEATURES.tobytes()) == 1
    small.write_bytes(content.replace(FEATURES.tobytes(), FEATURES[::-1].tobytes()))
    with pytest.raises(StoreError, match="SHA-256 does not match"):
        open_features(small)
    reseal(small)
    with open_features(small) as f, pytest.raises(StoreError, match=r"/features: rows 1…2 are corrupt"):
        f.features[1:3]


def test_a_closed_file_says_so(small: Path) -> None:
    with open_features(small) as f:
        pass
    f.close()
    assert f.ids[0] == "a/1.jpg"
    with pytest.raises(ValueError, match=": closed; read it"):
        f.features[0]


def total(f: FeatureFile, rows: range) -> float:
    return float(f.features[rows.start : rows.stop].sum(dtype=np.float64))


def total_inherited(rows: range) -> float:
    return total(INHERITED[0], rows)


INHERITED: list[FeatureFile] = []


def test_many_processes_read_one_file_at_once(
    chunked: tuple[Path, NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, features = chunked
    ranges = [range(start, start + 50) for start in range(0, 1000, 50)]
    expected = [float(features[r.start : r.stop].sum(dtype=np.float64)) for r in ranges]
    f = open_features(path)
    # A file whose seal was checked, unchanged since, is not hashed again in the processes that read it.
    monkeypatch.setattr(store, "_check_seal", None)
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(3, mp_context=fork) as pool:
        assert list(pool.map(total, [f] * len(ranges), ranges)) == expected
    INHERITED.append(f)
    with ProcessPoolExecutor(3, mp_context=fork) as pool:
        assert list(pool.map(total_inherited, ranges)) == expected
    INHERITED.clear()
    assert total(f, ranges[0]) == expected[0]


def test_a_copy_by_pickle_reads_the_same_file_and_no_other(small: Path) -> None:
    pickled = pickle.dumps(open_features(small))
    np.testing.assert_array_equal(pickle.loads(pickled).features[:], FEATURES)  # noqa: S301
    small.write_bytes(small.read_bytes())  # another time of change: the seal is checked again, and holds
    np.testing.assert_array_equal(pickle.loads(pickled).features[:], FEATURES)  # noqa: S301
    save(small, features=FEATURES + 1)
    with pytest.raises(StoreError, match="was replaced by another file"):
        pickle.loads(pickled)  # noqa: S301


def test_it_feeds_a_torch_data_loader(chunked: tuple[Path, NDArray[np.float32]]) -> None:
    path, features = chunked
    f = open_features(path)
    batches = list(DataLoader(f, batch_size=96, num_workers=2, multiprocessing_context="fork"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.concatenate([x.numpy() for x, _ in batches]), features)
    assert [int(k) for _, y in batches for k in y] == f.labels.tolist()
    np.testing.assert_array_equal(f[3][0], features[3])
    assert f[3][1] == 3


def test_the_example_of_the_format_page_runs(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "format.md").read_text(encoding="utf-8")
    plain, example, _ = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(small.parent)
    small.rename("features.h5")
    found: dict[str, Any] = {}
    exec(compile(plain, "format.md", "exec"), found)
    np.testing.assert_array_equal(found["X"], FEATURES)
    exec(compile(example.replace("[7, 3, 3]", "[1, 3, 3]"), "format.md", "exec"), found)
    np.testing.assert_array_equal(found["first"], FEATURES)
    np.testing.assert_array_equal(found["some"], FEATURES[[1, 3, 3]])
