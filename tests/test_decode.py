"""Any picture becomes the RGB that a viewer would show; nothing else gets through."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from l2a_transfer.data.decode import FORMATS, decode_bytes, decode_file
from l2a_transfer.errors import DataError
from tests.conftest import save_picture
from tests.hostile import png_file


def pixel(path: Path, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = decode_file(path)
    assert image.mode == "RGB"
    found = image.getpixel((x, y))
    assert isinstance(found, tuple)
    return found


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 100, 200, 51), (204, 224, 244)),  # a fifth of the colour, four fifths of white
        ("LA", (60, 0), (255, 255, 255)),
        ("LA", (60, 255), (60, 60, 60)),
    ],
)
def test_modes_of_png(tmp_path: Path, mode: str, colour: int | tuple[int, ...], expected: tuple[int, ...]) -> None:
    Image.new(mode, (4, 3), colour).save(tmp_path / "p.png")
    assert pixel(tmp_path / "p.png") == expected


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "p.png")
    assert (pixel(tmp_path / "p.png"), pixel(tmp_path / "p.png", 1)) == ((1, 2, 3), (200, 100, 50))
    image.save(tmp_path / "t.png", transparency=1)
    assert (pixel(tmp_path / "t.png"), pixel(tmp_path / "t.png", 1)) == ((1, 2, 3), (255, 255, 255))
    image.save(tmp_path / "g.gif", transparency=0)
    assert (pixel(tmp_path / "g.gif"), pixel(tmp_path / "g.gif", 1)) == ((255, 255, 255), (200, 100, 50))


def test_a_transparent_colour_of_rgb_and_grey(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (9, 8, 7)).save(tmp_path / "p.png", transparency=(9, 8, 7))
    assert pixel(tmp_path / "p.png") == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    for name in ("p.png", "p.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert [pixel(tmp_path / name, x)[0] for x in range(4)] == [0, 1, 100, 255]
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "i.tif")
    assert [pixel(tmp_path / "i.tif", x)[0] for x in range(4)] == [0, 1, 100, 255]


def test_pixels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(DataError, match=r"i\.tif: the range of integer pixels outside"):
        decode_file(tmp_path / "i.tif")
    Image.fromarray(np.array([[0.5]], dtype=np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match=r"f\.tif: the range of floating-point pixels"):
        decode_file(tmp_path / "f.tif")


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    red, green, blue = pixel(tmp_path / "c.jpg", 8, 8)
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    # What a viewer shows is one picture; the file stores it turned, and says how to turn it back.
    shown = np.zeros((16, 32, 3), dtype=np.uint8)
    shown[:8, :16] = (255, 0, 0)
    shown[:8, 16:] = (0, 255, 0)
    shown[8:, :16] = (0, 0, 255)
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: np.rot90(shown),
        7: shown[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "p.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(decode_file(tmp_path / "p.png")), shown)


def test_a_note_that_cannot_be_read_turns_nothing(tmp_path: Path) -> None:
    save_picture(tmp_path / "p.jpg")
    content = (tmp_path / "p.jpg").read_bytes()
    broken = b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 20
    (tmp_path / "p.jpg").write_bytes(
        content[:2] + b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken + content[2:]
    )
    assert decode_file(tmp_path / "p.jpg").size == (40, 48)


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow reads no AVIF")
def test_a_damaged_avif_is_named() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 10, 30)).save(buffer, "AVIF")
    content = buffer.getvalue()
    at = content.index(b"mdat") + 4
    with pytest.raises(DataError, match=r"p\.avif: corrupt or truncated picture"):
        decode_bytes(content[:at] + bytes(len(content) - at), "p.avif")


def png_header(width: int, height: int) -> bytes:
    return png_file((width, height), 8, 0, bytes(64))


@pytest.mark.parametrize(
    ("depth", "row", "key", "expected"),
    [
        (1, [0b01000000], 0, [255, 255]),
        (1, [0b01000000], 1, [0, 255]),
        (2, [0b00011011], 1, [0, 255, 170, 255]),
        (2, [0b00011011], 2, [0, 85, 255, 255]),
        (4, [0x01, 0x5F], 5, [0, 17, 255, 255]),
        (4, [0x01, 0x5F], 0, [255, 17, 85, 255]),
        (8, [0, 1, 5, 254], 5, [0, 1, 255, 254]),
        (16, [0x12, 0x34, 0x12, 0x35], 0x1234, [255, 18]),
    ],
)
def test_the_transparent_grey_of_a_png_of_any_depth_is_white(
    depth: int, row: list[int], key: int, expected: list[int]
) -> None:
    content = png_file((len(expected), 1), depth, 0, bytes([0, *row]), struct.pack(">H", key))
    found = np.asarray(decode_bytes(content, "p.png"))
    assert found.tolist() == [[[grey] * 3 for grey in expected]]


def test_a_transparent_colour_that_eight_bits_cannot_tell_is_refused() -> None:
    colours = struct.pack(">3H3H", 0x1234, 0x5678, 0x9ABC, 0x1200, 0x5600, 0x9A00)
    content = png_file((2, 1), 16, 2, b"\0" + colours, colours[:6])
    with pytest.raises(DataError, match=r"p\.png: 16 bits per channel with a transparent colour.*alpha channel"):
        decode_bytes(content, "p.png")
    found = np.asarray(decode_bytes(png_file((2, 1), 16, 2, b"\0" + colours), "p.png"))
    assert found.tolist() == [[[0x12, 0x56, 0x9A]] * 2]


@pytest.mark.parametrize("side", [40_000, 12_000])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    with pytest.raises(DataError, match=r"bomb\.png: .*at most 100 million are decoded"):
        decode_file(tmp_path / "bomb.png")


@pytest.mark.parametrize("size", [(1, 70_000), (70_000, 1)])
def test_a_strip_that_is_too_long_to_resize_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"strip\.png: .* pixels; at most 65,535 per side are decoded"):
        decode_bytes(png_header(*size), "strip.png")
    assert decode_bytes(png_file((1, 65_535), 8, 2, b"\0\1\2\3" * 65_535), "strip.png").size == (1, 65_535)


def test_just_below_the_limit_is_judged_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png_header(9_900, 9_900))
    with pytest.raises(DataError, match="corrupt or truncated"):
        decode_file(tmp_path / "p.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
def test_truncated_and_other_files_name_themselves(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p.{suffix}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    for keep in (10, len(content) // 2, len(content) * 9 // 10):
        path.write_bytes(content[:keep])
        with pytest.raises(DataError, match=rf"p\.{suffix}: (not a picture|corrupt or truncated)"):
            decode_file(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="empty file"):
        decode_file(path)
    path.write_text("not a picture")
    with pytest.raises(DataError, match="not a picture"):
        decode_file(path)
    path.unlink()
    with pytest.raises(DataError, match=rf"p\.{suffix}: cannot be read"):
        decode_file(path)


def test_formats_that_start_programs_are_not_tried(tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match="not a picture"):
        decode_file(tmp_path / "p.jpg")


@given(st.data())
def test_a_mutated_picture_is_an_error_or_a_picture(data: st.DataObject) -> None:
    base = bytearray(png_header(5, 5) if data.draw(st.booleans()) else SMALL_JPEG)
    for _ in range(data.draw(st.integers(1, 6))):
        base[data.draw(st.integers(0, len(base) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_bytes(bytes(base), "x").mode
    except DataError as error:
        found = str(error)[:3]
    assert found in ("RGB", "x: ")


def _small_jpeg() -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(buffer, "JPEG")
    return buffer.getvalue()


SMALL_JPEG = _small_jpeg()
