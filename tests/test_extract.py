"""Extraction: the right rows in the right order, the same bytes after any interruption, and no faulty file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from l2a_transfer.errors import DataError, Interrupted, OutputExistsError, StoreError
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.backends.registry import open_backend
from l2a_transfer.features.extraction import extract as extract_module
from l2a_transfer.features.extraction import plan as plan_module
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.features.extraction.plan import batches_of, plan_ranges
from l2a_transfer.features.store.reader import read_features
from tests.conftest import TINY, MemorySource, assert_fails, l2a, memory_source, save_picture


class CountingBackend(PixelsBackend):
    """Pixels, counting the batches, and able to stop like a killed process or to give NaN."""

    def __init__(self, *, stop_after: int = 10**9, poison: int | None = None) -> None:
        super().__init__()
        self.batches, self.stop_after, self.poison = 0, stop_after, poison

    def features(self, images_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.batches == self.stop_after:
            raise KeyboardInterrupt
        found = super().features(images_u8)
        if self.batches == self.poison:
            found[1, 3] = np.nan
        self.batches += 1
        return found


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "SHARD_ROWS", 8)


def run(source: MemorySource, out: Path, backend: PixelsBackend | None = None, **options: object) -> object:
    return extract(source, backend or PixelsBackend(), out, batch_size=4, progress=False, **options)  # type: ignore[arg-type]


def test_ranges_tile_the_rows_in_whole_batches() -> None:
    assert plan_ranges(20, 4) == [range(0, 8), range(8, 16), range(16, 20)]
    assert plan_ranges(20, 3) == [range(0, 6), range(6, 12), range(12, 18), range(18, 20)]
    assert plan_ranges(5, 100) == [range(0, 5)]
    assert batches_of(range(16, 23), 4) == [range(16, 20), range(20, 23)]


def test_every_row_has_its_own_pixels_label_id_and_split(source: MemorySource, tmp_path: Path) -> None:
    run(source, tmp_path / "f.h5")
    found = read_features(tmp_path / "f.h5")
    expected = source.pictures.transpose(0, 3, 1, 2).reshape(40, -1).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(found.features, expected)
    np.testing.assert_array_equal(found.labels, source.labels)
    np.testing.assert_array_equal(found.split, source.split)
    assert tuple(found.ids) == source.ids
    assert found.meta.classes == source.classes
    assert found.meta.data == "memory"
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]


def test_worker_processes_change_nothing(source: MemorySource, tmp_path: Path) -> None:
    run(source, tmp_path / "a.h5", workers=0)
    run(source, tmp_path / "b.h5", workers=2)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize("stop_after", [0, 1, 2, 5, 9])
def test_an_interrupted_extraction_goes_on_and_ends_with_the_same_bytes(
    source: MemorySource, tmp_path: Path, stop_after: int
) -> None:
    run(source, tmp_path / "whole.h5")
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "f.h5", CountingBackend(stop_after=stop_after))
    assert not (tmp_path / "f.h5").exists()
    backend = CountingBackend()
    run(source, tmp_path / "f.h5", backend)
    assert backend.batches == 10 - stop_after // 2 * 2  # whole shards of two batches are kept
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not (tmp_path / "f.h5.shards").exists()


@pytest.mark.parametrize(
    ("stop_after", "options", "said"),
    [
        (1, {}, "no rows of {out} are kept, because they are saved 8 at a time"),
        (5, {}, "16 of 40 rows are kept in {out}.shards; run it again to continue"),
        (5, {"overwrite": True}, "16 of 40 rows are kept in {out}.shards; run it again with `resume=True` to continue"),
        (5, {"overwrite": True, "resume": True}, "16 of 40 rows are kept in {out}.shards; run it again to continue"),
    ],
)
def test_ctrl_c_says_how_many_rows_are_kept(
    source: MemorySource, tmp_path: Path, stop_after: int, options: dict[str, bool], said: str
) -> None:
    out = tmp_path / "f.h5"
    with pytest.raises(Interrupted) as caught:
        run(source, out, CountingBackend(stop_after=stop_after), **options)
    assert str(caught.value).startswith(said.format(out=out))
    assert out.with_name("f.h5.shards").exists() == (stop_after == 5)


@pytest.mark.parametrize("damage", ["flip", "cut", "other rows"])
def test_a_damaged_shard_is_computed_again(source: MemorySource, tmp_path: Path, damage: str) -> None:
    run(source, tmp_path / "whole.h5")
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "f.h5", CountingBackend(stop_after=5))
    first, second = sorted((tmp_path / "f.h5.shards").glob("rows-*"))
    content = bytearray(first.read_bytes())
    if damage == "flip":
        content[-5] ^= 1
    elif damage == "cut":
        del content[-7:]
    else:
        content = bytearray(second.read_bytes()[:-100])
    first.write_bytes(content)
    backend = CountingBackend()
    run(source, tmp_path / "f.h5", backend)
    assert backend.batches == 8
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_an_unfinished_extraction_with_other_options_is_refused_by_name(source: MemorySource, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "f.h5", CountingBackend(stop_after=5))
    with pytest.raises(OutputExistsError, match=r"batch_size: 4 there, 8 here.*`overwrite=True`"):
        extract(source, PixelsBackend(), tmp_path / "f.h5", batch_size=8, progress=False)
    with pytest.raises(OutputExistsError, match="data: "):
        run(memory_source(seed=1), tmp_path / "f.h5")
    run(memory_source(seed=1), tmp_path / "f.h5", overwrite=True)
    assert read_features(tmp_path / "f.h5").features[0, 0] == np.float32(
        memory_source(seed=1).pictures[0, 0, 0, 0] / 255
    )


def test_an_output_that_exists(source: MemorySource, tmp_path: Path) -> None:
    out = tmp_path / "f.h5"
    run(source, out)
    before = out.read_bytes()
    with pytest.raises(
        OutputExistsError, match=r"f\.h5: exists; `resume=True` verifies it, `overwrite=True` replaces it"
    ):
        run(source, out)
    backend = CountingBackend(stop_after=0)
    run(source, out, backend, resume=True)
    with pytest.raises(OutputExistsError, match="complete, with other options"):
        run(memory_source(seed=1), out, resume=True)
    assert out.read_bytes() == before
    run(memory_source(seed=1), out, overwrite=True)
    assert out.read_bytes() != before


def test_resume_of_a_damaged_file_says_so(source: MemorySource, tmp_path: Path) -> None:
    out = tmp_path / "f.h5"
    run(source, out)
    content = bytearray(out.read_bytes())
    content[-9] ^= 4
    out.write_bytes(content)
    with pytest.raises(StoreError, match=r"f\.h5"):
        run(source, out, resume=True)
    assert out.read_bytes() == content


def test_features_that_are_not_finite_name_the_image_and_leave_the_earlier_file(
    source: MemorySource, tmp_path: Path
) -> None:
    out = tmp_path / "f.h5"
    run(source, out)
    before = out.read_bytes()
    with pytest.raises(StoreError, match="not finite in 1 row, first for image '00021'"):
        run(source, out, CountingBackend(poison=5), overwrite=True)
    assert out.read_bytes() == before


def test_memory_does_not_grow_with_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    blocks = extract_module.blocks_of

    def counted(*arguments: object) -> Iterator[NDArray[np.float32]]:
        for block in blocks(*arguments):  # type: ignore[arg-type]
            alive.append(len(block))
            yield block

    monkeypatch.setattr(extract_module, "blocks_of", counted)
    run(memory_source(rows=100), tmp_path / "f.h5")
    assert max(alive) == 8
    assert sum(alive) == 100


def test_plain_h5py_reads_the_file(source: MemorySource, tmp_path: Path) -> None:
    extract(source, open_backend(TINY, device="cpu"), tmp_path / "f.h5", progress=False)
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["features"].shape == (40, 64)
        assert file["features"].dtype == np.float32
        assert file["labels"][:].tolist() == source.labels.tolist()
        assert file["ids"].asstr()[3] == "00003"


def test_the_same_extraction_twice_gives_the_same_bytes(source: MemorySource, tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        extract(source, open_backend(TINY, device="cpu"), tmp_path / name, progress=False)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def folder_of_pictures(root: Path) -> Path:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            for k in range(3):
                save_picture(root / split / label / f"{k}.jpg", seed=100 * len(split) + 10 * len(label + split) + k)
    return root


def test_the_command_on_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "f.h5"
    arguments = (
        "extract",
        "--model",
        TINY,
        "--data",
        f"imagefolder:{folder_of_pictures(tmp_path / 'in')}",
        "--out",
        out,
    )
    result = l2a(*arguments, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out}: 12 × 64")
    assert "torch on cpu, fp32, 12 images" in result.stderr
    found = read_features(out)
    assert found.meta.classes == ("cat", "dog")
    assert found.meta.splits == ("train", "test")
    assert_fails(l2a(*arguments), 1, str(out), "--resume", "--overwrite")
    again = l2a(*arguments, "--device", "cpu", "--resume")
    assert again.exit_code == 0, again.output
    assert "verified" in again.stdout


def test_onnxruntime_gives_the_features_of_torch(tmp_path: Path) -> None:
    data = f"imagefolder:{folder_of_pictures(tmp_path / 'in')}"
    for backend in ("torch", "onnxruntime"):
        result = l2a(
            "extract",
            "--model",
            TINY,
            "--data",
            data,
            "--backend",
            backend,
            "--device",
            "cpu",
            "--out",
            tmp_path / f"{backend}.h5",
        )
        assert result.exit_code == 0, result.output
    a, b = (read_features(tmp_path / f"{name}.h5") for name in ("torch", "onnxruntime"))
    assert (a.meta.backend, b.meta.backend) == ("torch", "onnxruntime")
    assert np.linalg.norm(a.features - b.features) < 1e-4 * np.linalg.norm(a.features)


def test_a_corrupt_image_names_itself_and_leaves_nothing(tmp_path: Path) -> None:
    root = folder_of_pictures(tmp_path / "in")
    bad = root / "test" / "dog" / "1.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    for workers in ("0", "2"):
        out = tmp_path / "f.h5"
        result = l2a("extract", "--model", TINY, "--data", f"imagefolder:{root}", "--out", out, "--workers", workers)
        assert_fails(result, 1, "1.jpg")
        assert not out.exists()


def test_bad_options(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "f.h5")
    mini = ("--data", "caltech-mini")
    assert_fails(l2a("extract", "--model", "vgg-att2-concat-cp", *mini, *out), 2, "vgg-att2-concat-pc")
    assert_fails(l2a("extract", "--model", TINY, "--data", "caltech-mino", *out), 2, "did you mean 'caltech-mini'")
    assert_fails(l2a("extract", "--model", TINY, *mini, *out, "--levels", "L2,L4"), 2, "L4", "L2")
    assert_fails(l2a("extract", "--model", TINY, *mini, *out, "--tap", "gabnrelu"), 2, "ga-bn-relu")
    assert_fails(l2a("extract", "--model", TINY, *mini, *out, "--lvels", "L2"), 2, "--levels")
    assert_fails(l2a("extrct", "--model", TINY), 2, "did you mean 'extract'")
    assert not (tmp_path / "f.h5").exists()


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        run(memory_source(rows=0), tmp_path / "f.h5")
