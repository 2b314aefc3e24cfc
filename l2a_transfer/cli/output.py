"""What goes to stdout and stderr, whatever letters the terminal or the file behind them can hold."""

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
"""What our own sentences and tables say in letters that not every encoding has."""
ERRORS = "l2a-transfer-lookalikes"
ASCII = "l2a_transfer_ascii"
"""Click takes a stream that says ascii for one that is set up wrong, and writes UTF-8 into it."""


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """A lookalike for each letter that an encoding lacks; for others the escape that JSON has for them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end].translate(LOOKALIKES)
    return "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in found), error.end


def _ascii_by_another_name(name: str) -> codecs.CodecInfo | None:
    found = codecs.lookup("ascii")
    return (
        codecs.CodecInfo(*found, found.incrementalencoder, found.incrementaldecoder, ASCII) if name == ASCII else None
    )


codecs.register_error(ERRORS, _replaced)
codecs.register(_ascii_by_another_name)


def replace_what_cannot_be_written() -> None:
    """Let stdout and stderr write something for every letter, where their encoding is not UTF-8 or a name is not."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=ASCII if is_ascii else stream.encoding, errors=ERRORS)


def echo(*lines: object, err: bool = False) -> None:
    """Each argument as one line on stdout, or stderr: whatever a name holds, it cannot steer the terminal."""
    click.echo("\n".join(terminal(str(line)) for line in lines), err=err)


def echo_json(document: Any, *, indent: int | None = None) -> None:
    """One JSON document on stdout, in letters that it can hold: in any encoding the document is the same."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    click.echo(json_text(json.dumps(document, indent=indent, ensure_ascii=not is_utf8)))
