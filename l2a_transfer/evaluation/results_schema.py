"""What is read from a results.json that is already there: it may come from another program, or be malicious."""

from __future__ import annotations

import logging
from pathlib import Path

from l2a_transfer.documents import ANYTHING, Kind, list_of, parse, table, text
from l2a_transfer.evaluation.results import SCHEMA
from l2a_transfer.inputs import read_input

log = logging.getLogger(__name__)
MAX_BYTES = 1 << 28
RESULTS = table(
    {"schema": Kind(repr(SCHEMA), lambda value: value == SCHEMA), "files": list_of(text())}, others=ANYTHING
)


def earlier_files(path: Path) -> list[str]:
    """The files that an earlier report lists as its own; none if there is no report with this schema.

    If the file is not a valid report, a warning names the invalid field.
    """
    try:
        document = parse(read_input(path, MAX_BYTES))
        RESULTS.check(document, "results")
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("%s: cannot be read: %s; figures of an earlier report are kept", path, error.strerror or error)
        return []
    except ValueError as error:
        log.warning("%s: not a report of this program: %s; figures of an earlier report are kept", path, error)
        return []
    files: list[str] = document["files"]
    return files
