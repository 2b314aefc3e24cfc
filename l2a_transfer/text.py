"""Make untrusted text (names of files, models, classes and keys) safe for display.

This module covers terminals, Markdown, CSV and JSON. For HTML, see `report/markup.py`.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Sequence

CONTROLS = "\x00-\x1f"
OTHERS = (
    "\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f\ud800-\udfff"
)
"""C1 controls, invisible marks, marks of text direction, and surrogates. Joiners are not among them."""
STEERING = re.compile(f"[{CONTROLS}{OTHERS}]")
STEERING_IN_JSON = re.compile(f"[{OTHERS}]")
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c\u200d\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Joiners, fillers and variation selectors: some scripts need them, but alone they are invisible."""
NUMBERS = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?: [-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)*")
FORMULA = re.compile(r"[\s'\"\ufffd]*[=+\-@＝＋－＠]")
"""The beginning of a cell that a spreadsheet would evaluate."""
NO_BREAK = "\u00a0"


def terminal(text: str) -> str:
    r"""One line for a terminal, with Python's escapes for controls, line breaks and marks of text direction.

    Examples
    --------
    >>> terminal("a\tb")
    'a\\tb'
    """
    return STEERING.sub(lambda found: repr(found[0])[1:-1], text)


def plain(text: str) -> str:
    """The text with a space for each white space, and U+FFFD for each character of `STEERING`."""
    spaced = "".join(" " if c.isspace() and c != NO_BREAK else c for c in text)
    return STEERING.sub("\ufffd", spaced)


def markdown(text: str) -> str:
    """Escape the text so that Markdown shows it literally in one line of a table."""
    shown = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "'")
    # An underscore within a word is a letter to Markdown too.
    return re.sub(r"[\\|*\[\]$~^]|(?<!\w)_|_(?!\w)", r"\\\g<0>", shown)


def look(text: str) -> str:
    """A key that is equal for names that look the same in a report."""
    return unicodedata.normalize("NFC", " ".join(UNSEEN.sub("", plain(text)).split()))


def csv_cell(value: object) -> object:
    """A value for a CSV file that no spreadsheet evaluates as a formula. Numbers are unchanged.

    Some spreadsheets split cells at semicolons, so each part is checked.

    Examples
    --------
    >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell(3)
    ("'=1+1", '-0.5', 3)
    """
    if not isinstance(value, str):
        return value
    shown = STEERING.sub(lambda found: " " if found[0].isspace() else "\ufffd", value)
    return ";".join(
        f"'{part}" if FORMULA.match(part) and not NUMBERS.fullmatch(part) else part for part in shown.split(";")
    )


def few(names: Sequence[str], most: int = 4) -> str:
    """The first names of a list, and how many there are.

    Examples
    --------
    >>> few(["train", "test"]), few(list("abcdef"))
    ('train, test', 'a, b, c, d, … (6 in all)')
    """
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])}, … ({len(names):,} in all)"


def classes_and_splits(classes: Sequence[str], splits: Sequence[str]) -> tuple[str, str]:
    """A data set's classes and splits, for a repr.

    Examples
    --------
    >>> classes_and_splits(["cat", "dog"], ["train", "test"])
    ('2 classes', 'splits train, test')
    """
    number = {0: "no classes", 1: "1 class"}.get(len(classes), f"{len(classes):,} classes")
    return number, f"{'split' if len(splits) == 1 else 'splits'} {few(splits)}"


def repr_line(thing: object, name: str, *facts: str) -> str:
    """A one-line `__repr__` for a large object: its class, its name, and a few facts.

    Examples
    --------
    >>> repr_line(print, "demo", "3 rows", "2 columns")
    '<builtin_function_or_method demo: 3 rows, 2 columns>'
    """
    return terminal(f"<{type(thing).__name__} {_cut(name)}: {', '.join(map(_cut, facts))}>")


def _cut(text: str, most: int = 160) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def shell_line(arguments: Sequence[str]) -> str:
    """A command for a shell, in one line. Arguments with invisible characters are written as `$'…'`.

    Examples
    --------
    >>> shell_line(["l2a-transfer", "inspect", "my file.h5"])
    "l2a-transfer inspect 'my file.h5'"
    """
    return " ".join(map(_quoted, arguments))


def _quoted(argument: str) -> str:
    def hidden(c: str) -> bool:
        return bool(STEERING.match(c) or UNSEEN.match(c)) or (c.isspace() and c != " ")

    fence = "```" in argument  # it would end a code block in Markdown
    if not fence and not any(map(hidden, argument)):
        return shlex.quote(argument)
    shown = ""
    for c in argument:
        if hidden(c) or (fence and c == "`"):
            shown += "".join(
                f"\\{byte:03o}"
                for byte in c.encode("utf-8", "surrogateescape" if "\udc80" <= c <= "\udcff" else "replace")
            )
        else:
            shown += f"\\{c}" if c in "\\'" else c
    return f"$'{shown}'"


def json_text(document: str) -> str:
    """The same JSON document, with escapes for characters that could steer a terminal."""
    return STEERING_IN_JSON.sub(lambda found: json.dumps(found[0])[1:-1], document)
