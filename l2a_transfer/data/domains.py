"""Domains: where each picture of a set comes from, given by its folder, a pattern in its id, or a file."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from pathlib import Path

import numpy as np

from l2a_transfer.data.lists import MAX_LIST_BYTES
from l2a_transfer.data.names import name_fault
from l2a_transfer.data.sources import ImageSource, SourceBase
from l2a_transfer.documents import parse, table, text
from l2a_transfer.errors import ArgumentError, DataError, nearest
from l2a_transfer.inputs import read_input
from l2a_transfer.text import terminal
from l2a_transfer.wording import counted

FOLDER = "folder"
KINDS = "folder, regex:PATTERN or file:FILE"
MAX_DOMAINS = 1 << 16
MAPPING = table(others=text(4096))


def check_domain_from(domain_from: str) -> tuple[str, str]:
    """Split `domain_from` into the kind (`folder`, `regex` or `file`) and the part after its colon.

    Raises: ArgumentError for another kind, an empty pattern or file name, or a pattern that is not a regular expression
    or has no group.
    """
    kind, _, rest = domain_from.partition(":")
    if domain_from != FOLDER and (kind not in ("regex", "file") or not rest):
        found = nearest(kind, ("folder", "regex", "file"))
        hint = f"; did you mean {found!r}?" if found and found != kind else ""
        raise ArgumentError(f"domain_from must be {KINDS}, got {domain_from!r}{hint}")
    if kind == "regex":
        try:
            groups = re.compile(rest).groups
        except re.error as error:
            raise ArgumentError(f"domain_from: {rest!r} is not a regular expression: {error}") from error
        if groups < 1:
            raise ArgumentError(
                f"domain_from: the pattern {rest!r} has no group; put parentheses around the part that names the "
                r"domain, for example regex:^(\w+)_"
            )
    return kind, rest


def with_domains(source: ImageSource, domain_from: str) -> ImageSource:
    """The source with a domain for each picture.

    Parameters
    ----------
    source : ImageSource
        The whole set. With `folder`, its ids begin with the domain's folder, for example ``sketch/dog/1.jpg``.
    domain_from : str
        ``"folder"``: the first folder in the id. ``"regex:PATTERN"``: the first group of the pattern's first match in
        the id. ``"file:FILE"``: a JSON object (id → domain) or a CSV file with the two columns id and domain.

    Returns
    -------
    ImageSource

    Raises
    ------
    ArgumentError
        In the same cases as `check_domain_from`, and if the source cannot have domains.
    DataError
        If a picture has no domain, a name cannot be written, or a file cannot be read.
    """
    kind, rest = check_domain_from(domain_from)
    if not isinstance(source, SourceBase):
        raise ArgumentError(
            f"domain_from works only with this package's sources, got a {type(source).__name__}",
            "set its attributes called domains and domain instead",
        )
    if kind == FOLDER:
        names = [_folder_of(source, name) for name in source.ids]
    elif kind == "regex":
        names = [_found_in(source, name, re.compile(rest)) for name in source.ids]
    else:
        names = _from_file(source, Path(rest).expanduser())
    domains = tuple(sorted(set(names)))
    for name in domains:
        if fault := name_fault(name):
            raise DataError(f"{source.name}: the domain {name[:60]!r} {fault}")
    if len(domains) > MAX_DOMAINS:
        raise DataError(
            f"{source.name}: {counted(len(domains), 'domain')}; at most {MAX_DOMAINS:,} can be written",
            "choose a shorter part of the id in `domain_from`",
        )
    index = {name: k for k, name in enumerate(domains)}
    return dataclasses.replace(
        source, domains=domains, domain=np.array([index[name] for name in names], dtype=np.uint16)
    )


def _folder_of(source: ImageSource, name: str) -> str:
    folder, slash, _ = name.partition("/")
    if not slash:
        raise DataError(
            f"{source.name}: {name!r} is not in a folder, so its domain is unknown",
            "use DOMAIN/CLASS/picture, or `domain_from='regex:PATTERN'`",
        )
    return folder


def _found_in(source: ImageSource, name: str, pattern: re.Pattern[str]) -> str:
    found = pattern.search(name)
    if found is None or not found[1]:
        raise DataError(
            f"{source.name}: the pattern {pattern.pattern!r} finds no domain in {name!r}",
            "every id must match; give another pattern as `domain_from`",
        )
    return found[1]


def _from_file(source: ImageSource, path: Path) -> list[str]:
    given = read_pairs(path, "id", "domain")
    missing = [name for name in source.ids if name not in given]
    if missing:
        raise DataError(
            f"{path}: has no domain for {counted(len(missing), 'image')} of {len(source.ids):,} in {source.name}, "
            f"first {missing[0]!r}",
            "add them; use the ids that 'inspect' and the feature file show",
        )
    return [given[name] for name in source.ids]


def read_pairs(path: Path, first: str, second: str) -> dict[str, str]:
    """Read a JSON object of strings, or a CSV file with two columns; `first` and `second` name the columns.

    A first line with exactly these two words is a header. Raises: DataError if the file is missing, larger than 16 MiB,
    not UTF-8, of another format, empty, or has two values for one name.
    """
    try:
        content = read_input(path, MAX_LIST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8", "save it as UTF-8") from error
    shape = f"expected a JSON object ({first} → {second}), or CSV lines '{first},{second}'"
    if content.lstrip().startswith("{"):
        try:
            found = parse(content)
            MAPPING.check(found, "the object")
        except ValueError as error:
            raise DataError(f"{path}: {error}; {shape}") from error
        pairs = list(found.items())
    else:
        try:
            rows = [(number, row) for number, row in enumerate(csv.reader(io.StringIO(content)), 1) if row]
        except csv.Error as error:
            raise DataError(f"{path}: {error}; {shape}") from error
        for number, row in rows:
            if len(row) != 2:
                raise DataError(f"{path}: row {number} has {counted(len(row), 'column')}; {shape}")
        pairs = [(row[0].strip(), row[1].strip()) for _, row in rows]
        if pairs and pairs[0] == (first, second):
            pairs = pairs[1:]
    known: dict[str, str] = {}
    for name, value in pairs:
        if not name or not value:
            raise DataError(f"{path}: an empty name next to {terminal(name or value)!r}; {shape}")
        if known.setdefault(name, value) != value:
            raise DataError(f"{path}: {name!r} appears twice, as {known[name]!r} and as {value!r}")
    if not known:
        raise DataError(f"{path}: is empty; {shape}")
    return known
