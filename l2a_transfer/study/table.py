"""Reads a table of a TOML file strictly. Every key has a type, and unknown keys are errors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from l2a_transfer.errors import ArgumentError, StudyError, nearest
from l2a_transfer.study.paths import LONGEST, NAME

T = TypeVar("T")


class TomlTable:
    """A table of a TOML file, whose keys are read one by one.

    `where` is its place in `file`, such as `networks.vgg` or `comparisons[2]`. `end` rejects keys that were never read.
    Every error is a StudyError that names the file and the key.
    """

    def __init__(self, file: Path, where: str, values: Any) -> None:
        self.file, self.where = file, where
        if not isinstance(values, dict):
            raise StudyError(f"{file}: {where} must be a table, got {_kind(values)}")
        self._values = dict(values)
        self._known: list[str] = []

    def has(self, key: str) -> bool:
        """Whether the table has the key. This makes the key a known one."""
        self._known.append(key)
        return key in self._values

    def error(self, key: str, problem: str) -> StudyError:
        return StudyError(f"{self.file}: {self._place(key)} {problem}")

    def end(self) -> None:
        """Raises: StudyError if there is a key that was never read."""
        for key in self._values:
            if key not in self._known:
                known = ", ".join(dict.fromkeys(self._known))
                raise self.error(key, f"is an unknown key{_hint(key, self._known)}; there are {known}")

    def text(self, key: str, default: str | None = None) -> str:
        found: str = self._taken(key, default, lambda v: isinstance(v, str) and bool(v.strip()), "a text")
        return found

    def maybe_text(self, key: str) -> str | None:
        return self.text(key) if self.has(key) else None

    def whole(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        expected = f"a whole number of at least {least}"
        found: int = self._taken(key, default, lambda v: _is_whole(v) and v >= least, expected)
        return found

    def maybe_whole(self, key: str, *, least: int = 1) -> int | None:
        return self.whole(key, least=least) if self.has(key) else None

    def number(self, key: str, default: float | None = None) -> float:
        return float(self._taken(key, default, lambda v: _is_number(v) and v > 0, "a number above 0"))

    def flag(self, key: str, *, default: bool = False) -> bool:
        found: bool = self._taken(key, default, lambda v: isinstance(v, bool), "true or false")
        return found

    def texts(self, key: str, default: Iterable[str] | None = None, *, or_one: bool = False) -> tuple[str, ...]:
        """A list of texts; with `or_one`, a single text counts as a list of one."""
        if or_one and isinstance(self._values.get(key), str):
            self._values[key] = [self._values[key]]
        found = self._taken(
            key,
            None if default is None else list(default),
            lambda v: _is_list(v, lambda x: isinstance(x, str) and x),
            "a list of texts, none of them twice",
        )
        return tuple(found)

    def wholes(self, key: str, default: Iterable[int] | None = None) -> tuple[int, ...]:
        found = self._taken(
            key,
            None if default is None else list(default),
            lambda v: _is_list(v, lambda x: _is_whole(x) and x >= 0),
            "a list of whole numbers, none of them twice or below 0",
        )
        return tuple(found)

    def numbers(self, key: str) -> tuple[float, ...]:
        return tuple(self._taken(key, None, lambda v: _is_list(v, _is_number), "a list of numbers, none of them twice"))

    def named(self, key: str, kind: str, valid: Collection[str], default: str | None = None) -> str:
        """One of the `valid` names of a `kind`."""
        name = self.text(key, default)
        self.check(key, kind, name, valid)
        return name

    def all_named(
        self, key: str, kind: str, valid: Collection[str], default: Iterable[str] | None = None, *, or_one: bool = False
    ) -> tuple[str, ...]:
        names = self.texts(key, default, or_one=or_one)
        for name in names:
            self.check(key, kind, name, valid)
        return names

    def check(self, key: str, kind: str, name: str, valid: Collection[str]) -> None:
        if name not in valid:
            known = ", ".join(valid) or "none"
            raise self.error(key, f"names {name!r}, which is an unknown {kind}{_hint(name, valid)}; there are {known}")

    def table(self, key: str) -> TomlTable:
        self._known.append(key)
        return TomlTable(self.file, self._place(key), self._values.get(key, {}))

    def tables(self, key: str) -> Iterator[TomlTable]:
        """Each table of an array, such as [[comparisons]]."""
        self._known.append(key)
        found = self._values.get(key, [])
        if not isinstance(found, list):
            raise self.error(key, f"must be tables, each under [[{key}]], got {_kind(found)}")
        for k, values in enumerate(found):
            yield TomlTable(self.file, f"{self._place(key)}[{k}]", values)

    def children(self, key: str) -> Iterator[tuple[str, TomlTable]]:
        """(name, table) of each table below `key`, such as [networks.vgg]."""
        parent = self.table(key)
        for name, values in parent._values.items():
            parent.check_name(name)
            yield name, TomlTable(self.file, parent._place(name), values)

    def keys(self) -> Iterator[str]:
        yield from self._values

    def scalar(self, key: str) -> Any:
        """A text, number or flag."""
        return self._taken(key, None, lambda v: isinstance(v, (str, int, float)), "a text, a number, true or false")

    def check_name(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise StudyError(
                f"{self.file}: {self.where}: {name!r:.200} cannot be a name, because it is used in file names; use "
                f"letters, digits, and . _ + - after the first, and at most {LONGEST} characters"
            )

    def within(self, key: str, make: Callable[[], T]) -> T:
        """The result of `make`. An ArgumentError that it raises becomes a StudyError about this key."""
        try:
            return make()
        except ArgumentError as error:
            raise self.error(key, f"is refused: {error}") from error

    def _taken(self, key: str, default: Any, valid: Callable[[Any], object], expected: str) -> Any:
        self._known.append(key)
        if key not in self._values:
            if default is None:
                near = nearest(key, [k for k in self._values if k not in self._known])
                hint = f"; did you mean this by {near!r}?" if near else ""
                raise StudyError(f"{self.file}: {self.where or 'the file'} needs {key!r}, {expected}{hint}")
            return default
        value = self._values[key]
        if not valid(value):
            raise self.error(key, f"must be {expected}, got {_kind(value)}")
        return value

    def _place(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value < 2**32


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_list(value: Any, valid: Callable[[Any], object]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(valid, value)) and len(set(value)) == len(value)


def _hint(name: str, valid: Iterable[str]) -> str:
    close = nearest(name, valid)
    return f"; did you mean {close!r}?" if close else ""


def _kind(value: Any) -> str:
    return f"{value!r:.100}" if isinstance(value, (str, int, float)) else f"{type(value).__name__} {value!r:.60}"
