"""Untrusted JSON: parsed strictly, then checked against a schema before any of it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 32
"""Maximum nesting of lists and objects; documents that this package writes have at most 6 levels."""
MAX_INTEGER = 2**63
SHOWN = 60
NUMBER_BYTES, LIST_BYTES, OBJECT_BYTES, TEXT_BYTES, DECODED = 56, 96, 280, 64, 3
"""Memory in bytes of values, including references in lists; and of the decoded text per byte of a document."""


def parse(content: str | bytes) -> Any:
    """Parse a JSON document that means the same to every reader.

    Parameters
    ----------
    content : str or bytes
        The document.

    Raises
    ------
    ValueError
        For a duplicate key, NaN or Infinity, an integer beyond 64 bits, nesting beyond MAX_DEPTH, and invalid JSON.

    Examples
    --------
    >>> parse('{"rows": 40}')
    {'rows': 40}
    >>> parse('{"rows": 40, "rows": 41}')
    Traceback (most recent call last):
    ...
    ValueError: the key 'rows' appears twice
    """
    try:
        document = json.loads(
            content,
            object_pairs_hook=_reject_duplicate_keys,
            parse_constant=_reject_constant,
            parse_int=_bounded_integer,
            parse_float=_finite_float,
        )
    except RecursionError as error:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from error
    level, depth = [document], 0
    while level := [part for value in level for part in _parts(value)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return document


def memory_of(content: bytes) -> int:
    """An upper limit for the memory of `parse`, from a document's punctuation. Small objects take 30 times their
    text."""
    marks = {b",": NUMBER_BYTES, b"[": LIST_BYTES, b"{": OBJECT_BYTES, b'"': TEXT_BYTES // 2}
    return DECODED * len(content) + sum(content.count(mark) * each for mark, each in marks.items())


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {_short(twice)} appears twice")
    return found


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a valid number")


def _bounded_integer(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) >= MAX_INTEGER:
        raise ValueError(f"the integer {digits[:SHOWN]} does not fit into 64 bits")
    return int(digits)


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:SHOWN]} is too large")
    return number


@dataclass(frozen=True)
class Kind:
    """What a value must be.

    Attributes
    ----------
    expected : str
        In words.
    holds : callable
        The test of a value.
    parts : callable
        (kind, part, name) of each part of a value that passed the test; the name begins with that of the value.
    """

    expected: str
    holds: Callable[[Any], bool]
    parts: Callable[[Any, str], Iterable[tuple[Kind, Any, str]]] = lambda value, at: ()

    def check(self, value: Any, at: str) -> None:
        """Raises: ValueError that names the field `at`, what it must be, and what it is."""
        if not self.holds(value):
            raise ValueError(f"{at} must be {self.expected}, got {_short(value)}")
        for kind, part, where in self.parts(value, at):
            kind.check(part, where)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


ANYTHING = Kind("anything", lambda value: True)
NOTHING = Kind("null", lambda value: value is None)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool))


def text(most: int = 1 << 20) -> Kind:
    """A string of at most `most` characters."""
    return Kind(f"text of at most {most:,} characters", lambda value: isinstance(value, str) and len(value) <= most)


def integer(low: int = 0, high: int = MAX_INTEGER - 1) -> Kind:
    """An integer from `low` to `high`, both included."""
    expected = f"an integer of at least {low:,}" if high == MAX_INTEGER - 1 else f"an integer, {low:,} to {high:,}"
    return Kind(expected, lambda value: type(value) is int and low <= value <= high)


def list_of(item: Kind, *, length: int | None = None) -> Kind:
    """A list of values of one kind, of a fixed length if one is given."""
    expected = "a list" if length is None else f"a list of {length}"
    return Kind(
        expected,
        lambda value: isinstance(value, list) and length in (None, len(value)),
        lambda value, at: ((item, part, f"{at}[{k}]") for k, part in enumerate(value)),
    )


def row_of(*items: Kind) -> Kind:
    """A list of fixed length with one value of each kind, in this order."""
    return Kind(
        f"a list of {len(items)}",
        lambda value: isinstance(value, list) and len(value) == len(items),
        lambda value, at: ((item, part, f"{at}[{k}]") for k, (item, part) in enumerate(zip(items, value, strict=True))),
    )


def table(
    required: Mapping[str, Kind] | None = None,
    *,
    optional: Mapping[str, Kind] | None = None,
    others: Kind | None = None,
) -> Kind:
    """A JSON object. `others` is the kind of unnamed keys; without it, there must be none."""
    must, may = dict(required or {}), dict(optional or {})

    def parts(value: dict[str, Any], at: str) -> Iterator[tuple[Kind, Any, str]]:
        for key in must:
            if key not in value:
                raise ValueError(f"{at} has no {key!r}")
        for key, part in value.items():
            kind = must.get(key) or may.get(key) or others
            if kind is None:
                raise ValueError(f"{at} has the key {_short(key)}, which is unknown")
            yield kind, part, f"{at}.{_short(key)[1:-1]}"

    return Kind("an object", lambda value: isinstance(value, dict), parts)


def either(*kinds: Kind) -> Kind:
    """A value of one of the kinds. If several match, the first one counts."""
    return Kind(
        " or ".join(kind.expected for kind in kinds),
        lambda value: any(kind.holds(value) for kind in kinds),
        lambda value, at: next(kind for kind in kinds if kind.holds(value)).parts(value, at),
    )
