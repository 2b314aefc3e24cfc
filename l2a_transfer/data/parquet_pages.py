"""Find out how much memory reading a Parquet column takes from the headers of its pages, before decompressing it.

The sizes in the footer may be wrong. The decoder uses the headers of the pages: it allocates the size in the header and
rejects a page that decompresses to another size. ("Apache Parquet format", PageHeader; "Thrift compact protocol".)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

HEADER_BYTES = (1 << 10, 1 << 16, 1 << 20, 16 << 20)
"""Header sizes to try. Statistics can make a header long; the decoder reads at most 16 MiB."""
MAX_PAGES = 100_000
MAX_DEPTH = 8
TRUE, FALSE, I8, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
"""Types of the compact protocol."""
DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = range(4)
IN_DICTIONARY = (2, 8)
"""Encodings whose values are indices into the dictionary page."""
AS_LONG_AS_STORED = (0, 6, 9)
"""PLAIN, DELTA_LENGTH_BYTE_ARRAY and BYTE_STREAM_SPLIT: encodings that are as long as their values."""


class PageError(ValueError):
    """Pages that contradict their column, or whose values would be larger than the stored data."""


@dataclass(frozen=True)
class Pages:
    """Sizes of all pages of a column in bytes. `stored`: in the file; `bytes`: uncompressed; `largest`: of the largest
    page, compressed or not. `repeated`: at most this many bytes more if dictionary entries, which are stored once, are
    repeated for each value."""

    stored: int
    bytes: int
    largest: int
    repeated: int


def measure_pages(file: IO[bytes], start: int, length: int, values: int, *, texts: bool) -> Pages:
    """Measure the pages with the first `values` values of a column, which begins at `start`.

    With `texts`, the values have no fixed size, and encodings in which a few bytes stand for long values are rejected,
    except dictionaries. Raises: PageError.
    """
    at, seen, stored, total, largest, dictionary, repeated = start, 0, 0, 0, 0, 0, 0
    for _ in range(MAX_PAGES):
        if seen >= values:
            return Pages(stored, total, largest, repeated)
        page, size = _header(file, at, start + length - at)
        kind, unpacked, packed = (_number(page, field) for field in (1, 2, 3))
        at += size + packed
        if min(unpacked, packed) < 0 or at > start + length:
            raise PageError("a page lies outside its column")
        stored += packed
        total += max(unpacked, packed)
        largest = max(largest, unpacked, packed)
        if kind == DICTIONARY_PAGE:
            dictionary = unpacked
            if texts and 4 * _number(_inner(page, 7), 1) > unpacked:
                raise PageError("a dictionary declares more entries than fit into its bytes")
        elif kind in (DATA_PAGE, DATA_PAGE_V2):
            inner = _inner(page, 5 if kind == DATA_PAGE else 8)
            own = max(0, _number(inner, 1))
            seen += own
            encoding = _number(inner, 2 if kind == DATA_PAGE else 4)
            repeated += own * dictionary if encoding in IN_DICTIONARY else 0
            if texts and encoding not in (*IN_DICTIONARY, *AS_LONG_AS_STORED):
                raise PageError(f"its encoding, number {encoding}, is not supported for pictures; write it as PLAIN")
    raise PageError(f"a column has more than {MAX_PAGES:,} pages")


Fields = dict[tuple[int, int], object]
"""(number, type) → value; a Thrift reader skips fields with an unexpected type."""


def _number(fields: Fields, field: int) -> int:
    found = fields.get((field, I32))
    if not isinstance(found, int):
        raise PageError("a page's header is incomplete")
    return found


def _inner(fields: Fields, field: int) -> Fields:
    found = fields.get((field, STRUCT))
    if not isinstance(found, dict):
        raise PageError("a page's header is incomplete")
    return found


def _header(file: IO[bytes], at: int, most: int) -> tuple[Fields, int]:
    """The header of the page at position `at`, and its length."""
    for size in HEADER_BYTES:
        file.seek(at)
        content = file.read(min(size, most))
        try:
            return _Compact(content).struct(0)
        except IndexError as error:
            if len(content) < size:
                raise PageError("a page's header is truncated") from error
    raise PageError("a page's header is longer than 16 MiB")


class _Compact:
    """Reads Thrift's compact protocol. Raises: IndexError if more bytes are needed; PageError."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def struct(self, depth: int) -> tuple[Fields, int]:
        """The fields of a structure and its end. Of fields with the same number and type, the last one counts."""
        if depth > MAX_DEPTH:
            raise PageError("a page's header is nested too deeply")
        fields: Fields = {}
        number = 0
        while (head := self._byte()) != 0:
            kind = head & 15
            number = _signed((number + (head >> 4)) if head >> 4 else _zigzag(self._varint() & 0xFFFFFFFF), 16)
            fields[number, kind] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind, depth + 1)
        return fields, self._at

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _varint(self) -> int:
        value = 0
        for k in range(10):
            byte = self._byte()
            value |= (byte & 0x7F) << 7 * k
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF
        raise PageError("a number in a page's header is too long")

    def _skip(self, length: int) -> None:
        if length < 0 or self._at + length > len(self._content):
            raise IndexError
        self._at += length

    def _value(self, kind: int, depth: int) -> object:
        if kind in (TRUE, FALSE, I8):
            return self._byte()
        if kind in (I16, I32):
            return _zigzag(self._varint() & 0xFFFFFFFF)  # the decoder uses the low bits of a longer one
        if kind == I64:
            return _zigzag(self._varint())
        if kind == DOUBLE:
            self._skip(8)
        elif kind == BINARY:
            self._skip(self._varint() & 0xFFFFFFFF)
        elif kind in (LIST, SET):
            head = self._byte()
            self._values(head >> 4 if head >> 4 != 15 else self._varint() & 0xFFFFFFFF, (head & 15,), depth)
        elif kind == MAP:
            if count := self._varint() & 0xFFFFFFFF:
                kinds = self._byte()
                self._values(count, (kinds >> 4, kinds & 15), depth)
        elif kind == STRUCT:
            return self.struct(depth)[0]
        else:
            raise PageError(f"a page's header has a field of the unknown type {kind}")
        return None

    def _values(self, count: int, kinds: tuple[int, ...], depth: int) -> None:
        if depth > MAX_DEPTH:
            raise PageError("a page's header is nested too deeply")
        for _ in range(count):
            for kind in kinds:
                self._value(kind, depth + 1)


def _zigzag(value: int) -> int:
    return value >> 1 ^ -(value & 1)


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value
