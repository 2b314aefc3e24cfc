"""The few opcodes of Python's pickles that CIFAR's files are made of, read without pickle and without NumPy's part in
it: there, a file says which functions are called, and of an array which memory is its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.wording import counted

MAX_STEPS = 2_000_000
"""Opcodes of one file, each of which makes at most one small object; CIFAR-100's training file has 250,000."""
DTYPE, NDARRAY, RECONSTRUCT, FROM_BUFFER, ENCODE = "dtype", "ndarray", "_reconstruct", "_frombuffer", "encode"
NAMES = {
    "numpy dtype": DTYPE,
    "numpy ndarray": NDARRAY,
    "numpy.core.multiarray _reconstruct": RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": RECONSTRUCT,
    "numpy.core.numeric _frombuffer": FROM_BUFFER,
    "numpy._core.numeric _frombuffer": FROM_BUFFER,
    "_codecs encode": ENCODE,
}
"""What a pickle of an array of bytes names: by protocols 0 to 4, by protocol 5, and by Python 3 for Python 2."""


class NotPlainError(ValueError):
    """What a file says that no CIFAR file does; the text goes on after "not a CIFAR file or damaged:"."""


class _Mark:
    """Where the items of a list, a tuple or a dictionary begin."""


class _Named:
    """One of NAMES, which stands for nothing that could be called."""

    def __init__(self, name: str) -> None:
        self.name = name


class _ByteType:
    """Stands for NumPy's dtype of bytes, the only one there is here."""


class _Array:
    """Stands for an array until its bytes are known, which is once."""

    def __init__(self) -> None:
        self.values: NDArray[np.uint8] | None = None


MARK = _Mark()
BYTE_TYPES = tuple((3, order, None, None, None, -1, -1, 0) for order in ("|", b"|"))
"""How NumPy describes its dtype of bytes, as written by Python 3 and by Python 2."""
# The length's bytes before each kind of string, of bytes or of text.
BYTES = {0x55: 1, 0x54: 4, 0x43: 1, 0x42: 4, 0x8E: 8, 0x96: 8}  # SHORT_BINSTRING, BINSTRING, *BINBYTES*, BYTEARRAY8
TEXTS = {0x8C: 1, 0x58: 4, 0x8D: 8}  # SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
CONSTANTS = {0x4E: None, 0x88: True, 0x89: False, 0x28: MARK}  # NONE, NEWTRUE, NEWFALSE, MARK
INTEGERS = {0x4B: (1, False), 0x4D: (2, False), 0x4A: (4, True)}  # BININT1, BININT2, BININT: bytes, signed
EMPTY: dict[int, Callable[[], Any]] = {0x5D: list, 0x7D: dict, 0x29: tuple}
TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
PUTS, GETS = {0x71: 1, 0x72: 4}, {0x68: 1, 0x6A: 4}  # BINPUT, LONG_BINPUT; BINGET, LONG_BINGET
PROTO, FRAME, STOP, MEMOIZE, GLOBAL, STACK_GLOBAL, TUPLE = 0x80, 0x95, 0x2E, 0x94, 0x63, 0x93, 0x74
REDUCE, BUILD, APPEND, APPENDS, SETITEM, SETITEMS = 0x52, 0x62, 0x61, 0x65, 0x73, 0x75
SCALARS = (int, bool, bytes, str, type(None))
LINE = 100
"""Most characters of a name."""


def read_plain(content: bytes) -> dict[bytes | str, Any]:
    """The one dictionary that a pickle of protocol 2 to 5 holds. Its values are integers, text, bytes, None, arrays of
    bytes, and lists and tuples of all these but arrays.

    Takes memory in proportion to `content`. Raises: NotPlainError, a ValueError, for anything else, and so for
    containers in each other: a few bytes can have them as deep, or in as many places, as they like.
    """
    found = _Reader(content).read()
    if type(found) is not dict:
        raise NotPlainError("expected a dictionary of lists and arrays")
    return {key: _plain(value) for key, value in found.items()}


def _plain(value: Any) -> Any:
    """A value of the dictionary, in which nothing is copied, and nothing looked into further than its items."""
    if type(value) is _Array:
        if value.values is None:
            raise NotPlainError("an array without values")
        return value.values
    if not all(type(item) in SCALARS for item in (value if type(value) in (list, tuple) else [value])):
        raise NotPlainError("expected a dictionary of lists and arrays, and not of containers in each other")
    return value


class _Reader:
    """Runs the opcodes of one file on a stack of plain objects."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.encoded = 0
        self.named: dict[int, Callable[[], None]] = {
            TUPLE: lambda: self.stack.append(tuple(self._items())),
            GLOBAL: lambda: self._name(self._line(), self._line()),
            STACK_GLOBAL: self._stack_global,
            MEMOIZE: lambda: self.memo.__setitem__(len(self.memo), self._top()),
            REDUCE: self._reduce,
            BUILD: self._build,
            APPEND: lambda: self._extend([self._pop()]),
            APPENDS: lambda: self._extend(self._items()),
            SETITEM: lambda: self._set([self._pop(), self._pop()][::-1]),
            SETITEMS: lambda: self._set(self._items()),
        }

    def read(self) -> Any:
        if self._take(1)[0] != PROTO:
            raise NotPlainError("it does not begin as a pickle of protocol 2 to 5 does")
        self._take(1)
        for _ in range(MAX_STEPS):
            code = self._take(1)[0]
            if code == STOP:
                value = self._pop()
                if self.stack:
                    raise NotPlainError("objects are left over at its end")
                return value
            self._step(code)
        raise NotPlainError(f"it has more than {MAX_STEPS:,} opcodes")

    def _step(self, code: int) -> None:
        if code in INTEGERS:
            size, signed = INTEGERS[code]
            self.stack.append(int.from_bytes(self._take(size), "little", signed=signed))
        elif code in BYTES:
            self.stack.append(self._take(self._number(BYTES[code])))
        elif code in PUTS:
            self.memo[self._number(PUTS[code])] = self._top()
        elif code in CONSTANTS:
            self.stack.append(CONSTANTS[code])
        elif code in GETS:
            place = self._number(GETS[code])
            if place not in self.memo:
                raise NotPlainError(f"the object {place} is used before it is there")
            self.stack.append(self.memo[place])
        elif code in TEXTS:
            self.stack.append(self._take(self._number(TEXTS[code])).decode("utf-8"))
        elif code in EMPTY:
            self.stack.append(EMPTY[code]())
        elif code in TUPLES:
            self.stack.append(tuple(self._pop() for _ in range(TUPLES[code]))[::-1])
        elif code == FRAME:
            self._take(8)
        elif code in self.named:
            self.named[code]()
        else:
            raise NotPlainError(f"it has the opcode {code:#04x}, which no CIFAR file needs")

    def _take(self, size: int) -> bytes:
        found = self.content[self.at : self.at + size]
        if len(found) < size:
            raise NotPlainError(f"it ends after {len(self.content):,} bytes, in the middle of an object")
        self.at += size
        return found

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self) -> str:
        end = self.content.find(b"\n", self.at, self.at + LINE)
        if end < 0:
            raise NotPlainError("a name without an end")
        return self._take(end + 1 - self.at)[:-1].decode("utf-8")

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise NotPlainError("an object is missing")
        return self.stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self.stack.pop()

    def _items(self) -> list[Any]:
        """What is above the last mark."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise NotPlainError("the beginning of a list or tuple is missing")

    def _extend(self, items: list[Any]) -> None:
        if type(self._top()) is not list:
            raise NotPlainError("items are added to what is no list")
        self.stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        # A deep tuple as a key would be hashed by a recursion that nothing bounds.
        if type(self._top()) is not dict or len(items) % 2 or any(type(key) not in (bytes, str) for key in items[::2]):
            raise NotPlainError("a dictionary must have text or bytes as its keys")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise NotPlainError("a name must be text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        known = NAMES.get(f"{module} {name}")
        if known is None:
            asked = f"{module}.{name}"
            raise NotPlainError(f"it asks for {asked[:LINE]!r}, which no CIFAR file needs")
        self.stack.append(_Named(known))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(arguments) is not tuple or type(function) is not _Named:
            raise NotPlainError("something is called that is no function")
        if function.name == ENCODE:
            self.stack.append(self._encoded(arguments))
        else:
            self.stack.append(_made(function.name, arguments))

    def _encoded(self, arguments: tuple[Any, ...]) -> bytes:
        """The bytes that Python 3 writes for Python 2 as text; of one text they may be asked for again and again."""
        if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
            raise NotPlainError("text is encoded as no CIFAR file does")
        self.encoded += len(arguments[0])
        if self.encoded > len(self.content):
            raise NotPlainError("it makes more bytes than it has")
        return arguments[0].encode("latin1")

    def _build(self) -> None:
        state, built = self._pop(), self._top()
        if type(state) is not tuple:
            raise NotPlainError("an array is described by what is no tuple")
        if type(built) is _Array and built.values is None:
            built.values = _values(state)
        elif type(built) is not _ByteType or state not in BYTE_TYPES:
            raise NotPlainError("an array is made of something other than bytes")


def _made(function: str, arguments: tuple[Any, ...]) -> Any:
    """What a call of one of NAMES gives. Raises: NotPlainError for all but the calls that an array of bytes takes."""
    if function == DTYPE and arguments[:1] in (("u1",), (b"u1",)):
        return _ByteType()
    if function == RECONSTRUCT and len(arguments) == 3:
        kind = arguments[0]
        if type(kind) is _Named and kind.name == NDARRAY:
            return _Array()
    if function == FROM_BUFFER and len(arguments) == 4 and arguments[3] in ("C", "F"):
        array = _Array()
        array.values = _values((1, arguments[2], arguments[1], arguments[3] == "F", arguments[0]))
        return array
    raise NotPlainError(f"it calls {function} for something other than an array of bytes")


def _values(state: tuple[Any, ...]) -> NDArray[np.uint8]:
    """The array that (version, shape, dtype, column by column, bytes) describes."""
    if len(state) != 5 or type(state[2]) is not _ByteType or type(state[3]) not in (bool, int):
        raise NotPlainError("an array is made of something other than bytes")
    shape, data = state[1], state[4]
    if type(data) is not bytes or type(shape) is not tuple or not 1 <= len(shape) <= 4:
        raise NotPlainError("an array without a shape or without bytes")
    if any(type(side) is not int or side < 0 for side in shape) or math.prod(shape) != len(data):
        raise NotPlainError(f"an array of another size than its {counted(len(data), 'byte')}")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape, order="F" if state[3] else "C")
