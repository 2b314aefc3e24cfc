"""WebDataset tar shards: members that are not files, forged headers, invalid labels."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from random import Random

import numpy as np

from fuzzing.kinds import Kind, sha256
from fuzzing.mutate import NAMES, RAW, VALUES, damaged_json, mutate, mutate_file, one_of, pick, special_file
from fuzzing.pictures import encoded, hostile_picture
from l2a_transfer.data.readers import open_source

BLOCK = tarfile.BLOCKSIZE
NUMBERS = (
    b"77777777777\0",
    b"00000000000\0",
    b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7,
    b"\xff" * 12,
    b"\x80" + b"\xff" * 11,
    b"-0000000001\0",
    b"99999999999\0",
    b"            ",
    b"00000001000\0",
    b"\x80" + bytes(11),
    b"0x10\0\0\0\0\0\0\0\0",
)


def seeds(folder: Path) -> None:
    contents = {"jpg": encoded("JPEG"), "png": encoded("PNG")}
    for name, form in (("ustar", tarfile.USTAR_FORMAT), ("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT)):
        (folder / name).mkdir()
        with tarfile.open(folder / name / "train-000.tar", "w", format=form) as tar:
            for row in range(6):
                long = "" if form == tarfile.USTAR_FORMAT else "ü" * 90
                suffix = ("jpg", "png")[row % 2]
                label = {"cls": str(row % 3).encode()} if row < 5 else {"json": b'{"label": 1, "more": [{}]}'}
                for extension, content in {suffix: contents[suffix], **label}.items():
                    add(tar, f"{long}{row}.{extension}", content)
        (folder / name / "classes.txt").write_text("ant\nbée\ncat\n", encoding="utf-8")


def answer(path: Path) -> str:
    source = open_source(f"wds:{path}")
    pictures = [sha256(np.asarray(source.image(row))) for row in range(min(len(source), 20))]
    source.fingerprint()  # has times of change, and so is no part of the answer
    return sha256(source.ids, source.labels, source.classes, source.splits, *pictures)


def add(tar: tarfile.TarFile, name: str, content: bytes, **changes: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content) if info.isreg() else None)


def _headers(path: Path, rng: Random) -> str:
    """Fields of headers forged, with renewed header checksums."""
    data = bytearray(path.read_bytes())
    starts = [at for at in range(0, len(data), BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.choice(starts)
        how = rng.randrange(6)
        if how <= 1:
            data[at + 124 : at + 136] = rng.choice(NUMBERS)
        elif how == 2:
            data[at + 156] = rng.choice(b"\x00012345678gxLKSVNDMAX\xff")
        elif how == 3:
            name = rng.choice(NAMES).encode("utf-8", "surrogatepass")[:100]
            data[at : at + 100] = name.ljust(100, b"\0")
        elif how == 4:
            field, width = rng.choice(
                (
                    (100, 8),
                    (108, 8),
                    (116, 8),
                    (136, 12),
                    (157, 100),
                    (329, 8),
                    (337, 8),
                    (345, 155),
                    (386, 100),
                    (482, 30),
                )
            )
            data[at + field : at + field + width] = (rng.choice(NUMBERS) * 13)[:width]
        else:
            data[at + rng.randrange(BLOCK)] ^= 1 << rng.randrange(8)
        header = data[at : at + BLOCK]
        header[148:156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    path.write_bytes(data)
    return "headers"


def _members(path: Path, rng: Random) -> str:
    """Members that no shard has: links, devices, sparse files, odd names, and pax records that override."""
    form = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    done = []
    with tarfile.open(path, "w", format=form, errors="surrogateescape") as tar:
        for row in range(3):
            add(tar, f"{row}.png", encoded("PNG"))
            add(tar, f"{row}.cls", b"0")
        for _ in range(rng.choice((1, 1, 3))):
            how = rng.choice(
                ("link", "device", "name", "pax", "picture", "label", "json", "many", "sparse", "long", "same")
            )
            done.append(how)
            if how == "link":
                kind = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE))
                add(tar, "9.png", b"", type=kind, linkname=rng.choice(("/etc/passwd", "9.png", "0.png", "../x")))
            elif how == "device":
                kind = rng.choice((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, b"Z"))
                add(tar, "9.png", b"", type=kind, devmajor=1, devminor=5)
            elif how == "name":
                name = rng.choice(NAMES).replace("\ud800", "\udc80") + rng.choice((".png", ".cls", "", "/"))
                add(tar, name, encoded("PNG"))
            elif how == "pax":
                record = rng.choice(
                    (
                        {"size": "99999999999"},
                        {"size": "-1"},
                        {"size": "a"},
                        {"path": "../x.png"},
                        {"path": "a\0b.png"},
                        {"mtime": "nan"},
                        {"mtime": "1e999"},
                        {
                            "GNU.sparse.major": "1",
                            "GNU.sparse.minor": "0",
                            "GNU.sparse.realsize": "99999999999",
                            "GNU.sparse.name": "8.png",
                        },
                        {"GNU.sparse.size": "9" * 30, "GNU.sparse.numblocks": "2", "GNU.sparse.map": "0,1,99999999,1"},
                        {"hdrcharset": "BINARY"},
                        {"uid": "9" * 5000},
                        {f"k{k}": "v" for k in range(20_000)},
                        {"comment": "x" * (2 << 20)},
                    )
                )
                add(tar, "9.png", encoded("PNG"), pax_headers=record)
            elif how == "picture":
                add(tar, "9.jpg", hostile_picture(rng))
            elif how == "label":
                add(tar, "8.png", encoded("PNG"))
                add(
                    tar,
                    "8.cls",
                    rng.choice((*map(str, VALUES), "9" * 10, "99999", "٣", "-1", "1_0", " 1 ", "+1")).encode(
                        "utf-8", "surrogatepass"
                    ),
                )
            elif how == "json":
                add(tar, "8.png", encoded("PNG"))
                note = rng.choice(
                    (damaged_json({"label": "ant"}, rng), damaged_json({"label": 1}, rng), rng.choice(RAW))
                )
                add(tar, "8.json", note.encode("utf-8", "surrogatepass"))
            elif how == "many":
                for k in range(3000):
                    add(tar, f"many/{k}.txt", b"")
            elif how == "sparse":
                add(tar, "9.png", b"", type=tarfile.GNUTYPE_SPARSE)
            elif how == "long":
                add(tar, "d/" * rng.choice((200, 1500, 5000)) + "9.png", encoded("PNG"))
            else:
                add(
                    tar,
                    rng.choice(("0.png", "0.PNG", "0.jpg", "./0.png", "a//0.png", "0.seg.png", "0.1.png")),
                    encoded("PNG"),
                )
    return " ".join(done)


def _joined(path: Path, rng: Random) -> str:
    """Shards joined, compressed, truncated, padded, or starting in the middle."""
    content = path.read_bytes()
    import bz2
    import gzip
    import lzma

    changed = rng.choice(
        (
            lambda: content + content,
            lambda: gzip.compress(content, mtime=0),
            lambda: bz2.compress(content),
            lambda: lzma.compress(content),
            lambda: content[: rng.randrange(len(content))],
            lambda: content + bytes(50 << 20),
            lambda: content[BLOCK:],
            lambda: bytes(BLOCK) + content,
            lambda: content.rstrip(b"\0"),
            lambda: bytes(20 * BLOCK),
            lambda: mutate(content[: 4 * BLOCK], rng) + content[4 * BLOCK :],
        )
    )()
    path.write_bytes(changed)
    return "joined"


def _classes(path: Path, rng: Random) -> str:
    names = rng.choice(
        (
            "ant\nant\ncat",
            "",
            "ant",
            "\ufeffant\nb\nc",
            "ant\r\nb\r\nc",
            "\n\n\nant\nb\nc",
            "a\n" * 1_000_000,
            "\n".join(rng.choice(NAMES) for _ in range(3)),
            "\n".join(map(str, range(100_001))),
            "\x85".join("abc"),
            "\x00\nb\nc",
        )
    )
    path.write_bytes(names.encode("utf-8", "surrogatepass"))
    return "classes"


damage = pick(
    (6, one_of(mutate_file, "*.tar")),
    (8, one_of(_headers, "*.tar")),
    (8, one_of(_members, "*.tar")),
    (2, one_of(_joined, "*.tar")),
    (1, one_of(_classes, "classes.txt")),
    (1, one_of(special_file)),
)
KIND = Kind(seeds, damage, answer, share=5)
