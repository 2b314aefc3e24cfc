"""The few opcodes of Python's pickles that CIFAR's files are made of, read without pickle and without NumPy's part in
it: there, a file says which functions are called, and of an array which memory is its own."""

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
"""What a pickle of an array of bytes names: by protocols 0 to 4, by protocol 5, and by Python 3 for Python 2."""


class _ByteType:
    """Stands for NumPy's dtype of bytes, the only one there is here."""


class _Array:
    """Stands for an array until its bytes are known, which is once."""

    def __init__(self) -> None:
        self.values: NDArray[np.uint8] | None = None


BYTE_TYPES = tuple((3, order, None, None, None, -1, -1, 0) for order in ("|", b"|"))
"""How NumPy describes its dtype of bytes, as written by Python 3 and by Python 2."""
SCALARS = (int, bool, bytes, str, type(None))


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


class _Reader(PlainPickle):
    kind, names = "CIFAR file", NAMES

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.encoded = 0

    def _called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        return self._encoded(arguments) if name == ENCODE else _made(name, arguments)

    def _encoded(self, arguments: tuple[Any, ...]) -> bytes:
        """The bytes that Python 3 writes for Python 2 as text; of one text they may be asked for again and again."""
        if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
            raise NotPlainError("text is encoded as no CIFAR file does")
        self.encoded += len(arguments[0])
        if self.encoded > len(self.content):
            raise NotPlainError("it makes more bytes than it has")
        return arguments[0].encode("latin1")

    def _described(self, built: Any, state: Any) -> None:
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
        if type(kind) is Named and kind.name == NDARRAY:
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
