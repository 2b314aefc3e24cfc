"""Maps: the hottest position gets the top colour, sizes are kept, and the sheet is one picture."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from l2a_transfer.errors import ArgumentError, BackendError
from l2a_transfer.explain.dispatch import scaled_size
from l2a_transfer.explain.draw import MAX_PICTURES, contact_sheet, sheet_png
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.explain.maps import attention_maps
from l2a_transfer.explain.overlay import colors, heat, overlay
from l2a_transfer.models.loading import load_model
from tests.conftest import TINY, assert_fails, l2a, save_picture

TOP = (252, 254, 164)


def test_heat_is_the_share_of_the_largest_weight() -> None:
    weights = np.array([[0.1, 0.2], [0.3, 0.4]], dtype=np.float32)
    expected = np.repeat(np.repeat([[0.25, 0.5], [0.75, 1.0]], 2, axis=0), 2, axis=1)
    np.testing.assert_allclose(heat(weights, (4, 4)), expected, rtol=1e-6)


def test_the_hottest_position_gets_the_top_colour_and_no_other_does() -> None:
    weights = np.full((4, 6), 0.01, dtype=np.float32)
    weights[1, 5] = 0.77
    picture = np.full((32, 48, 3), 128, dtype=np.uint8)
    drawn = overlay(picture, heat(weights, (48, 32)))
    top = np.all(drawn == TOP, axis=2)
    assert top[8:16, 40:48].all()
    assert top.sum() == 8 * 8


def test_no_attention_leaves_the_grey_picture() -> None:
    picture = np.full((4, 4, 3), 90, dtype=np.uint8)
    np.testing.assert_array_equal(overlay(picture, np.zeros((4, 4), dtype=np.float32)), picture)


def test_colors_run_over_the_whole_map() -> None:
    found = colors(np.array([[0.0, 1.0]], dtype=np.float32))
    assert tuple(found[0, 1]) == TOP
    assert found[0, 0].sum() < 10


def test_uniform_attention_has_peak_one() -> None:
    network, card = load_model("untrained:vgg-att2-concat-uniform@0.0625")
    result = attention_maps((network, card), Image.new("RGB", (50, 40), "red"))
    assert [result.peak(level) for level in ("L2", "L3")] == pytest.approx([1, 1])


def test_attention_that_is_not_finite_is_refused_by_name() -> None:
    network, card = load_model("untrained:vgg-att2-concat-pc@0.0625")
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(BackendError, match=r"^red\.png: attention that is not finite at L2, L3; use other weights"):
        attention_maps((network, card), Image.new("RGB", (50, 40), "red"), names="red.png")


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((300, 200), 128, (192, 128)),
        ((32, 32), 128, (128, 128)),
        ((48, 1000), 64, (48, 1024)),
        ((5000, 50), 128, (1024, 12)),
    ],
)
def test_scaled_size_keeps_the_aspect(size: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    assert scaled_size(*size, side) == expected


def test_maps_have_the_resolution_of_their_level_and_sum_to_one() -> None:
    network, card = load_model(TINY)
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (100, 150, 3), dtype=np.uint8))
    network.train()
    result = attention_maps((network, card), picture, side=64)
    assert network.training
    assert result.image.shape == (64, 96, 3)
    assert {level: m.shape for level, m in result.maps.items()} == {"L2": (32, 48), "L3": (16, 24)}
    for weights in result.maps.values():
        assert weights.sum() == pytest.approx(1, abs=1e-5)


def test_a_network_without_attention_has_no_maps() -> None:
    network, card = load_model("untrained:vgg@0.0625")
    with pytest.raises(BackendError, match="vgg has no attention"):
        attention_maps((network, card), Image.new("RGB", (32, 32)))


def test_the_sheet_is_a_picture_that_shows_the_top_colour(tmp_path: Path) -> None:
    weights = np.zeros((4, 4), dtype=np.float32)
    weights[2, 2] = 1
    result = ImageMaps("one", np.full((64, 64, 3), 128, dtype=np.uint8), {"L2": weights}, {"L2": "distribution"})
    contact_sheet([result], tmp_path / "sheet.png", title="t")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    assert (np.abs(pixels.astype(int) - TOP).max(axis=1) <= 1).sum() > 50
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


def test_the_command_writes_an_overlay_a_level_and_one_sheet(tmp_path: Path) -> None:
    pictures = [save_picture(tmp_path / "in" / folder / "a.jpg", seed) for seed, folder in enumerate("xy")]
    out = tmp_path / "out"
    result = l2a("maps", "--model", TINY, "--out", out, "--side", "64", *pictures)
    assert result.exit_code == 0, result.output
    names = ["000-a-L2.png", "000-a-L3.png", "001-a-L2.png", "001-a-L3.png", "attention.png"]
    assert sorted(p.name for p in out.iterdir()) == names
    assert result.stdout.splitlines() == [str(out / name) for name in names]
    assert_fails(l2a("maps", "--model", TINY, "--out", out, *pictures), 1, "attention.png", "--overwrite")


def test_two_pictures_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [save_picture(tmp_path / folder / "0.jpg", seed=k) for k, folder in enumerate(("cat", "dog"))]
    shown: list[str] = []
    monkeypatch.setattr(
        "l2a_transfer.explain.draw.sheet_png", lambda results, **_: shown.extend(r.name for r in results) or b""
    )
    assert l2a("maps", "--model", TINY, "--out", tmp_path / "m", *pictures).exit_code == 0
    assert l2a("maps", "--model", TINY, "--out", tmp_path / "n", pictures[0]).exit_code == 0
    assert shown == ["cat/0.jpg", "dog/0.jpg", "0.jpg"]


def test_a_picture_that_is_not_one(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    assert_fails(l2a("maps", "--model", TINY, "--out", tmp_path / "out", bad), 1, "bad.jpg")
    assert_fails(l2a("maps", "--model", TINY, "--out", tmp_path / "out", tmp_path / "none.jpg"), 1, "none.jpg")
    assert not (tmp_path / "out").exists()
    good = save_picture(tmp_path / "good.jpg")
    assert_fails(
        l2a("maps", "--model", TINY, "--out", tmp_path / "out", "--side", "2", good), 2, "side must be between"
    )


@pytest.mark.parametrize("levels", [("pixels",), ("L2", "L3")])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("sides", [[(8, 32)], [(32, 8)], [(8, 32), (32, 32), (64, 8)]])
def test_a_contact_sheet_has_no_empty_band_and_cuts_no_text(
    levels: tuple[str, ...], signed: bool, sides: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (save(figure, *a, **k), figures.append(figure)))
    results = [
        ImageMaps(
            "x" * 40,
            np.zeros((*side, 3), np.uint8),
            dict.fromkeys(levels, np.eye(4, dtype=np.float32)),
            dict.fromkeys(levels, "signed" if signed else "non-negative"),
        )
        for side in sides
    ]
    png = sheet_png(
        results, title="Attention of vgg-att2-concat-pc.cifar10-w025, on photographs " + "it has never seen " * 3
    )
    (figure,) = figures
    width, height = figure.canvas.get_width_height()
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= width + 0.5
            assert box.y1 <= height + 0.5
    grey = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    blank = "".join(" " if row else "x" for row in (grey == 255).all(axis=1))
    assert max(map(len, re.findall(" +", blank))) < 30  # pixels, of 237 that a picture is wide


def test_more_pictures_than_a_sheet_holds_are_refused_before_any_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(MAX_PICTURES + 1):
        (folder / f"{number}.png").touch()
    done = l2a("maps", "--model", TINY, "--out", tmp_path / "out", folder)
    assert_fails(
        done, 2, "a sheet can have at most 500 pictures, got 501; draw them in several runs, each with its own --out"
    )
    assert not (tmp_path / "out").exists()
    one = ImageMaps("a", np.zeros((8, 8, 3), np.uint8), {"L2": np.ones((2, 2), np.float32)}, {"L2": "distribution"})
    with pytest.raises(ArgumentError, match="at most 500 pictures"):
        contact_sheet([one] * (MAX_PICTURES + 1), tmp_path / "sheet.png", title="x")
    assert not (tmp_path / "sheet.png").exists()
