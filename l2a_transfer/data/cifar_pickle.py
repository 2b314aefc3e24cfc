"""A reader for the pickles of CIFAR's files. It uses neither Python's `pickle` nor NumPy's unpickling.

With `pickle`, a file decides which functions are called. With NumPy's unpickling, it can make an array point to any
memory. This reader knows only the few opcodes and calls that CIFAR's files need.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.pickles import Named, NotPlainError, PlainPickle
from l2a_transfer.wording import counted

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
"""Module and name in a pickle → the function or class here.

Pickles of an array of bytes name these: those of protocols 0 to 4, of protocol 5, and those that Python 3 writes for
Python 2.
"""


class _ByteType:
    """Stands for NumPy's dtype uint8. No other dtype is accepted."""


class _Array:
    """Stands for an array. Its values are set once."""

    def __init__(self) -> None:
        self.values: NDArray[np.uint8] | None = None


BYTE_TYPES = tuple((3, order, None, None, None, -1, -1, 0) for order in ("|", b"|"))
"""NumPy's state of the dtype uint8, as Python 3 and Python 2 write it."""
SCALARS = (int, bool, bytes, str, type(None))


def read_plain(content: bytes) -> dict[bytes | str, Any]:
    """The dictionary in a pickle of protocol 2 to 5.

    A value is an integer, text, bytes, None, an array of bytes, or a list or tuple of such values except arrays.
    Memory grows linearly with the length of `content`.

    Raises: NotPlainError, a ValueError, for any other content. Nested lists and tuples are refused, because a few bytes
    of a pickle can nest them to any depth and repeat them any number of times.
    """
    found = _Reader(content).read()
    if type(found) is not dict:
        raise NotPlainError("expected a dictionary of lists and arrays")
    return {key: _plain(value) for key, value in found.items()}


def _plain(value: Any) -> Any:
    """Check a value of the dictionary and return it without a copy. Only its direct items are checked.

    Raises: NotPlainError.
    """
    if type(value) is _Array:
        if value.values is None:
            raise NotPlainError("an array without values")
        return value.values
    if not all(type(item) in SCALARS for item in (value if type(value) in (list, tuple) else [value])):
        raise NotPlainError("expected a dictionary of lists and arrays, got nested containers")
    return value


class _Reader(PlainPickle):
    kind, names = "CIFAR file", NAMES

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.encoded = 0

    def _called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        return self._encoded(arguments) if name == ENCODE else _made(name, arguments)

    def _encoded(self, arguments: tuple[Any, ...]) -> bytes:
        """Bytes, which Python 3 writes for Python 2 as text and a call to `encode`.

        A pickle can encode one text many times. The total is limited to the length of the pickle.
        """
        if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
            raise NotPlainError("unexpected call to encode text")
        self.encoded += len(arguments[0])
        if self.encoded > len(self.content):
            raise NotPlainError("it encodes to more bytes than its own size")
        return arguments[0].encode("latin1")

    def _described(self, built: Any, state: Any) -> None:
        if type(state) is not tuple:
            raise NotPlainError("the state of an array is not a tuple")
        if type(built) is _Array and built.values is None:
            built.values = _values(state)
        elif type(built) is not _ByteType or state not in BYTE_TYPES:
            raise NotPlainError("an array is made of something other than bytes")


def _made(function: str, arguments: tuple[Any, ...]) -> Any:
    """The result of calling one of NAMES. Raises: NotPlainError for a call that no array of bytes needs."""
    if function == DTYPE and arguments[:1] in (("u1",), (b"u1",)):
        return _ByteType()
    if function == RECONSTRUCT and len(arguments) == 3:
        kind = arguments[0]
        if type(kind) is Named and kind.name == NDARRAY:
            return _Array()
    if function == FROM_BUFFER and len(arguments) == 4 and arguments[3] in ("C", "F"):
        array = _Array()
        array.values = _values((1, arguments[2], arguments[1], arguments[3] == "F", arguments[0]))
        return array
    raise NotPlainError(f"it calls {function} for something other than an array of bytes")


def _values(state: tuple[Any, ...]) -> NDArray[np.uint8]:
    """The array with the state (version, shape, dtype, Fortran order, bytes). Raises: NotPlainError."""
    if len(state) != 5 or type(state[2]) is not _ByteType or type(state[3]) not in (bool, int):
        raise NotPlainError("an array is made of something other than bytes")
    shape, data = state[1], state[4]
    if type(data) is not bytes or type(shape) is not tuple or not 1 <= len(shape) <= 4:
        raise NotPlainError("an array without a shape or without bytes")
    if any(type(side) is not int or side < 0 for side in shape) or math.prod(shape) != len(data):
        raise NotPlainError(f"an array of another size than its {counted(len(data), 'byte')}")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape, order="F" if state[3] else "C")
