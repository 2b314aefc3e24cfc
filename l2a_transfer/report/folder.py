"""The folder of a report: checked and locked before the work, and written atomically."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from l2a_transfer.files import check_folder, check_free, leftovers, replacing_all
from l2a_transfer.lock import folder_lock
from l2a_transfer.text import csv_cell, json_text


@contextmanager
def documents_folder(out: Path, names: Sequence[str], *, overwrite: bool, what: str) -> Iterator[None]:
    """Lock the folder `out`, which is created if needed, from before the work until its files are written.

    Parameters
    ----------
    out : Path
        The folder.
    names : sequence of str
        The files that will be written.
    overwrite : bool
        Whether files of these names may be replaced.
    what : str
        What the files are, such as "the report".

    Raises
    ------
    OutputExistsError
        If such a file exists and may not be replaced, if it is not a regular file, if `out` is not a folder, or if
        another process is writing to it.
    OSError
        If the folder cannot be written.
    """
    _check(out, names, overwrite=overwrite, what=what)
    with folder_lock(out):
        # Another process may have held the lock until now and written its files.
        _check(out, names, overwrite=overwrite, what=what)
        yield


def _check(out: Path, names: Sequence[str], *, overwrite: bool, what: str) -> None:
    check_folder(out, what)
    check_writable_place(out)
    replaced = leftovers(out)
    for name in names:
        check_free(out / name, overwrite=overwrite, what=what, replaced=replaced)


def check_writable_place(out: Path) -> None:
    """Raises: OSError if `out`, or its nearest existing parent, is not a folder or cannot be written."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    problem = errno.ENOTDIR if not there.is_dir() else 0 if os.access(there, os.W_OK) else errno.EACCES
    if problem:
        raise OSError(problem, os.strerror(problem), str(there))


def write_documents(out: Path, contents: Mapping[str, str]) -> list[Path]:
    """Write files together, the first one last. The caller must hold the lock. Raises: like `documents_folder`."""
    with replacing_all(out) as put:
        for name, text in contents.items():
            # A lone surrogate in a name is written as its \\uXXXX escape, like in JSON.
            put(name, text.encode("utf-8", "backslashreplace"))
    return [out / name for name in contents]


def json_lines(document: Mapping[str, Any]) -> str:
    """The document as JSON with one list element per line, so that files can be compared."""
    parts = []
    for key, value in document.items():
        if isinstance(value, list):
            items = ",\n".join(f"  {_dump(item)}" for item in value)
            parts.append(f' "{key}": [\n{items}\n ]' if value else f' "{key}": []')
        else:
            parts.append(f' "{key}": {_dump(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def csv_lines(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV document whose cells spreadsheets do not evaluate as formulas."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([csv_cell(cell) for cell in row] for row in rows)
    return text.getvalue()


def _dump(value: Any) -> str:
    return json_text(json.dumps(value, ensure_ascii=False, allow_nan=False))
