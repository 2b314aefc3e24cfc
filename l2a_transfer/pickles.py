"""Read Python pickles with harmless opcodes only. The module pickle would call any function that a file names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

MAX_STEPS = 2_000_000
"""Limit of opcodes per file. Each creates at most one small object; CIFAR-100's training file has 250,000."""


class NotPlainError(ValueError):
    """A file has content that files of its kind do not have. The message continues the text "corrupt:"."""


class _Mark:
    """Marks where the items of a list, a tuple or a dictionary begin."""


class Named:
    """One of a reader's `names`. It is only a placeholder and cannot be called."""

    def __init__(self, name: str) -> None:
        self.name = name


MARK = _Mark()
# Bytes of the length field of each kind of byte string or text.
BYTES = {0x55: 1, 0x54: 4, 0x43: 1, 0x42: 4, 0x8E: 8, 0x96: 8}  # SHORT_BINSTRING, BINSTRING, *BINBYTES*, BYTEARRAY8
TEXTS = {0x8C: 1, 0x58: 4, 0x8D: 8}  # SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
CONSTANTS = {0x4E: None, 0x88: True, 0x89: False, 0x28: MARK}  # NONE, NEWTRUE, NEWFALSE, MARK
INTEGERS = {0x4B: (1, False), 0x4D: (2, False), 0x4A: (4, True)}  # BININT1, BININT2, BININT: bytes, signed
EMPTY: dict[int, Callable[[], Any]] = {0x5D: list, 0x7D: dict, 0x29: tuple}
TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
PUTS, GETS = {0x71: 1, 0x72: 4}, {0x68: 1, 0x6A: 4}  # BINPUT, LONG_BINPUT; BINGET, LONG_BINGET
PROTO, FRAME, STOP, MEMOIZE, GLOBAL, STACK_GLOBAL, TUPLE = 0x80, 0x95, 0x2E, 0x94, 0x63, 0x93, 0x74
REDUCE, BUILD, APPEND, APPENDS, SETITEM, SETITEMS = 0x52, 0x62, 0x61, 0x65, 0x73, 0x75
LINE = 100
"""Limit of characters in a name."""


class PlainPickle:
    """Runs the opcodes of one pickle on a stack of plain objects. Subclasses define what can be called by name.

    `kind`: the kind of file, for errors. Every opcode creates at most one small object, or reads bytes of the file. By
    fetching containers from the memo, a few bytes could create objects of any depth or size; see `_fetched`.
    """

    kind = "file"
    names: Mapping[str, str] = {}
    """Module and name in the pickle → their meaning here."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
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
            raise NotPlainError("it does not begin like a pickle of protocol 2 to 5")
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
                raise NotPlainError(f"the object {place} is used before it exists")
            self.stack.append(self._fetched(self.memo[place]))
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
            raise NotPlainError(f"it has the opcode {code:#04x}, which no {self.kind} needs")

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
            raise NotPlainError("a name is not terminated")
        return self._take(end + 1 - self.at)[:-1].decode("utf-8")

    def _top(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise NotPlainError("an object is missing")
        return self.stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self.stack.pop()

    def _items(self) -> list[Any]:
        """The items above the last mark."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise NotPlainError("the beginning of a list or tuple is missing")

    def _extend(self, items: list[Any]) -> None:
        if type(self._top()) is not list:
            raise NotPlainError("items are added to something other than a list")
        self.stack[-1].extend(items)

    def _fetched(self, value: Any) -> Any:
        """Check an object that is fetched from the memo. Raises: NotPlainError if it may only be used once."""
        return value

    def _is_key(self, value: Any) -> bool:
        # Hashing a deeply nested tuple as a key would recurse without a limit.
        return type(value) in (bytes, str)

    def _set(self, items: list[Any]) -> None:
        if type(self._top()) is not dict or len(items) % 2 or not all(map(self._is_key, items[::2])):
            raise NotPlainError("a dictionary must have text or bytes as its keys")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise NotPlainError("a name must be text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        known = self.names.get(f"{module} {name}")
        if known is None:
            asked = f"{module}.{name}"
            raise NotPlainError(f"it asks for {asked[:LINE]!r}, which no {self.kind} needs")
        self.stack.append(Named(known))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(arguments) is not tuple or type(function) is not Named:
            raise NotPlainError("something that is not a function is called")
        self.stack.append(self._called(function.name, arguments))

    def _called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """The result of calling one of `names`. Raises: NotPlainError."""
        raise NotPlainError(f"it calls {name}")

    def _build(self) -> None:
        state, built = self._pop(), self._top()
        self._described(built, state)

    def _described(self, built: Any, state: Any) -> None:
        """Set the state of an object. Raises: NotPlainError."""
        raise NotPlainError("it changes an object")
