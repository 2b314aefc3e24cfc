"""Reading untrusted TOML files within limits, before their content is used."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from l2a_transfer.errors import StudyError
from l2a_transfer.inputs import read_input

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
"""Limit on nested tables and lists, and on parts of a key; a study has 4."""
STRINGS = re.compile(
    r'''"""(?:[^\\]|\\.)*?(?:"{3,5}|\\?\Z)|'{3}.*?(?:'{3,5}|\Z)|"(?:[^"\\\n]|\\.)*"?\\?|'[^'\n]*'?|\#[^\n]*''',
    re.DOTALL,
)
"""Strings and comments of TOML. An unterminated one extends to the end of its line or of the file."""
DOTTED = re.compile(rf"(?<![\w-])(?:[\w-]+[ \t]*\.[ \t]*){{{MAX_DEPTH}}}")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises: StudyError if the file is not TOML, or too large or too deeply nested."""
    try:
        if path.is_dir():
            raise StudyError(f"{path}: is a folder; use the study's file in it")
        text = read_input(path, MAX_BYTES).decode()
        if found := DOTTED.search(STRINGS.sub("_", text)):  # tomllib takes quadratic time in the number of parts
            raise StudyError(f"{path}: has a key of more than {MAX_DEPTH} parts, {found[0][:40]!r}…")
        return _checked(path, tomllib.loads(text))
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # from tomllib, text that is not UTF-8, or a number of 5,000 digits
        raise StudyError(f"{path}: not a TOML file: {error}") from error


def _checked(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The file's values. Raises: StudyError if they are too deep, or an integer does not fit into TOML's 64 bits."""
    level: list[Any] = [values]
    for _ in range(MAX_DEPTH):
        level = [part for value in level for part in (value.values() if isinstance(value, dict) else value)]
        if any(isinstance(value, int) and not -(2**63) <= value < 2**63 for value in level):
            raise StudyError(f"{path}: has an integer that does not fit into 64 bits")
        level = [value for value in level if isinstance(value, (dict, list))]
    if level:
        raise StudyError(f"{path}: has tables or lists nested more than {MAX_DEPTH} deep")
    return values
