"""No picture takes more time, memory or trust than it should, whatever its bytes say."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2a_transfer.data import decode, decode_pixels, decode_subprocess
from l2a_transfer.data.decode import decode_bytes
from l2a_transfer.data.decode_pixels import decode_in_process
from l2a_transfer.data.loader import pixel_batches
from l2a_transfer.data.picture_structure import format_of, is_simple, jpeg_scans
from l2a_transfer.data.readers import open_source
from l2a_transfer.errors import DataError, SourceError
from l2a_transfer.preprocess import Preprocess
from tests.conftest import MemorySource, memory_source, save_picture
from tests.hostile import PICTURES, eps, grey_of_16_bits, jpeg_of_scans, png_file, png_of_chunks

linux = pytest.mark.skipif(sys.platform != "linux", reason="the limits of memory and time are Linux's")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_jpeg_of_hundreds_of_scans_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(DataError, match=r"p\.jpg: a JPEG with more than 100 scans"):
        decode_bytes(jpeg_of_scans(400), "p.jpg")
    assert decode_bytes(jpeg_of_scans(60), "p.jpg").size == (64, 64)


def test_what_follows_a_jpeg_is_no_scan_of_it() -> None:
    content = saved(noise(64, 64), "JPEG", progressive=True)
    film = content + b"\xff\xda" * 400
    assert jpeg_scans(film, 100) == content.count(b"\xff\xda")
    assert decode_bytes(film, "p.jpg").tobytes() == decode_bytes(content, "p.jpg").tobytes()


def test_scans_in_a_long_file_are_found_wherever_they_are() -> None:
    for before in ((1 << 20) - 2, (1 << 20) - 1, 1 << 20):
        assert jpeg_scans(b"\xff\xd8\xff\xe0" + bytes(before - 4) + b"\xff\xda" + bytes(100), 5) == 1


@pytest.mark.slow
@linux
def test_grey_of_16_bits_takes_no_more_memory_than_colours() -> None:
    code = """
import os, resource, sys
from l2a_transfer.data.decode_pixels import decode_in_process
content = sys.stdin.buffer.read()
used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + (450 << 20),) * 2)
print(decode_in_process(content, "p.png").getpixel((4999, 4999)))
"""
    content = grey_of_16_bits(5_000, 5_000)
    child = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=False)
    assert child.stdout == b"(0, 0, 0)\n", child.stderr


def test_tiles_of_a_large_picture_are_put_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 65536, (9, 7), dtype=np.uint16)
    content = png_file((7, 9), 16, 0, b"".join(b"\0" + row.astype(">u2").tobytes() for row in grey))
    clear = saved(noise(7, 9).convert("RGBA").rotate(3), "PNG")
    whole = [np.asarray(decode_bytes(picture, "p")) for picture in (content, clear)]
    monkeypatch.setattr(decode_pixels, "TILE", 4)
    for picture, expected in zip((content, clear), whole, strict=True):
        np.testing.assert_array_equal(np.asarray(decode_bytes(picture, "p")), expected)
    np.testing.assert_array_equal(whole[0][:, :, 0], np.round(grey / 257))


KINDS = {
    "TIFF": saved(noise(50, 40), "TIFF", compression="tiff_lzw"),
    "many chunks": png_of_chunks(60_000),
    "numbers as text": b"P2 2 1 255 7 9 ",
    "other range": b"P5 2 1 99 " + bytes([7, 99]),
    "one strip a row": saved(noise(50, 40).rotate(90, expand=True), "TIFF"),
    "jpeg with junk": saved(noise(50, 40), "JPEG").replace(b"\xff\xdb", b"\xff\xff\xdb", 1),
    "large": saved(Image.new("L", (6000, 6000), 3), "PNG", compress_level=1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_decoded_apart_is_the_same_picture(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_simple(KINDS[kind], format_of(KINDS[kind]) or "")
    monkeypatch.setattr(decode_subprocess, "STRIP_BYTES", 1000)
    found = decode_bytes(KINDS[kind], "p")
    assert found.mode == "RGB"
    assert found.tobytes() == decode_in_process(KINDS[kind], "p").tobytes()


MEMORY = saved(Image.new("RGB", (4000, 4000)), "TIFF", compression="tiff_lzw")
"""64 MB once decoded."""

SIMPLE = {
    "jpeg": saved(noise(50, 40), "JPEG"),
    "progressive": saved(noise(50, 40), "JPEG", progressive=True),
    "png": saved(noise(50, 40), "PNG"),
    "webp": saved(noise(50, 40), "WEBP"),
    "lossless webp": saved(noise(50, 40), "WEBP", lossless=True),
    "clear webp": saved(noise(50, 40).convert("RGBA").rotate(5), "WEBP"),
    "gif": saved(noise(50, 40), "GIF", comment=b"hello"),
    "bmp": saved(noise(50, 40), "BMP"),
    "ppm": saved(noise(50, 40), "PPM"),
    "pgm": saved(noise(50, 40).convert("L"), "PPM"),
    "pbm": saved(noise(50, 40).convert("1"), "PPM"),
}


@pytest.mark.parametrize("kind", SIMPLE)
def test_usual_pictures_are_decoded_in_this_process(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "decode_in_subprocess", None)
    assert decode_bytes(SIMPLE[kind], "p").size == (50, 40)


def with_chunk(content: bytes, at: int, name: bytes, body: bytes) -> bytes:
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return content[:at] + chunk + content[at:]


def jpeg_of_two_sizes() -> bytes:
    content = SIMPLE["jpeg"]
    at = content.index(b"\xff\xc0")
    size = content[at : at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")]
    return content[:at] + size[:5] + b"\x00\x01\x00\x01" + size[9:] + content[at:]


def webp_of_two_sizes() -> bytes:
    content = SIMPLE["clear webp"]
    at = 12 + 8 + 10
    assert content[12:16] == b"VP8X"
    return content[:at] + content[12:at] + content[at:]


GIF_HEAD = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0)
SMALL_FRAME = b"\x2c" + struct.pack("<4HB", 0, 0, 8, 8, 0)
UNCLEAR = {
    "png of two headers": with_chunk(SIMPLE["png"], 8, b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
    "png of two headers, later": with_chunk(SIMPLE["png"], 33, b"IHDR", SIMPLE["png"][16:29]),
    "png whose header is the second chunk": with_chunk(SIMPLE["png"], 8, b"aaAa", b"\0\0\0\1\0\0\0\1\0\0\0\0\0"),
    "jpeg of two sizes": jpeg_of_two_sizes(),
    "webp of two sizes": webp_of_two_sizes(),
    "webp of another first chunk": SIMPLE["webp"][:12] + b"JUNK" + SIMPLE["webp"][16:],
    "bmp of a negative width": SIMPLE["bmp"][:18] + struct.pack("<i", -50) + SIMPLE["bmp"][22:],
    "gif frame beyond its screen": GIF_HEAD + b"\x2c" + struct.pack("<4HB", 60_000, 0, 8, 60_000, 0) + bytes(9),
    "gif note of small blocks": GIF_HEAD + b"\x21\xfe" + b"\x01a" * 2000 + b"\0" + SMALL_FRAME + bytes(9),
    "gif of an empty extension": GIF_HEAD + b"\x21\xf9\0" + SMALL_FRAME + bytes(99),
    "gif of an empty loop": GIF_HEAD + b"\x21\xff\x0bNETSCAPE2.0\0" + SMALL_FRAME + bytes(99),
}
"""What a decoder may take for another picture, or another size, than a glance at the headers shows."""


@pytest.mark.parametrize("kind", UNCLEAR)
def test_a_picture_that_decoders_may_take_for_another_is_not_simple(kind: str) -> None:
    assert not is_simple(UNCLEAR[kind], format_of(UNCLEAR[kind]) or "")


@linux
def test_a_picture_of_more_memory_than_is_allowed_is_refused_and_the_next_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as limits:
        limits.setattr(decode, "MAX_MEMORY", 32 << 20)
        with pytest.raises(DataError, match=r"p\.tif: decoding takes more memory than is available or allowed"):
            decode_bytes(MEMORY, "p.tif")
    assert decode_bytes(MEMORY, "p.tif").size == (4000, 4000)


@pytest.mark.slow
@linux
def test_a_picture_that_takes_too_long_is_refused_and_the_next_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(noise(3000, 3000), "TIFF", compression="tiff_lzw")
    with monkeypatch.context() as limits:
        limits.setattr(decode, "MAX_SECONDS", 0.001)
        with pytest.raises(DataError, match=r"p\.tif: decoding takes more than 0\.001 s of CPU time"):
            decode_bytes(content, "p.tif")
    assert decode_bytes(content, "p.tif").size == (3000, 3000)


def test_a_crash_of_a_decoder_is_the_picture_s(monkeypatch: pytest.MonkeyPatch) -> None:
    decode_subprocess._close()
    code = "import os, signal, sys; sys.stdin.buffer.read(40); os.kill(os.getpid(), signal.SIGSEGV)"
    with monkeypatch.context() as crash:
        crash.setattr(decode_subprocess, "CODE", code)
        with pytest.raises(DataError, match=r"p\.tif: crashes its decoder \(SIGSEGV\)"):
            decode_bytes(KINDS["TIFF"], "p.tif")
    assert decode_bytes(KINDS["TIFF"], "p.tif").size == (50, 40)


def test_a_decoder_that_was_ended_by_others_is_replaced() -> None:
    decode_bytes(KINDS["TIFF"], "p.tif")
    assert decode_subprocess._State.decoder
    process = decode_subprocess._State.decoder.process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert decode_bytes(KINDS["TIFF"], "p.tif").size == (50, 40)


def test_a_fault_found_apart_names_the_file_and_the_remedy() -> None:
    with pytest.raises(DataError, match=r"ü\.jpg: corrupt or truncated picture: .*; replace the file") as fault:
        decode_bytes(KINDS["jpeg with junk"][:-500], "ü.jpg")
    assert "\n" not in str(fault.value)


def test_an_interrupted_question_is_not_answered_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as pressed:
        pressed.setattr(decode_subprocess, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            decode_bytes(KINDS["TIFF"], "p.tif")
    assert decode_bytes(KINDS["numbers as text"], "p.pgm").size == (2, 1)


def test_a_picture_is_not_skipped_because_no_process_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_subprocess._close()
    (tmp_path / "p.tif").write_bytes(KINDS["TIFF"])
    source = open_source(f"imagefolder:{tmp_path}")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    with pytest.raises(SourceError, match=r"p\.tif: cannot start a process to decode it: No such file"):
        list(pixel_batches(source, Preprocess(), [range(1)], on_error="skip"))


def test_a_picture_that_this_process_has_no_memory_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise MemoryError

    with monkeypatch.context() as small:
        small.setattr(decode_subprocess, "_read_picture", full)
        with pytest.raises(DataError, match=r"p\.tif: needs more memory than is available"):
            decode_bytes(KINDS["TIFF"], "p.tif")
    assert decode_bytes(KINDS["TIFF"], "p.tif").size == (50, 40)


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_leaves_out_what_the_limits_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(decode, "MAX_MEMORY", 32 << 20)
    save_picture(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(jpeg_of_scans(400))
    (tmp_path / "c.tif").write_bytes(KINDS["TIFF"])
    (tmp_path / "d.tif").write_bytes(MEMORY)
    source = open_source(f"imagefolder:{tmp_path}")
    source.image(2)  # this process has a decoder too, which no worker may use
    batches = list(pixel_batches(source, Preprocess(), [range(4), range(2, 3)], workers=workers, on_error="skip"))
    refused = {1, 3} if sys.platform == "linux" else {1}
    assert set(batches[0].faulty) == refused
    assert batches[1].faulty == {}
    np.testing.assert_array_equal(batches[0].images_u8[2], batches[1].images_u8[0])
    assert batches[1].images_u8.any()


class Huge(MemorySource):
    """A set one picture of which takes more memory than there is."""

    def image(self, row: int) -> Image.Image:
        if row == 1:
            raise MemoryError
        return super().image(row)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_memory_is_too_small_for_is_skipped_or_named(workers: int) -> None:
    small = memory_source(rows=4)
    source = Huge(small.pictures, small.labels, small.classes)
    (batch,) = pixel_batches(source, Preprocess(), [range(4)], workers=workers, on_error="skip")
    assert batch.faulty == {1: "memory: 00001: needs more memory than is available; make it smaller, or remove it"}
    with pytest.raises(DataError, match="00001: needs more memory"):
        list(pixel_batches(source, Preprocess(), [range(4)], workers=workers))


@pytest.mark.skipif(sys.platform == "win32", reason="the program is a shell script")
def test_no_picture_starts_ghostscript(tmp_path: Path, ghostscript: Path) -> None:
    with pytest.raises(DataError, match="not a picture"):
        decode_bytes(eps(), "p.jpg")
    assert not ghostscript.exists()
    with contextlib.suppress(OSError), Image.open(io.BytesIO(eps())) as picture:
        picture.load()
    assert ghostscript.exists()  # Pillow alone does


LOADERS = {
    "Image.open": "formats",
    "torch.load": "weights_only",
    "np.load": "allow_pickle",
    "pickle.load": None,
    "pickle.loads": None,
    "pickle.Unpickler": None,
    "datasets.CIFAR10": None,
    "datasets.CIFAR100": None,
    "scipy.io.loadmat": None,
    "joblib.load": None,
    "default_loader": None,
    "pil_loader": None,
}
"""What reads files, and the argument without which it believes them; None where nothing makes it safe."""


def test_nothing_in_the_package_opens_a_picture_or_a_pickle_without_limits() -> None:
    found = []
    for path in sorted(Path(decode.__file__).parents[1].rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (called := ast.unparse(node.func)).endswith(tuple(LOADERS)):
                given = {keyword.arg for keyword in node.keywords}
                found.append((path.name, called, LOADERS.get(called) in given))
    # torch.load reads checkpoints of other programs, by weights_only; all others go through `saved.py`.
    assert sorted({called for _, called, _ in found}) == ["Image.open", "torch.load"]
    assert [name for name, called, _ in found if called == "torch.load"] == ["checkpoint.py"]
    assert [entry for entry in found if not entry[2]] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", PICTURES)
def test_each_hostile_picture_is_read_or_refused(kind: str) -> None:
    read = {"chunks": (8, 8), "grey": (10_000, 9_999)}
    try:
        found = decode_bytes(PICTURES[kind](), f"{kind}.jpg")
    except DataError as error:
        assert str(error).startswith(f"{kind}.jpg: ")  # noqa: PT017 - one of both ends is as good
        assert kind not in read
    else:
        assert found.size == read.get(kind, (1, 1))
