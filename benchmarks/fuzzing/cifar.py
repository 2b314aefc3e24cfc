"""CIFAR's pickles: opcodes removed, doubled, swapped and forged, and programs that no pickler writes."""

from __future__ import annotations

import pickle
import pickletools
import shutil
import struct
from pathlib import Path
from random import Random

import numpy as np

from fuzzing.kinds import Kind, sha256
from fuzzing.mutate import mutate_file, one_of, pick, special_file
from l2a_transfer.data.readers import open_source

ROWS = 3
FORGED = (0, 1, 2, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
LENGTHS = {
    "T": 4,
    "U": 1,
    "B": 4,
    "C": 1,
    "X": 4,
    "\x8a": 1,
    "\x8b": 4,
    "\x8c": 1,
    "\x8d": 8,
    "\x8e": 8,
    "\x95": 8,
    "\x96": 8,
    "r": 4,
    "q": 1,
    "j": 4,
    "h": 1,
    "J": 4,
    "K": 1,
    "M": 2,
}
"""Opcodes whose argument starts with a little-endian length of this many bytes."""


def seeds(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, protocol in (("cifar10", 2), ("cifar10-protocol-5.foreign", 5), ("cifar100", 2)):
        root = folder / name
        small = root / ("cifar-100-python" if name == "cifar100" else "cifar-10-batches-py")
        small.mkdir(parents=True)
        fine = name == "cifar100"
        files = ("train", "test") if fine else (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
        for file in files:
            pixels = rng.integers(0, 256, (ROWS, 3072), dtype=np.uint8)
            labels = rng.integers(0, 10, ROWS).tolist()
            more = {b"coarse_labels": labels} if fine else {b"batch_label": b"training batch 1 of 5"}
            names = [b"picture_%d.png" % k for k in range(ROWS)]
            batch = {b"data": pixels, (b"fine_labels" if fine else b"labels"): labels, b"filenames": names, **more}
            (small / file).write_bytes(pickle.dumps(batch, protocol=protocol))
        names = [b"class %d" % k for k in range(100 if fine else 10)]
        key = b"fine_label_names" if fine else b"label_names"
        meta = {key: names, b"num_vis": 3072}
        (small / ("meta" if fine else "batches.meta")).write_bytes(pickle.dumps(meta, protocol=protocol))


def answer(path: Path) -> str:
    name = "cifar100" if (path / "cifar-100-python").exists() else "cifar10"
    source = open_source(name, data_dir=path)
    pictures = [sha256(np.asarray(source.image(row))) for row in range(len(source))]
    return sha256(source.labels, source.classes, *pictures)


# What programs are made of. `text`, `whole` and `raw` push a value; `call` applies a function to a tuple.
def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def raw(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def tuple_of(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def dtype(code: str) -> bytes:
    return named("numpy", "dtype") + tuple_of(text(code), b"\x89", b"\x88") + b"R"


def build(state: bytes) -> bytes:
    return state + b"b"


FUNCTIONS = (
    ("os", "system"),
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
    ("numpy.core.multiarray", "_reconstruct.__globals__"),
    ("numpy", "dtype.__reduce__"),
    ("copyreg", "_reconstructor"),
    ("numpy._core.numeric", "_frombuffer"),
    ("builtins", "bytearray"),
    ("numpy", "memmap"),
    ("", ""),
    ("\x1b[2J", "a"),
)


def _references(rng: Random) -> bytes:
    """Raw bytes as an array's memory, with a dtype that claims references to objects."""
    width, count = rng.choice((8, 16, 24)), rng.choice((1, 64, 4096))
    inner = rng.choice(("O", "V8", "S1", "u1", "M8", "T"))
    objects = dtype(inner) + build(tuple_of(whole(3), text("|"), b"N", b"N", b"N", whole(-1), whole(-1), whole(63)))
    fields = b"}" + text("f") + tuple_of(objects, whole(rng.choice((0, 1, -8, 1 << 30)))) + b"s"

    def state(flags: int) -> bytes:
        sizes = (whole(width), whole(1), whole(flags))
        return tuple_of(whole(3), text("|"), b"N", tuple_of(text("f")), fields, *sizes)

    program = (
        b"\x80\x03"
        + dtype(f"V{width}")
        + b"q\x07"
        + build(state(0))
        + b"0"
        + _array(count, raw(b"\x41" * count * width))
    )
    return program + b"h\x07" + build(state(rng.choice((1, 16, 63, 255)))) + b"0}" + raw(b"data") + b"h\x08s."


def _array(count: int, memory: bytes, kind: bytes = b"h\x07") -> bytes:
    begin = named("numpy.core.multiarray", "_reconstruct") + tuple_of(
        named("numpy", "ndarray"), tuple_of(whole(0)), raw(b"b")
    )
    return begin + b"Rq\x08" + build(tuple_of(whole(1), tuple_of(whole(count)), kind, b"\x89", memory)) + b"0"


def _shapes(rng: Random) -> bytes:
    """An array with a shape that does not match its bytes, or of another kind."""
    kind = rng.choice(("u1", "O", "i8", "V3072", "S3072", "U768", "f8", "M8[ns]", "b1", "3072u1", "u1,u1", "T", ""))
    rows, columns = rng.choice(
        ((ROWS, 3072), (1 << 20, 3072), (-1, 3072), (0, 3072), (2**31 - 1, 2**31 - 1), (ROWS, 1))
    )
    shape = rng.choice((tuple_of(whole(rows), whole(columns)), tuple_of(*[whole(1)] * 80), tuple_of(), whole(5), b"N"))
    state = tuple_of(
        whole(rng.choice((0, 1, 2, -1))),
        shape,
        dtype(kind),
        rng.choice((b"\x88", b"\x89", b"N")),
        raw(bytes(ROWS * 3072)),
    )
    begin = named("numpy.core.multiarray", "_reconstruct") + tuple_of(
        named("numpy", "ndarray"),
        rng.choice((tuple_of(whole(0)), tuple_of(whole(1 << 30)), b"N")),
        rng.choice((raw(b"b"), raw(b"O"), raw(b"u1"))),
    )
    return _batch(begin + b"R" + build(state))


def _batch(data: bytes, labels: bytes = b"]((K\0K\1K\2e") -> bytes:
    return b"\x80\x03}" + raw(b"data") + data + b"s" + raw(b"labels") + labels + b"s."


def _called(rng: Random) -> bytes:
    """Any function, by each opcode that finds or calls one."""
    module, name = rng.choice(FUNCTIONS)
    argument = rng.choice(
        (text("true"), raw(b"1"), whole(1 << 30), b"N", tuple_of(named("numpy", "dtype")), b"]", b"}")
    )
    code = rng.choice((b"\x82\x01", b"\x83\x01\0", b"\x84\x01\0\0\0", b"\x84\xff\xff\xff\x7f"))
    push = rng.choice(
        (named(module, name), text(module) + text(name) + b"\x93", b"i" + f"{module}\n{name}\n".encode(), code)
    )
    call = rng.choice(
        (
            tuple_of(argument) + b"R",
            tuple_of(argument) + b"\x81",
            tuple_of(argument) + b"}\x92",
            b"R",
            b"\x81",
            b"o",
            build(argument),
            b")R" + build(tuple_of(b"N", b"}" + text("__class__") + argument + b"s")),
        )
    )
    return _batch(b"(" + push + call)


def _greedy(rng: Random) -> bytes:
    """Few bytes that request a lot of memory: memo places, numbers, lengths, doubling values, and nesting."""
    many = rng.choice((1_000, 100_000, 1_000_000))
    doubling = b"]q\x01" + b"".join(
        b"](h" + bytes([k]) + b"h" + bytes([k]) + b"eq" + bytes([k + 1]) for k in range(1, 60)
    )
    return b"\x80\x04" + rng.choice(
        (
            b"Nr" + struct.pack("<I", rng.choice((1 << 24, 1 << 28, 0x7FFFFFFF, 0xFFFFFFFF))) + b".",
            b"Np" + str(rng.choice((1 << 24, 1 << 28, 1 << 62, 1 << 64, -1))).encode() + b"\n.",
            b"\x8b" + struct.pack("<i", rng.choice((-1, 1 << 20, 2**31 - 1))) + b"\xff" * 1000 + b".",
            b"L" + b"9" * many + b"L\n.",
            b"I" + b"9" * many + b"\n.",
            b"F" + b"9" * many + b"\n.",
            b"]" * many + b"a" * (many - 1) + b".",
            b"(" * many + b"t" * many + b".",
            b"N" + b"\x85" * many + b".",
            b"\x96" + struct.pack("<Q", rng.choice((1 << 30, 1 << 33, 1 << 40, 1 << 63))) + b"abc.",
            b"\x8e" + struct.pack("<Q", rng.choice((1 << 30, 1 << 33, 1 << 40, 1 << 63))) + b"abc.",
            b"B" + struct.pack("<I", 0xFFFFFFFF) + b"abc.",
            b"\x95" + struct.pack("<Q", 1 << 62) + b"N.",
            doubling + b".",
            b"}" + b"(" + b"K\1" * 2 * (many // 4) + b"u.",
            b"N" * many + b".",
            b"2" * many + b".",
            b"(" * many + b"1" * many + b".",
            b"\x94" * many + b".",
            b"\x97\x98.",
            b"P" + b"a" * many + b"\n.",
            b"NQ.",
            b"\x8f" + b"(" + b"".join(whole(k) for k in range(1000)) + b"\x90.",
            b"(\x91.",
            b"}" + b"NNs" * many + b".",
        )
    )


def _forge(path: Path, rng: Random) -> str:
    """Opcodes of an original file removed, doubled, swapped, inserted, or with another argument."""
    content = path.read_bytes()
    starts = [at for _, _, at in pickletools.genops(content)]
    parts = [content[at:stop] for at, stop in zip(starts, [*starts[1:], len(content)], strict=True)]
    done = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(1, max(2, len(parts)))
        how = rng.randrange(6)
        if at >= len(parts):
            break
        if how == 0:
            del parts[at]
        elif how == 1:
            parts.insert(at, parts[at])
        elif how == 2:
            other = rng.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        elif how == 3:
            module, name = rng.choice(FUNCTIONS)
            parts.insert(
                at,
                rng.choice(
                    (
                        named(module, name),
                        b"R",
                        b"b",
                        b"\x81",
                        b"t",
                        b"0",
                        b"(",
                        b"}",
                        b"]",
                        b"N",
                        b"e",
                        b"u",
                        b"s",
                        b"a",
                        whole(-1),
                        raw(b"data"),
                        text("\udcff".encode("utf-8", "surrogateescape").decode("latin1")),
                    )
                ),
            )
        else:
            width = LENGTHS.get(chr(parts[at][0]), 0) if parts[at] else 0
            forged = (rng.choice(FORGED) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
            parts[at] = parts[at][:1] + forged + parts[at][1 + width :]
        done.append(str(how))
    path.write_bytes(b"".join(parts))
    return f"opcodes {''.join(done)}"


def _crafted(path: Path, rng: Random) -> str:
    way = rng.choice((_references, _shapes, _called, _greedy))
    path.write_bytes(way(rng))
    return way.__name__.strip("_")


def _folder(path: Path, rng: Random) -> str:
    inside = next(path.iterdir())
    shutil.rmtree(inside)
    if rng.random() < 0.5:
        inside.touch()
    return "folder"


damage = pick(
    (3, one_of(mutate_file)),
    (8, one_of(_forge)),
    (8, one_of(_crafted)),
    (1, one_of(special_file)),
    (1, _folder),
)
KIND = Kind(seeds, damage, answer, share=5)
