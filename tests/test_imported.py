"""Features that another program computed: what is read of its files, what the feature file says, what is refused."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import l2a_transfer
from l2a_transfer.errors import ArgumentError, DataError, L2AError, OutputExistsError
from l2a_transfer.features.imported.importing import import_features
from l2a_transfer.features.store.reader import FeatureSet, read_features
from tests.conftest import assert_fails, l2a
from tests.feature_files import blobs, labels_of

LABELS = labels_of(3, 8)  # 24 rows
X = blobs(LABELS, dim=5)
IDS = [f"c{label}/{row:02d}.jpg" for row, label in enumerate(LABELS)]


def brought(path: Path | str, tmp_path: Path, **given: Any) -> FeatureSet:
    given.setdefault("labels", None)
    return read_features(import_features(path, tmp_path / "out.h5", **given).path)


def saved(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def assert_rows(found: FeatureSet, rows: NDArray[Any] = X) -> None:
    np.testing.assert_array_equal(found.features, rows)
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.labels, LABELS)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return saved(tmp_path / "labels.npy", LABELS)


def refused(path: Path | str, tmp_path: Path, words: str, error: type[Exception] = DataError, **given: Any) -> None:
    """The import ends in an error with these words, and nothing is written."""
    before = sorted(one.name for one in tmp_path.iterdir())
    with pytest.raises(error, match=words):
        import_features(path, tmp_path / "new" / "out.h5", **given)
    assert sorted(one.name for one in tmp_path.iterdir()) == before


# What is read


def test_npy_with_labels(tmp_path: Path, labels: Path) -> None:
    found = brought(saved(tmp_path / "resnet.npy", X.astype(np.float64)), tmp_path, labels=labels)
    assert_rows(found)
    assert found.meta.classes == ("0", "1", "2")
    assert found.meta.splits == ("all",)
    assert found.ids[:2] == ("all/00000", "all/00001")
    assert found.meta.card["name"] == "resnet"
    assert found.meta.card["imported"]["from"] == "resnet.npy"
    assert found.meta.backend == "imported"


def test_fortran_order_and_float16(tmp_path: Path, labels: Path) -> None:
    assert_rows(brought(saved(tmp_path / "f.npy", np.asfortranarray(X)), tmp_path, labels=labels))
    half = X.astype(np.float16)
    found = brought(saved(tmp_path / "h.npy", half), tmp_path, labels=labels, overwrite=True)
    assert found.features.dtype == np.float16
    np.testing.assert_array_equal(found.features, half)


def test_npz_says_itself_what_is_what(tmp_path: Path) -> None:
    split = np.array(["train"] * 12 + ["validation"] * 12)
    np.savez(tmp_path / "a.npz", features=X, y=LABELS, ids=np.array(IDS), split=split)
    found = brought(tmp_path / "a.npz", tmp_path)
    assert_rows(found)
    assert found.ids == tuple(IDS)
    assert [found.meta.splits[k] for k in found.split] == ["train"] * 12 + ["val"] * 12


def test_an_array_of_an_npz_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", layer3=X, layer4=X + 1, truth=LABELS)
    found = brought(f"{tmp_path}/a.npz#layer4", tmp_path, labels=f"{tmp_path}/a.npz#truth")
    assert_rows(found, X + 1)
    refused(f"{tmp_path}/a.npz#layer5", tmp_path, r"a\.npz: has no column 'layer5'.*did you mean 'layer")
    refused(tmp_path / "a.npz", tmp_path, r"choose one, for example a\.npz#")


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ","), ("tsv", "\t")])
def test_a_table_with_names(tmp_path: Path, suffix: str, mark: str) -> None:
    lines = [["id", "label", "split", *(f"f{k}" for k in range(5))]]
    for name, label, row in zip(IDS, LABELS, X, strict=True):
        lines.append([name, f"class {label}", "test" if name < "c1" else "train", *(f"{float(v)!r}" for v in row)])
    path = tmp_path / f"a.{suffix}"
    path.write_text("\n".join(mark.join(line) for line in lines) + "\n", encoding="utf-8-sig")
    found = brought(path, tmp_path)
    assert_rows(found)
    assert found.meta.classes == ("class 0", "class 1", "class 2")
    assert found.meta.splits == ("train", "test")
    assert found.ids == tuple(IDS)


def test_a_table_without_names_and_labels_line_by_line(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.csv", X, delimiter=",", fmt="%.9g")
    (tmp_path / "y.txt").write_text("\n".join(f"a cat {label}" for label in LABELS))
    found = brought(tmp_path / "a.csv", tmp_path, labels=tmp_path / "y.txt")
    assert_rows(found)
    assert found.meta.classes == ("a cat 0", "a cat 1", "a cat 2")


def test_labels_and_ids_of_another_table(tmp_path: Path) -> None:
    lines = [f"{name},{label},0" for name, label in zip(IDS, LABELS, strict=True)]
    (tmp_path / "about.csv").write_text("\n".join(["file_name,label,f0", *lines]))
    given = tmp_path / "about.csv"
    found = brought(saved(tmp_path / "a.npy", X), tmp_path, labels=given, ids=given)
    assert_rows(found)
    assert found.ids == tuple(IDS)


def test_names_of_numbers(tmp_path: Path, labels: Path) -> None:
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    path = saved(tmp_path / "a.npy", X)
    assert brought(path, tmp_path, labels=labels, classes=tmp_path / "names.txt").meta.classes[3] == "dog"
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    refused(path, tmp_path, "between 0 and 1 of 2 classes; got 0…2", labels=labels, classes=tmp_path / "names.txt")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save(torch.from_numpy(X).to(dtype), tmp_path / "a.pt")
    torch.save(torch.from_numpy(LABELS).long(), tmp_path / "y.pt")
    expected = torch.from_numpy(X).to(dtype).float().numpy()
    assert_rows(brought(tmp_path / "a.pt", tmp_path, labels=tmp_path / "y.pt"), expected)
    torch.save({"features": torch.from_numpy(X), "labels": torch.from_numpy(LABELS), "ids": IDS}, tmp_path / "b.pt")
    assert brought(tmp_path / "b.pt", tmp_path, overwrite=True).ids == tuple(IDS)


def test_parquet_with_columns_of_numbers_or_of_lists(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    about = {"label": [f"class {label}" for label in LABELS], "id": IDS}
    pq.write_table(pa.table({**about, **{f"f{k}": X[:, k] for k in range(5)}}), tmp_path / "a.parquet")
    assert_rows(brought(tmp_path / "a.parquet", tmp_path))
    pq.write_table(pa.table({**about, "embedding": list(X)}), tmp_path / "b.parquet", row_group_size=10)
    found = brought(tmp_path / "b.parquet", tmp_path, overwrite=True)
    assert_rows(found)
    assert found.ids == tuple(IDS)
    ragged = [row[: 5 - k % 2] for k, row in enumerate(X)]
    pq.write_table(pa.table({**about, "embedding": ragged}), tmp_path / "c.parquet")
    refused(tmp_path / "c.parquet", tmp_path, "the lists of 'embedding' must have the same length, got 4 to 5")


def thingsvision(folder: Path, form: str, *, parts: int = 1) -> Path:
    """A folder as thingsvision leaves it (docs, `save_features`): whole, or in parts that are numbered from 1."""
    folder.mkdir()
    for number, rows in enumerate(np.array_split(X, parts), 1):
        name = folder / (f"features_{number:02d}.{form}" if parts > 1 else f"features.{form}")
        if form == "npy":
            np.save(name, rows)
        elif form == "pt":
            torch.save(torch.from_numpy(rows), name)
        else:
            np.savetxt(name, rows)
    (folder / "file_names.txt").write_text("".join(f"/data/images/{name}\n" for name in IDS))
    return folder


@pytest.mark.parametrize(("form", "parts"), [("npy", 1), ("pt", 1), ("txt", 1), ("npy", 11), ("pt", 3)])
def test_a_folder_of_thingsvision(tmp_path: Path, labels: Path, form: str, parts: int) -> None:
    found = brought(thingsvision(tmp_path / "alexnet", form, parts=parts), tmp_path, labels=labels)
    assert_rows(found)
    assert found.ids[0] == "/data/images/c0/00.jpg"
    assert found.meta.card["name"] == "alexnet"
    assert found.meta.card["imported"]["form"] == "thingsvision"


def test_missing_parts_and_other_formats_of_thingsvision(tmp_path: Path, labels: Path) -> None:
    folder = thingsvision(tmp_path / "a", "npy", parts=3)
    (folder / "features_02.npy").unlink()
    refused(folder, tmp_path, "parts of the features are missing", labels=labels)
    for one in folder.glob("features*"):
        one.unlink()
    (folder / "features.mat").write_bytes(b"MATLAB 5.0")
    refused(folder, tmp_path, r"has neither features\.npy.*file_format='npy'", labels=labels)
    refused(folder / "features.mat", tmp_path, r"file_format='npy'", labels=labels)


def test_a_folder_of_clip_benchmark(tmp_path: Path) -> None:
    folder = tmp_path / "ViT-B-32"
    folder.mkdir()
    for split, rows in (("test", slice(16, 24)), ("train", slice(0, 16))):
        torch.save(torch.from_numpy(X[rows]).half(), folder / f"features_{split}.pt")
        torch.save(torch.from_numpy(LABELS[rows]).long(), folder / f"targets_{split}.pt")
    found = brought(folder, tmp_path)
    np.testing.assert_array_equal(found.features, X.astype(np.float16))
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.meta.splits == ("train", "test")
    assert found.ids[15:17] == ("train/00015", "test/00000")
    (folder / "targets_test.pt").unlink()
    refused(folder, tmp_path, r"has features_test\.pt but no targets_test\.pt")


def test_the_rows_of_a_feature_file_are_found_by_their_names(tmp_path: Path) -> None:
    split = ["train" if row % 2 else "test" for row in range(24)]
    own = l2a_transfer.write_features(X, LABELS, tmp_path / "own.h5", ids=IDS, split=split, data="set", name="own")
    folder = tmp_path / "theirs"
    folder.mkdir()
    order = np.random.default_rng(0).permutation(24)
    np.save(folder / "features.npy", X[order])
    (folder / "file_names.txt").write_text("".join(f"D:\\data\\{IDS[row]}\n".replace("/", "\\") for row in order))
    found = brought(folder, tmp_path, labels=own.path)
    assert_rows(found)
    first = read_features(own.path)
    assert (found.ids, found.meta.data, found.meta.splits) == (first.ids, "set", ("train", "test"))
    np.testing.assert_array_equal(found.split, first.split)
    (folder / "file_names.txt").write_text("".join(f"{IDS[row]}x\n" for row in order))
    refused(folder, tmp_path, r"row 0 belongs to '.*x', which is not in .*own\.h5", labels=own.path)
    (folder / "file_names.txt").write_text(f"{IDS[0]}\n" * 24)
    refused(folder, tmp_path, "rows 0 and 1 both belong to 'c0/00.jpg'", labels=own.path)
    np.save(folder / "features.npy", X[:20])
    (folder / "file_names.txt").unlink()
    refused(folder, tmp_path, r"has 20 rows of features, but .*own\.h5 has 24 rows", labels=own.path)


# What the file says


def test_verdicts_speak_of_imported_features(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(size=(240, 5))
    y = labels_of(3, 80)
    good = l2a_transfer.write_features(blobs(y, dim=5, spread=0.5), y, tmp_path / "a.h5", name="theirs")
    bad = l2a_transfer.write_features(noise, y, tmp_path / "b.h5", name="others")
    results = l2a_transfer.evaluate([good, bad], c_grid=[1e-2], draws=3)
    (found,) = results.comparisons
    assert "theirs is better than others" in found.verdict
    assert found.verdict.endswith("This holds for these two sets of imported features only.")
    written = l2a_transfer.write_report(results, tmp_path / "report")
    page = next(path for path in written if path.suffix == ".html").read_text(encoding="utf-8")
    assert "imported features" in page
    assert "weights_sha256" not in str(results.cards)


def test_a_card_that_also_claims_a_training_is_of_imported_features() -> None:
    from l2a_transfer.evaluation.groups import Source

    card = {"name": "x", "imported": {}, "config": {"architecture": "vgg"}, "training": {"seed": 0, "data": "cifar10"}}
    claimed = Source("x", "d", card, "0")
    assert (claimed.kind, claimed.recipe, claimed.is_fixed) == ("imported", "", True)
    assert Source("pixels", "d", {"name": "pixels", "imported": {}}, "0").kind == "imported"


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    def digest(features: NDArray[Any], y: Any = LABELS, **given: Any) -> str:
        path = l2a_transfer.write_features(features, y, tmp_path / "a.h5", overwrite=True, **given).path
        meta = read_features(path).meta
        assert meta.fingerprint["content"] == meta.card["imported"]["content_sha256"]
        return str(meta.fingerprint["content"])

    first = digest(X)
    assert digest(X.astype(np.float64), name="another") == first
    changed = X.copy()
    changed[23, 4] += 1
    assert len({first, digest(changed), digest(X, LABELS[::-1]), digest(X, ids=IDS), digest(X, split="test")}) == 5


def test_inspect_and_its_verification(tmp_path: Path) -> None:
    path = l2a_transfer.write_features(X, LABELS, tmp_path / "a.h5", name="theirs").path
    result = l2a("inspect", path, "--verify")
    assert result.exit_code == 0, result.output
    assert "imported.content_sha256" in result.stdout
    assert "weights_sha256 none" in " ".join(result.stdout.split())


@pytest.mark.parametrize("name", ["pixels", "untrained:vgg", "vgg-att2-concat-pc", "vgg-att2-concat-pc.cifar10-w025"])
def test_imported_features_have_no_name_of_ours(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match="is reserved for this package's own features"):
        l2a_transfer.write_features(X, LABELS, tmp_path / "a.h5", name=name)
    assert not list(tmp_path.iterdir())


# What is refused


def test_other_row_counts(tmp_path: Path, labels: Path) -> None:
    path = saved(tmp_path / "a.npy", X[:20])
    refused(path, tmp_path, r"a\.npy: has 20 rows of features, but labels have 24 rows", labels=labels)
    (tmp_path / "ids.txt").write_text("a\nb\n")
    y = saved(tmp_path / "y.npy", LABELS[:20])
    refused(path, tmp_path, "20 rows of features, but ids have 2 rows", labels=y, ids=tmp_path / "ids.txt")
    refused(path, tmp_path, "20 rows of features, but split has 2 rows", labels=y, split=tmp_path / "ids.txt")
    with pytest.raises(DataError, match="24 rows of features, but labels have 20 rows"):
        l2a_transfer.write_features(X, LABELS[:20], tmp_path / "out.h5")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_values_that_are_not_finite(tmp_path: Path, labels: Path, value: float) -> None:
    bad = X.astype(np.float64)
    bad[7, 3] = value
    refused(saved(tmp_path / "a.npy", bad), tmp_path, "must be finite; row 7, column 3 is", labels=labels)
    with pytest.raises(DataError, match="row 7, column 3"):
        l2a_transfer.write_features(bad, LABELS, tmp_path / "out.h5")


class Armed:
    """Unpickled, it makes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return open, (str(self.place), "w")


def test_pickles_are_not_opened(tmp_path: Path, labels: Path) -> None:
    fired = tmp_path / "fired"
    armed = np.array([Armed(fired)] * 3, dtype=object)
    np.save(tmp_path / "a.npy", armed, allow_pickle=True)
    refused(tmp_path / "a.npy", tmp_path, "contains pickled Python objects", labels=labels)
    np.savez(tmp_path / "a.npz", features=armed)
    refused(tmp_path / "a.npz", tmp_path, "not an .npz file of plain arrays", labels=labels)
    torch.save(Armed(fired), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", tmp_path, "not a file of torch.save with plain tensors", labels=labels)
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Armed(fired)))
    refused(tmp_path / "b.pt", tmp_path, "not a file of torch.save with plain tensors", labels=labels)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Armed(fired)))
    refused(tmp_path / "a.pkl", tmp_path, "save it as .npy", labels=labels)
    refused(saved(tmp_path / "c.npy", X), tmp_path, "contains pickled Python objects", labels=tmp_path / "a.npy")
    assert not fired.exists()


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((1 << 40, 5), "<f4", "declares float32"),
        ((-3, -5), "<f4", "a.npy: "),
        ((3, 5), "|O", "contains pickled Python objects"),
        ((3, 5), "|V0", "a.npy: "),
        ((5, 3, 2), "<f4", "declares float32"),
    ],
)
def test_headers_that_do_not_fit(tmp_path: Path, labels: Path, shape: tuple[int, ...], dtype: str, words: str) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    (tmp_path / "a.npy").write_bytes(header.getvalue() + bytes(60))
    refused(tmp_path / "a.npy", tmp_path, words, labels=labels)


def test_a_tensor_that_shows_one_number_a_billion_times(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(torch.zeros(1).expand(1 << 30, 1 << 9), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", tmp_path, "to have a tensor of it in memory", L2AError, labels=labels)


def test_parquet_that_repeats_a_number_a_million_times(
    tmp_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    from l2a_transfer.features.imported import parquet_columns

    pq.write_table(pa.table({"x": np.zeros(1_000_000)}), tmp_path / "a.parquet")
    monkeypatch.setattr(parquet_columns, "SMALL_BYTES", 1 << 20)
    refused(tmp_path / "a.parquet", tmp_path, "'x' unpacks to 7 MiB; at most 1 are read", labels=labels)


def test_unknown_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("colour,f0,label\nred,1,0\nblue,2,1\n")
    refused(
        tmp_path / "a.csv",
        tmp_path,
        "the unknown column 'colour' contains text, such as 'red', .*remove it, or rename it to",
    )
    (tmp_path / "a.csv").write_text("f0,f1\n1,2\n3,4\n")
    refused(f"{tmp_path}/a.csv", tmp_path, r"does not contain labels; give `labels`")
    given = f"{tmp_path}/a.csv#f2"
    refused(tmp_path / "a.csv", tmp_path, r"has no column 'f2', but the columns f0, f1", labels=given)
    refused(tmp_path / "a.csv", tmp_path, r"has the columns f0, f1; choose one", labels=tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("f0,label\n", "a header but no rows"),
        ("f0,f0\n1,2\n", "two columns are called 'f0'"),
        ("f0,label\n1,0\n2\n", "row 3 has 1 cell, expected 2"),
        ("f0,label\n1,0\nx,1\n", "row 3 of column 'f0' is 'x', but earlier rows contain numbers"),
        ("f0,label\n1,0.5\n", "must be whole numbers or names"),
        ("f0,label,y\n1,0,0\n", "all have names of labels"),
        ('f0,label\n1,"0\n', "not a valid table"),
        ("id,label,f0\na,0,1\na,0,1\n", "the id 'a' appears twice"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    refused(tmp_path / "a.csv", tmp_path, rf"a\.csv: .*{words}")


def test_what_is_not_there_or_not_known(tmp_path: Path, labels: Path) -> None:
    refused(tmp_path / "none.npy", tmp_path, r"none\.npy: no such file or folder", labels=labels)
    path = saved(tmp_path / "a.npy", X)
    refused(path, tmp_path, r"none\.npy: no such file", labels=tmp_path / "none.npy")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path, "it has nothing", labels=labels)
    (tmp_path / "a.xyz").write_bytes(b"")
    refused(tmp_path / "a.xyz", tmp_path, r"are read from \.npy, \.npz.*got '\.xyz'", labels=labels)
    refused(saved(tmp_path / "b.npy", X[:, :, None]), tmp_path, "flatten each row", labels=labels)
    refused(saved(tmp_path / "c.npy", np.array(["a", "b"])), tmp_path, "this array contains text", labels=labels)
    lowest = saved(tmp_path / "y.npy", np.full(len(X), -2))
    refused(path, tmp_path, "labels must be −1, for none, or 0 and more; got -2…-2", labels=lowest)


def test_damage_is_named(tmp_path: Path, labels: Path) -> None:
    path = saved(tmp_path / "a.npy", X)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, tmp_path, r"a\.npy: declares float32 \(24, 5\), but has 479 bytes", labels=labels)
    torch.save(torch.from_numpy(X), tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: len(content) // 2])
    refused(tmp_path / "a.pt", tmp_path, r"a\.pt: not a file of torch\.save", labels=labels)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("features.npy", b"\x93NUMPY")
    refused(tmp_path / "a.npz", tmp_path, r"a\.npz: not an \.npz file", labels=labels)


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt", "parquet", "csv"])
def test_mutated_files_end_in_a_named_error_or_are_read(tmp_path: Path, labels: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, X)
    elif suffix == "npz":
        np.savez(path, features=X, y=LABELS, ids=np.array(IDS))
    elif suffix == "pt":
        torch.save({"features": torch.from_numpy(X), "labels": torch.from_numpy(LABELS)}, path)
    elif suffix == "csv":
        np.savetxt(path, np.c_[X, LABELS], delimiter=",", header="a,b,c,d,e,label", comments="")
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"label": LABELS, "features": list(X)}), path)
    whole, rng, said = path.read_bytes(), np.random.default_rng(0), list[str]()
    for _ in range(40):
        content = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 5)):
            content[at] = rng.integers(256)
        path.write_bytes(content[: rng.integers(1, len(whole))] if rng.random() < 0.2 else content)
        try:
            import_features(path, tmp_path / "out.h5", labels=labels, overwrite=True)
        except L2AError as error:
            said.append(str(error))
    assert said
    assert all(path.name in one or "labels" in one for one in said), said


def test_outputs_that_are_there(tmp_path: Path, labels: Path) -> None:
    path = saved(tmp_path / "a.npy", X)
    import_features(path, tmp_path / "out.h5", labels=labels)
    with pytest.raises(OutputExistsError, match="exists"):
        import_features(path, tmp_path / "out.h5", labels=labels)
    with pytest.raises(ArgumentError, match=r"out must be the name of an HDF5 file, such as out\.h5"):
        import_features(path, tmp_path / "out.npy", labels=labels)


# The command


def test_the_command(tmp_path: Path, labels: Path) -> None:
    path, out = saved(tmp_path / "a.npy", X), tmp_path / "out.h5"
    result = l2a("import", path, "--labels", labels, "--name", "theirs", "--data", "set", "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("out.h5: 24 × 5, imported\n")
    assert read_features(out).meta.title == "set by theirs"
    assert_fails(l2a("import", path, "--labels", labels, "--out", out), 1, "out.h5: exists", "--overwrite")
    assert_fails(l2a("import", path, "--out", tmp_path / "b.h5"), 1, "does not contain labels; give --labels")
    taken = l2a("import", path, "--labels", labels, "--name", "pixels", "--out", tmp_path / "b.h5")
    assert_fails(taken, 2, "is reserved for this package's own features; choose another --name")
