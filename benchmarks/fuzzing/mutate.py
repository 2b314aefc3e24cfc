"""Changes independent of the format, and some for text, JSON and file systems."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
NAMES = (
    "",
    ".",
    "..",
    "../victim",
    "../../../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "a/../../b",
    "a\0b",
    "\ud800",
    "\x1b[2J",
    "\u202egnp.exe",
    "=1+1",
    "@SUM(1)",
    "a" * 5000,
    "a" * 200_000,
    "GCOL\x01\0\0\0",
    "$x^{$",
    "\\frac",
    "ﬀ",
    "é" * 2048,
    "\n",
    "\r\n",
    "<script>alert(1)</script>",
    "|",
    "nan",
    "-1",
    "1e400",
    " ",
    "con",
    "\x9b31m",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1 << 31,
    1 << 63,
    1 << 64,
    10**30,
    10**400,
    1e30,
    1e308,
    -0.0,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    [],
    {},
    [[]],
    [1, 2],
    {"a": 1},
    [None],
    "NaN",
    0.5,
    1e-320,
)


def mutate(content: bytes, rng: Random) -> bytes:
    """One to four changes: flipped bits, overwritten numbers, ranges removed, doubled, blanked or inserted,
    truncation."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        N = max(1, len(data))
        # Structure lies at the beginning and at the end of most formats.
        places = (rng.randrange(N), rng.randrange(min(N, 1024)), N - 1 - rng.randrange(min(N, 1024)))
        at = rng.choice(places)
        length = rng.choice((1, 2, 4, 8, 64, 512))
        kind = rng.randrange(8)
        if kind <= 1:
            for place in range(at, min(N, at + rng.choice((1, 1, 3)))):
                data[place : place + 1] = bytes([data[place] ^ 1 << rng.randrange(8)]) if data else b""
        elif kind == 2:
            packed = number(rng)
            data[at : at + len(packed)] = packed
        elif kind == 3:
            data[at : at + length] = bytes([rng.choice((0, 255))]) * len(data[at : at + length])
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = data[at : at + length]
        elif kind == 6:
            data[at:at] = rng.randbytes(length)
        else:
            del data[at:]
    return bytes(data)


def number(rng: Random) -> bytes:
    """A number at the limit of its range, packed."""
    form = rng.choice(("<Q", ">Q", "<I", ">I", "<H", "B"))
    return struct.pack(form, rng.choice(NUMBERS) & ((1 << 8 * struct.calcsize(form)) - 1))


def mutate_file(path: Path, rng: Random) -> str:
    path.write_bytes(mutate(path.read_bytes(), rng))
    return "bytes"


def mutate_text(path: Path, rng: Random) -> str:
    """Another name or number in place of a word, a line doubled or removed, or bytes that are not text."""
    content = path.read_text(encoding="utf-8", errors="surrogateescape")
    lines = content.split("\n")
    at = rng.randrange(len(lines))
    how = rng.randrange(6)
    if how == 0:
        lines[at] = rng.choice(NAMES)
    elif how == 1:
        words = lines[at].split(" ")
        words[rng.randrange(len(words))] = rng.choice((*NAMES, *map(str, VALUES[:16])))
        lines[at] = " ".join(words)
    elif how == 2:
        lines[at:at] = [lines[at]] * rng.choice((1, 50))
    elif how == 3:
        del lines[at]
    elif how == 4:
        lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)] + "\udcff\udc80"
    else:
        lines[at] = lines[at].replace("/", rng.choice(("/../", "//", "\0", "\\")))
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape" if how == 4 else "surrogatepass"))
    return f"text {how}"


def special_file(path: Path, rng: Random) -> str:
    """A pipe, socket, device, folder, loop or nothing in place of a file."""
    path.unlink()
    how = rng.choice(("pipe", "socket", "zero", "full", "folder", "loop", "dangling", "absent", "empty", "self"))
    if how == "pipe":
        os.mkfifo(path)
    elif how == "socket":
        folder = os.open(path.parent, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")  # a socket's name may not be long
        os.close(folder)
    elif how in ("zero", "full"):
        path.symlink_to(f"/dev/{how}")
    elif how == "folder":
        path.mkdir()
    elif how == "loop":
        path.symlink_to(path.name)
    elif how == "dangling":
        path.symlink_to("nowhere")
    elif how == "self":
        path.symlink_to("/proc/self/mem")
    elif how == "empty":
        path.touch()
    return how


def damaged_json(document: Any, rng: Random) -> str:
    """The document as JSON with one to three changes anywhere in it, including some that no JSON library writes."""
    raw: dict[str, str] = {}
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(document))
        holder, key = rng.choice(places) if places else ([document], 0)
        how = rng.randrange(10)
        if how <= 2:
            holder[key] = rng.choice(VALUES)
        elif how == 3:
            holder[key] = rng.choice(NAMES)
        elif how == 4 and isinstance(holder, dict):
            holder[rng.choice(NAMES)] = holder.pop(key)
        elif how == 5:
            del holder[key]
        elif how == 6:
            holder[key] = _nested(holder[key], rng.choice((2, 50, 400)), rng.choice((list, dict)))
        elif how == 7:
            mark = f"raw-{len(raw)}"
            raw[f'"{mark}"'] = rng.choice(RAW)
            holder[key] = mark
        elif how == 8:
            holder[key] = [holder[key]] * rng.choice((0, 2, 1000))
        elif isinstance(holder, dict):
            holder[f"extra {rng.randrange(3)}"] = rng.choice((*VALUES, *NAMES))
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    for mark, own in raw.items():
        text = text.replace(mark, own)
    return text


RAW = (
    "[" * 100_000,
    "[" * 900 + "]" * 900,
    "[" * 5000 + "]" * 5000,
    '{"a":' * 5000 + "1" + "}" * 5000,
    "1" * 5000,
    "1e999999",
    "-1e999999",
    "NaN",
    "Infinity",
    '"\\ud800"',
    '"\\u0000"',
    '{"name": "a", "name": "b"}',
    "1" * 4301,
    "0x10",
    "'a'",
    "[1,]",
    '"\\x41"',
    "",
    "1e-999999",
    '"' + "a" * 300_000 + '"',
    "[" + "0," * 200_000 + "0]",
)


def _places(value: Any) -> Any:
    """(container, key) of everything in a JSON document."""
    keys: Sequence[Any] = (
        list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _nested(value: Any, depth: int, kind: type) -> Any:
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


def pick(*ways: tuple[int, Callable[[Path, Random], str]]) -> Callable[[Path, Random], str]:
    """One of several kinds of damage, by weight."""

    def damage(path: Path, rng: Random) -> str:
        ((_, way),) = rng.choices(ways, weights=[weight for weight, _ in ways])
        return way(path, rng)

    return damage


def one_of(way: Callable[[Path, Random], str], pattern: str = "*") -> Callable[[Path, Random], str]:
    """Damage one of the files in a folder and its sub-folders."""

    def damage(path: Path, rng: Random) -> str:
        chosen = rng.choice(sorted(file for file in path.rglob(pattern) if file.is_file()))
        return f"{chosen.relative_to(path)}: {way(chosen, rng)}"

    return damage
