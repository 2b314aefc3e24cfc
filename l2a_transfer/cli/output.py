"""Prints to stdout and stderr in any encoding, and never lets a name send control sequences to the terminal."""

from __future__ import annotations

import codecs
import io
import json
import sys
from typing import Any

import click

from l2a_transfer.text import json_text, terminal

LOOKALIKES = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "…": "...",
        "×": "x",
        "→": "->",
        "≥": ">=",
        "≤": "<=",
        "≠": "!=",
        "±": "+-",
        "·": "*",
        "†": "+",
        "‡": "++",
        "‖": "||",
        "⟨": "<",
        "⟩": ">",
        "\u00a0": " ",
        "²": "^2",
        "√": "sqrt",
        "’": "'",
    }
)
"""Substitutes for characters in our own messages and tables that some encodings lack."""
ERRORS = "l2a-transfer-lookalikes"
ASCII = "l2a_transfer_ascii"
"""ASCII under another name. Click writes UTF-8 to a stream whose encoding is called ascii."""


def _substitute(error: UnicodeError) -> tuple[str, int]:
    """Substitutes for characters that an encoding lacks: from LOOKALIKES, or as JSON escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end].translate(LOOKALIKES)
    return "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in found), error.end


def _find_ascii_alias(name: str) -> codecs.CodecInfo | None:
    found = codecs.lookup("ascii")
    return (
        codecs.CodecInfo(*found, found.incrementalencoder, found.incrementaldecoder, ASCII) if name == ASCII else None
    )


codecs.register_error(ERRORS, _substitute)
codecs.register(_find_ascii_alias)


def accept_every_letter() -> None:
    """Make stdout and stderr accept every character, even if their encoding, or a name, is not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=ASCII if is_ascii else stream.encoding, errors=ERRORS)


def echo(*lines: object, err: bool = False) -> None:
    """Print each argument as one line on stdout, or stderr, with control characters escaped."""
    click.echo("\n".join(terminal(str(line)) for line in lines), err=err)


def echo_json(document: Any, *, indent: int | None = None) -> None:
    """Print one JSON document on stdout. Characters that the encoding lacks are escaped, so its content is the same."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    click.echo(json_text(json.dumps(document, indent=indent, ensure_ascii=not is_utf8)))
