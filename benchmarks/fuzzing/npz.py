"""Arrays in an `.npz`: zip entries and array headers that declare more data than there is, or other data."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

from fuzzing.kinds import Kind, sha256
from fuzzing.mutate import NAMES, mutate, mutate_file, pick, special_file
from l2a_transfer.data.readers import open_source

ROWS = 6


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (ROWS, 5, 4, 3), dtype=np.uint8),
        "labels": np.arange(ROWS) % 3,
        "classes": np.array(["ant", "bée", "cat"]),
        "ids": np.array([f"a/{k}" for k in range(ROWS)]),
        "split": np.array(["train", "test"] * 3),
    }


def seeds(folder: Path) -> None:
    own = arrays()
    np.savez(folder / "plain.npz", **{key: own[key] for key in ("images", "labels")})
    np.savez_compressed(folder / "named.npz", **own)
    parts = {"train": slice(0, 4), "val": slice(4, 5), "test": slice(5, 6)}
    medmnist = {f"{part}_{key}": own[key][rows] for part, rows in parts.items() for key in ("images", "labels")}
    np.savez(folder / "medmnist.npz", **medmnist)


def answer(path: Path) -> str:
    source = open_source(f"npz:{path}")
    pictures = [sha256(np.asarray(source.image(row))) for row in range(min(len(source), 20))]
    source.fingerprint()  # has times of change, and so is no part of the answer
    return sha256(source.ids, source.labels, source.split, source.splits, source.classes, *pictures)


def array_file(header: str, body: bytes, version: bytes = b"\1\0") -> bytes:
    text = header.encode("utf-8", "surrogatepass")
    form = "<H" if version == b"\1\0" else "<I"
    return (
        b"\x93NUMPY" + version + struct.pack(form, min(len(text), (1 << 8 * struct.calcsize(form)) - 1)) + text + body
    )


HEADERS = (
    "{'descr': '|u1', 'fortran_order': False, 'shape': (6, 5, 4, 3), }\n",
    "{'descr': '|u1', 'fortran_order': True, 'shape': (6, 5, 4, 3), }\n",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 5, 4, 3), }\n",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-6, 5, 4, 3), }\n",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296, 4294967296, 3), }\n",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775807, 2, 1), }\n",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 99999999999), }\n",
    "{'descr': '|u1', 'fortran_order': False, 'shape': " + "(1, " * 80 + ")" * 80 + ", }\n",
    "{'descr': '|O', 'fortran_order': False, 'shape': (6,), }\n",
    "{'descr': [('a', '|O'), ('b', '<i4')], 'fortran_order': False, 'shape': (6,), }\n",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (6,), }\n",
    "{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000,), }\n",
    "{'descr': '|S2147483647', 'fortran_order': False, 'shape': (6,), }\n",
    "{'descr': '<U500000000', 'fortran_order': False, 'shape': (6,), }\n",
    "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (6,), }\n",
    "{'descr': '|b1', 'fortran_order': False, 'shape': (6,), }\n",
    "{'descr': '>c16', 'fortran_order': False, 'shape': (6,), }\n",
    "{'descr': '<f2', 'fortran_order': False, 'shape': (6,), }\n",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (6,), 'more': 1}\n",
    "{'descr': '|u1', 'fortran_order': 5, 'shape': 6}\n",
    "__import__('os').system('true')\n",
    "(" * 9000,
    "[" * 9000,
    "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 9000 + ",), }\n",
    "-" * 9000 + "1",
    "",
    "\0" * 100,
    "{'descr': [('a'," * 200,
    "{'descr': ('|u1', (100000, 100000)), 'fortran_order': False, 'shape': (6,), }\n",
)


def _header(path: Path, rng: Random) -> str:
    """An array's own header, forged."""
    key = rng.choice(list(arrays()))
    body = rng.choice((b"", bytes(360), bytes(1 << 20), b"\xff" * 4000))
    version = rng.choice((b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\4\0"))
    return _with(path, rng, {key: array_file(rng.choice(HEADERS), body, version)})


def _with(path: Path, rng: Random, changed: dict[str, bytes]) -> str:
    """Write the file with some of its arrays replaced by bytes."""
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(path, "w", method) as file:
        for key, values in arrays().items():
            content = io.BytesIO()
            np.save(content, values)
            _put(file, f"{key}.npy", changed.get(key, content.getvalue()))
        for key in changed.keys() - arrays().keys():
            _put(file, key, changed[key])
    return f"{', '.join(changed)} with method {method}"[:80]


def _put(file: zipfile.ZipFile, name: str, content: bytes) -> None:
    """A zip entry with a fixed date, so that a case always has the same bytes."""
    info = zipfile.ZipInfo(name)
    info.compress_type = file.compression
    file.writestr(info, content)


def _bomb(path: Path, rng: Random) -> str:
    """Zeros, a thousand times as many as bytes, as pictures or names."""
    size = rng.choice((64 << 20, 1 << 30, 3 << 30, 17 << 30))
    key = rng.choice(("images", "images", "labels", "ids", "classes", "other"))
    rows, kind, shape = ROWS, "|u1", f"({ROWS}, {size // ROWS // 3}, 1, 3)"
    if key in ("labels", "other"):
        kind, shape = "<i8", f"({size // 8},)"
    elif key in ("ids", "classes"):
        kind, shape = rng.choice(
            (
                ("|S64", f"({size // 64},)"),
                ("<U16", f"({size // 64},)"),
                (f"|S{min(size // rows, 2**31 - 1)}", f"({rows},)"),
            )
        )
    elif rng.random() < 0.5:
        shape = f"({size // 192}, 8, 8, 3)"
    head = array_file(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n", b"")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, values in arrays().items():
            if (
                name == key
                or (key == "images" and name != "labels" and rng.random() < 0.7)
                or (key == "images" and name == "labels" and "8, 8" in shape)
            ):
                continue
            content = io.BytesIO()
            np.save(content, values)
            _put(file, f"{name}.npy", content.getvalue())
        block = bytes(1 << 20)
        with file.open(f"{key}.npy", "w", force_zip64=True) as entry:
            entry.write(head)
            for _ in range(min(size, 3 << 30) >> 20):
                entry.write(block)
    if rng.random() < 0.3:
        _declare(path, rng)
    return f"{size >> 20} MiB of {key}"


def _declare(path: Path, rng: Random) -> str:
    """Other sizes, methods, flags and offsets in the zip's directory and its entries' headers."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 2, 5))):
        mark, fields = rng.choice(
            (
                (
                    b"PK\1\2",
                    (
                        (8, "<H"),
                        (10, "<H"),
                        (16, "<I"),
                        (20, "<I"),
                        (24, "<I"),
                        (28, "<H"),
                        (30, "<H"),
                        (32, "<H"),
                        (38, "<I"),
                        (42, "<I"),
                    ),
                ),
                (b"PK\3\4", ((6, "<H"), (8, "<H"), (14, "<I"), (18, "<I"), (22, "<I"), (26, "<H"), (28, "<H"))),
                (b"PK\5\6", ((4, "<H"), (8, "<H"), (10, "<H"), (12, "<I"), (16, "<I"), (20, "<H"))),
            )
        )
        found = []
        at = data.find(mark)
        while at >= 0:
            found.append(at)
            at = data.find(mark, at + 1)
        if not found:
            continue
        place, (offset, form) = rng.choice(found), rng.choice(fields)
        most = (1 << 8 * struct.calcsize(form)) - 1
        if place + offset + struct.calcsize(form) <= len(data):
            struct.pack_into(
                form, data, place + offset, rng.choice((0, 1, 8, 9, 12, 14, 95, 99, len(data), most // 2, most)) & most
            )
    path.write_bytes(data)
    return "declarations"


def _entries(path: Path, rng: Random) -> str:
    """Entries with odd names, duplicates, in great number, or that are not arrays."""
    how = rng.randrange(4)
    with zipfile.ZipFile(path, "a") as file:
        if how == 0:
            _put(file, rng.choice(NAMES).encode(errors="replace").decode()[:60_000] or "x", b"abc")
        elif how == 1:
            for _ in range(rng.choice((1, 3000))):
                _put(file, "images.npy", array_file(HEADERS[0], bytes(360)))
        elif how == 2:
            for k in range(5000):
                _put(file, f"{k}_images.npy", b"")
        else:
            _put(file, "images.npy/x.npy", mutate(b"\x93NUMPY\1\0" + bytes(200), rng))
    return f"entries {how}"


def _values(path: Path, rng: Random) -> str:
    """Arrays with values and shapes that do not match."""
    own = arrays()
    key = rng.choice(list(own))
    odd: tuple[Callable[[], np.ndarray], ...] = (
        lambda: np.array(5),
        lambda: np.zeros((0, 5, 4, 3), np.uint8),
        lambda: own[key][:3],
        lambda: np.full(ROWS, 2**62),
        lambda: np.full(ROWS, -5),
        lambda: np.full(ROWS, 2**64 - 1, np.uint64),
        lambda: np.full(ROWS, 99_999),
        lambda: np.full(ROWS, np.nan),
        lambda: np.zeros(ROWS, "M8[s]"),
        lambda: np.array([name.replace("\0", "x") or "x" for name in rng.sample(NAMES, ROWS)]),
        lambda: np.array([b"\xff\xfe"] * ROWS),
        lambda: np.zeros((ROWS, 1, 1), np.uint8),
        lambda: np.array(["a"] * ROWS),
        lambda: np.zeros((ROWS, 100_000, 1), np.uint8),
        lambda: np.array(["a", "a", "A"]),
        lambda: np.array([str(k) for k in range(100_001)]),
        lambda: np.zeros((ROWS, 2, 2, 4), np.uint8),
        lambda: np.asfortranarray(own[key]),
        lambda: np.zeros(ROWS, "i4,f4"),
        lambda: np.array(["", " ", "\n", "a", "b", "c"]),
    )
    own[key] = rng.choice(odd)()
    np.savez(path, **own)
    return f"values of {key}"


damage = pick((5, mutate_file), (6, _header), (2, _bomb), (6, _declare), (3, _entries), (5, _values), (1, special_file))
KIND = Kind(seeds, damage, answer, share=4)
