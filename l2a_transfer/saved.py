"""Read files of torch.save without torch's unpickler: plain values, and tensors from their stored bytes.

torch.load with `weights_only` does not run code of the file, but hashes, unpacks and allocates whatever it asks for.
"""

from __future__ import annotations

import math
import struct
import sys
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from l2a_transfer.pickles import Named, NotPlainError, PlainPickle

MAX_DIRECTORY = 4 << 20
"""Limit in bytes for the zip's directory; with a thousand tensors, it has 60,000."""
MAX_PICKLE = 32 << 20
MAX_DEPTH = 16
"""Limit of nested containers; a checkpoint has 5 levels."""
SHARED_ITEMS = 8
"""Limit of the length of a tuple that may be fetched from the memo again, such as a shape."""
MAX_DIMENSIONS, MAX_ELEMENTS = 8, 1 << 40
END, END_64, LOCATOR = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
"""The last records of a zip: the end record, the 64-bit end record, and the locator of the latter."""
LOCAL_HEADER = 30
"""Bytes before the name of an entry."""
NAME_FLAGS = 0x0808
"""Sizes after the content, and names in UTF-8: the only flags of an uncompressed entry."""
TENSOR, ORDERED = "tensor", "ordered dictionary"
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
NAMES = {
    "torch._utils _rebuild_tensor_v2": TENSOR,
    "collections OrderedDict": ORDERED,
    **{f"torch {name}": name for name in DTYPES},
}
FLOAT, LONG, PERSISTENT = 0x47, 0x8A, 0x51  # BINFLOAT, LONG1, BINPERSID
PLAIN = (dict, list, tuple, str, bytes, int, float, bool, type(None), Tensor)
FAULTS = (
    ValueError,
    LookupError,
    EOFError,
    RuntimeError,
    TypeError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
)
"""What reading raises for bytes that torch.save did not write; OSError if the system refuses."""


def read_saved(file: BinaryIO) -> Any:
    """Read what torch.save wrote: dictionaries, lists and tuples of numbers, text, None and tensors in CPU memory.

    Time and memory are proportional to the size of the file. Raises: FAULTS for other content; OSError.
    """
    _check_directory(file)
    with zipfile.ZipFile(file) as archive:
        entries = _entries(archive)
        # torch names the folder after the file that was saved; use that of the first entry.
        folder = next(iter(entries)).partition("/")[0]
        if f"{folder}/data.pkl" not in entries:
            raise zipfile.BadZipFile("it has no data.pkl")
        if entries[f"{folder}/data.pkl"].file_size > MAX_PICKLE:
            raise zipfile.BadZipFile(f"its data.pkl has more than {MAX_PICKLE:,} bytes")
        if (damage := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {damage} does not match")
        order = archive.read(f"{folder}/byteorder").decode() if f"{folder}/byteorder" in entries else "little"
        if order != sys.byteorder:
            raise zipfile.BadZipFile(
                f"its numbers are {order!r:.20}-endian, but this machine is {sys.byteorder}-endian"
            )
        found = _SavedPickle(archive, folder, entries).read()
    _check_depth(found)
    return found


def _check_directory(file: BinaryIO) -> None:
    """Raises: BadZipFile if the directory is too large, or if zip readers could disagree about its position."""
    size = file.seek(0, 2)
    tail_at = max(0, size - END.size - LOCATOR.size - END_64.size)
    file.seek(tail_at)
    tail = file.read()
    if len(tail) < END.size or tail[-END.size :][:4] != b"PK\x05\x06":
        raise zipfile.BadZipFile("it does not end like a zip file")
    _, _, _, _, count, length, start, _ = END.unpack(tail[-END.size :])
    end = size - END.size
    locator = tail[-END.size - LOCATOR.size : -END.size]
    if locator[:4] == b"PK\x06\x07":
        end -= LOCATOR.size + END_64.size
        if len(tail) < size - end or LOCATOR.unpack(locator)[2] != end or tail[:4] != b"PK\x06\x06":
            raise zipfile.BadZipFile("its directory is not at the declared position")
        *_, count, length, start = END_64.unpack(tail[: END_64.size])
    if length > MAX_DIRECTORY or count > MAX_DIRECTORY:
        raise zipfile.BadZipFile(f"its directory has {length:,} bytes")
    if start + length != end:
        raise zipfile.BadZipFile("its directory is not at the declared position")


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, which must be uncompressed and must not overlap. Raises: BadZipFile."""
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if not infos:
        raise zipfile.BadZipFile("it is empty")
    ends = [*(info.header_offset for info in infos[1:]), archive.start_dir]
    for info, end in zip(infos, ends, strict=True):
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise zipfile.BadZipFile("it has compressed entries")
        if info.flag_bits & ~NAME_FLAGS or info.header_offset + LOCAL_HEADER + info.file_size > end:
            raise zipfile.BadZipFile("it has entries that overlap or are encrypted")
    entries = {info.filename: info for info in infos}
    if len(entries) < len(infos):
        raise zipfile.BadZipFile("it has two entries with the same name")
    return entries


class _Storage:
    """The bytes of one entry as a one-dimensional array of numbers."""

    def __init__(self, dtype: torch.dtype, content: bytes) -> None:
        self.dtype = dtype
        self.values = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)


class _SavedPickle(PlainPickle):
    """The pickle of a checkpoint. Tensors are created from the entries of its zip."""

    kind, names = "checkpoint", NAMES

    def __init__(self, archive: zipfile.ZipFile, folder: str, entries: Mapping[str, zipfile.ZipInfo]) -> None:
        super().__init__(archive.read(f"{folder}/data.pkl"))
        self.archive, self.folder, self.entries = archive, folder, entries
        self.storages: dict[str, _Storage] = {}
        self.named |= {
            FLOAT: lambda: self.stack.append(struct.unpack(">d", self._take(8))[0]),
            LONG: lambda: self.stack.append(int.from_bytes(self._take(self._number(1)), "little", signed=True)),
            PERSISTENT: lambda: self.stack.append(self._storage(self._pop())),
        }

    def _fetched(self, value: Any) -> Any:
        # If containers could be repeated in others, 60 levels would have 2⁶⁰ parts.
        if type(value) in (list, dict):
            raise NotPlainError("a list or dictionary occurs twice")
        if type(value) is tuple and (len(value) > SHARED_ITEMS or tuple in map(type, value)):
            raise NotPlainError("a long or nested tuple occurs twice")
        return value

    def _is_key(self, value: Any) -> bool:
        return type(value) in (str, int)

    def _storage(self, said: Any) -> _Storage:
        """The storage that `("storage", type, key, device, numbers)` describes."""
        match said:
            case ("storage", Named(name=name), str(key), str(), int(numbers)) if name in DTYPES:
                pass
            case _:
                raise NotPlainError("it asks for an object that is not a storage of numbers")
        entry = self.entries.get(f"{self.folder}/data/{key}")
        if entry is None or numbers < 0 or numbers * DTYPES[name].itemsize != entry.file_size:
            raise NotPlainError(f"the numbers of {key[:60]!r} are missing, or their count does not match")
        if key not in self.storages:
            self.storages[key] = _Storage(DTYPES[name], self.archive.read(entry))
        if self.storages[key].dtype != DTYPES[name]:
            raise NotPlainError(f"the numbers of {key[:60]!r} have two types")
        return self.storages[key]

    def _called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == ORDERED and arguments == ():
            return {}
        if name == TENSOR and len(arguments) >= 4 and type(arguments[0]) is _Storage:
            return _tensor(arguments[0].values, *arguments[1:4])
        raise NotPlainError(f"invalid arguments for a {name}")

    def _described(self, built: Any, state: Any) -> None:
        """Ignore the versions of layers, which a network's state dictionary carries."""
        if type(built) is not dict or type(state) is not dict:
            raise NotPlainError("it changes an object")


def _tensor(values: Tensor, offset: Any, shape: Any, strides: Any) -> Tensor:
    """The part of `values` that a tensor shows. Raises: NotPlainError if it would extend beyond them."""
    sides = [shape, strides]
    if not all(type(each) is tuple and all(type(n) is int and n >= 0 for n in each) for each in sides):
        raise NotPlainError("a tensor without a shape")
    if type(offset) is not int or offset < 0 or not len(shape) == len(strides) <= MAX_DIMENSIONS:
        raise NotPlainError("a tensor without a shape")
    elements = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if elements else 0
    if elements > MAX_ELEMENTS or (elements and last >= len(values)) or offset > len(values):
        raise NotPlainError("a tensor has more numbers than its storage")
    return values.as_strided(shape, strides, offset)


def _check_depth(value: Any) -> None:
    """Raises: NotPlainError if containers are nested too deeply, or if a placeholder is left."""
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise NotPlainError(f"containers are nested more than {MAX_DEPTH} levels deep")
        if odd := [each for each in level if type(each) not in PLAIN]:
            raise NotPlainError(f"{type(odd[0]).__name__.strip('_')} is not a value")
        level = [part for each in level for part in _parts(each)]
        depth += 1


def _parts(value: Any) -> Any:
    return value.values() if type(value) is dict else value if type(value) in (list, tuple) else ()
