"""Large JPEG files that are decoded at a smaller scale, where that was asked for."""

from __future__ import annotations

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from l2a_transfer import open_backend, open_source
from l2a_transfer.data.decode import decode_bytes, decoded_at_least
from l2a_transfer.data.loader import pixel_batches
from l2a_transfer.errors import OutputExistsError, UnknownNameError
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.preprocess import Preprocess
from tests.conftest import l2a

SCALED = Preprocess(decode="scaled")


def picture(size: tuple[int, int] = (320, 240), *, kind: str = "JPEG", seed: int = 0, **options: object) -> bytes:
    """A picture of coloured blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(blocks).resize(size).save(content, kind, **options)  # type: ignore[arg-type]
    return content.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k in range(6):
        path = tmp_path / "set" / "ab"[k % 2] / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed=k))
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("size", "least", "expected"),
    [
        ((320, 240), 0, (320, 240)),
        ((320, 240), 120, (160, 120)),
        ((320, 240), 121, (320, 240)),  # a half would leave too few
        ((321, 241), 64, (161, 121)),  # rounded up
        ((320, 240), 30, (40, 30)),
        ((320, 240), 1, (40, 30)),  # no smaller scale than an eighth
        ((240, 320), 60, (60, 80)),
    ],
)
def test_the_smallest_scale_that_leaves_enough(size: tuple[int, int], least: int, expected: tuple[int, int]) -> None:
    with decoded_at_least(least):
        assert decode_bytes(picture(size), "x").size == expected
    assert decode_bytes(picture(size), "x").size == size  # as before


def test_other_formats_and_other_modes_of_jpeg() -> None:
    with decoded_at_least(60):
        assert decode_bytes(picture(kind="PNG"), "x").size == (320, 240)
        assert decode_bytes(picture(kind="WEBP"), "x").size == (320, 240)
        assert decode_bytes(picture(progressive=True), "x").size == (80, 60)
        content = io.BytesIO()
        Image.open(io.BytesIO(picture()), formats=["JPEG"]).convert("L").save(content, "JPEG")
        found = decode_bytes(content.getvalue(), "x")
        assert (found.mode, found.size) == ("RGB", (80, 60))
        exif = Image.Exif()
        exif[0x0112] = 6
        assert decode_bytes(picture(exif=exif), "x").size == (60, 80)


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_pixels_are_close_to_those_of_exact_decoding_and_not_the_same(folder: Path, fit: str) -> None:
    source = open_source(f"imagefolder:{folder}")
    exact, scaled = (
        next(iter(pixel_batches(source, Preprocess(fit=fit, decode=decode), [range(6)]))).images_u8.astype(int)
        for decode in ("exact", "scaled")
    )
    difference = np.abs(exact - scaled)
    assert 0 < difference.mean() < 4


def test_what_is_recorded() -> None:
    assert "decode" not in Preprocess().to_json()  # files of earlier versions, and their fingerprints, stay the same
    assert SCALED.to_json()["decode"] == "scaled"
    assert Preprocess.from_json(SCALED.to_json()) == SCALED
    assert Preprocess.from_json(Preprocess().to_json()) == Preprocess()
    assert (SCALED.least_side, Preprocess().least_side) == (64, 0)
    assert Preprocess(224, "crop", resize=256, decode="scaled").least_side == 512
    assert SCALED.changed(size=64).decode == "scaled"
    assert SCALED.changed(decode="exact") == Preprocess()
    with pytest.raises(UnknownNameError, match=r"decode must be .*scaled.*got 'scale'"):
        Preprocess(decode="scale")


def test_a_feature_file_says_how_pictures_were_decoded_and_is_not_taken_for_another(folder: Path) -> None:
    out = folder.parent / "features.h5"
    model, data = "vgg-att2-concat-pc.cifar10-w025", f"imagefolder:{folder}"
    extract(data, open_backend(model, device="cpu", decode="scaled"), out, workers=0, progress=False)
    with h5py.File(out) as file:
        assert json.loads(file.attrs["preprocess"])["decode"] == "scaled"
        assert json.loads(file.attrs["card"])["preprocess"]["decode"] == "scaled"
    with pytest.raises(OutputExistsError, match="preprocess"):
        extract(data, open_backend(model, device="cpu"), out, workers=0, progress=False, resume=True)


@pytest.mark.slow
def test_the_command_line_trains_and_extracts_with_it(folder: Path) -> None:
    runs = folder.parent / "runs"
    options = ["--epochs", "1", "--width", "0.03125", "--batch-size", "2", "--holdout", "2", "--workers", "0"]
    l2a(
        "train",
        "--model",
        "vgg-gap",
        "--data",
        f"imagefolder:{folder}",
        "--out",
        str(runs),
        "--decode",
        "scaled",
        *options,
    )
    weights = next(runs.glob("*.safetensors"))
    out = folder.parent / "own.h5"
    l2a("extract", "--model", str(weights), "--data", f"imagefolder:{folder}", "--out", str(out))
    with h5py.File(out) as file:
        assert json.loads(file.attrs["preprocess"])["decode"] == "scaled"  # the model's own
    l2a(
        "extract",
        "--model",
        str(weights),
        "--data",
        f"imagefolder:{folder}",
        "--out",
        str(out),
        "--decode",
        "exact",
        "--overwrite",
    )
    with h5py.File(out) as file:
        assert "decode" not in json.loads(file.attrs["preprocess"])
