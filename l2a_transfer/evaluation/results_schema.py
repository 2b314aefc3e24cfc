"""What is believed of a results.json that lies there already: it may be of another program, or of a stranger."""

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
    """The files that an earlier report names as its own; none where there is no report of this schema.

    A file that is there and is none is named in a warning, with the field that is wrong.
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
