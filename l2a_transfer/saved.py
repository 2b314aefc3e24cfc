"""What torch.save has written, read without torch's unpickler: plain values, and tensors out of their own bytes.

torch.load with `weights_only` runs no code of the file's, but hashes, unpacks and allocates whatever the file asks for.
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
"""Bytes of the zip's directory; one of a thousand tensors has 60,000."""
MAX_PICKLE = 32 << 20
MAX_DEPTH = 16
"""Containers within each other; a checkpoint has 5."""
SHARED_ITEMS = 8
"""Of a tuple that the memo may give again: a shape is one."""
MAX_DIMENSIONS, MAX_ELEMENTS = 8, 1 << 40
END, END_64, LOCATOR = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
"""The last records of a zip: its end, the end with sizes of 64 bits, and where that one is."""
LOCAL_HEADER = 30
"""Bytes before the name of an entry."""
NAME_FLAGS = 0x0808
"""Sizes that follow the content, and names in UTF-8: the only flags of an entry that is stored as it is."""
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
    """What was given to torch.save: dictionaries, lists and tuples of numbers, text, None and tensors in CPU memory.

    Takes time and memory in proportion to the file. Raises: those of FAULTS, for anything else; OSError.
    """
    _check_directory(file)
    with zipfile.ZipFile(file) as archive:
        entries = _entries(archive)
        # torch calls the folder after the file that it was saved as; it is that of the first entry.
        folder = next(iter(entries)).partition("/")[0]
        if f"{folder}/data.pkl" not in entries:
            raise zipfile.BadZipFile("it has no data.pkl")
        if entries[f"{folder}/data.pkl"].file_size > MAX_PICKLE:
            raise zipfile.BadZipFile(f"its data.pkl has more than {MAX_PICKLE:,} bytes")
        if (damage := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{damage} does not have its checksum")
        order = archive.read(f"{folder}/byteorder").decode() if f"{folder}/byteorder" in entries else "little"
        if order != sys.byteorder:
            raise zipfile.BadZipFile(f"its numbers are {order!r:.20}-endian, and those of this machine {sys.byteorder}")
        found = _SavedPickle(archive, folder, entries).read()
    _check_depth(found)
    return found


def _check_directory(file: BinaryIO) -> None:
    """Raises: BadZipFile for a directory that is large, or that two readers of zips find in two places."""
    size = file.seek(0, 2)
    tail_at = max(0, size - END.size - LOCATOR.size - END_64.size)
    file.seek(tail_at)
    tail = file.read()
    if len(tail) < END.size or tail[-END.size :][:4] != b"PK\x05\x06":
        raise zipfile.BadZipFile("it does not end as a zip does")
    _, _, _, _, count, length, start, _ = END.unpack(tail[-END.size :])
    end = size - END.size
    locator = tail[-END.size - LOCATOR.size : -END.size]
    if locator[:4] == b"PK\x06\x07":
        end -= LOCATOR.size + END_64.size
        if len(tail) < size - end or LOCATOR.unpack(locator)[2] != end or tail[:4] != b"PK\x06\x06":
            raise zipfile.BadZipFile("its directory is not where it says")
        *_, count, length, start = END_64.unpack(tail[: END_64.size])
    if length > MAX_DIRECTORY or count > MAX_DIRECTORY:
        raise zipfile.BadZipFile(f"its directory has {length:,} bytes")
    if start + length != end:
        raise zipfile.BadZipFile("its directory is not where it says")


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, each stored as it is and by itself. Raises: BadZipFile."""
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    if not infos:
        raise zipfile.BadZipFile("it is empty")
    ends = [*(info.header_offset for info in infos[1:]), archive.start_dir]
    for info, end in zip(infos, ends, strict=True):
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise zipfile.BadZipFile("it has packed entries")
        if info.flag_bits & ~NAME_FLAGS or info.header_offset + LOCAL_HEADER + info.file_size > end:
            raise zipfile.BadZipFile("it has entries that lie in each other, or that are locked")
    entries = {info.filename: info for info in infos}
    if len(entries) < len(infos):
        raise zipfile.BadZipFile("it has two entries of one name")
    return entries


class _Storage:
    """The bytes of one entry as a row of numbers."""

    def __init__(self, dtype: torch.dtype, content: bytes) -> None:
        self.dtype = dtype
        self.values = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)


class _SavedPickle(PlainPickle):
    """The pickle of a checkpoint, whose tensors are made from the entries of its zip."""

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
        # Of a container that may stand in others again, 60 levels have 2⁶⁰ parts.
        if type(value) in (list, dict):
            raise NotPlainError("a list or dictionary is in it twice")
        if type(value) is tuple and (len(value) > SHARED_ITEMS or tuple in map(type, value)):
            raise NotPlainError("a tuple of tuples is in it twice")
        return value

    def _is_key(self, value: Any) -> bool:
        return type(value) in (str, int)

    def _storage(self, said: Any) -> _Storage:
        """What `("storage", type, key, device, numbers)` stands for."""
        match said:
            case ("storage", Named(name=name), str(key), str(), int(numbers)) if name in DTYPES:
                pass
            case _:
                raise NotPlainError("it asks for an object that is no storage of numbers")
        entry = self.entries.get(f"{self.folder}/data/{key}")
        if entry is None or numbers < 0 or numbers * DTYPES[name].itemsize != entry.file_size:
            raise NotPlainError(f"the numbers of {key[:60]!r} are not there, or not as many as it says")
        if key not in self.storages:
            self.storages[key] = _Storage(DTYPES[name], self.archive.read(entry))
        if self.storages[key].dtype != DTYPES[name]:
            raise NotPlainError(f"the numbers of {key[:60]!r} are of two types")
        return self.storages[key]

    def _called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == ORDERED and arguments == ():
            return {}
        if name == TENSOR and len(arguments) >= 4 and type(arguments[0]) is _Storage:
            return _tensor(arguments[0].values, *arguments[1:4])
        raise NotPlainError(f"it makes a {name} that is none")

    def _described(self, built: Any, state: Any) -> None:
        """A network's tensors carry its layers' versions, which nothing here asks for."""
        if type(built) is not dict or type(state) is not dict:
            raise NotPlainError("it changes an object")


def _tensor(values: Tensor, offset: Any, shape: Any, strides: Any) -> Tensor:
    """The part of `values` that a tensor shows. Raises: NotPlainError if it would lie beside them."""
    sides = [shape, strides]
    if not all(type(each) is tuple and all(type(n) is int and n >= 0 for n in each) for each in sides):
        raise NotPlainError("a tensor without a shape")
    if type(offset) is not int or offset < 0 or not len(shape) == len(strides) <= MAX_DIMENSIONS:
        raise NotPlainError("a tensor without a shape")
    elements = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if elements else 0
    if elements > MAX_ELEMENTS or (elements and last >= len(values)) or offset > len(values):
        raise NotPlainError("a tensor of more numbers than there are")
    return values.as_strided(shape, strides, offset)


def _check_depth(value: Any) -> None:
    """Raises: NotPlainError for containers that lie deep in each other, and for what only stands for something."""
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise NotPlainError(f"containers lie more than {MAX_DEPTH} deep in each other")
        if odd := [each for each in level if type(each) not in PLAIN]:
            raise NotPlainError(f"{type(odd[0]).__name__.strip('_')} is no value")
        level = [part for each in level for part in _parts(each)]
        depth += 1


def _parts(value: Any) -> Any:
    return value.values() if type(value) is dict else value if type(value) in (list, tuple) else ()
