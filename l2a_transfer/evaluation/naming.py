"""Names of feature files and models in a report. A file is named by its path, a model by its name; if several models
have the same name, the shortest distinguishing piece of a path is added. Files are identified by their SHA-256, not by
these names."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from l2a_transfer.features.store.schema import weights_sha256
from l2a_transfer.features.store.views import VerifiedFile
from l2a_transfer.text import look

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Named:
    """`file`: the path relative to the common folder of all files of the report. `line`: the model's number in the
    table of models × data sets, shared by its files of several data sets. `label`: the model's name."""

    file: str
    label: str
    line: int


def name_files(files: Sequence[VerifiedFile], *, joined: bool = False) -> list[Named]:
    """One `Named` per file (paths and contents differ); no two lines have the same label.

    A model with two input settings, such as two image sizes, gets two lines. With `joined`, files of several data sets
    form one table; such files then stay together, so that the difference can be rejected.
    """
    paths = [Path(os.path.abspath(file.path)) for file in files]
    folder = os.path.commonpath([path.parent for path in paths])
    lines = _lines(files, paths, joined=joined)
    labels = _labels(files, paths, lines)
    return [Named(path.relative_to(folder).as_posix(), labels[k], k) for path, k in zip(paths, lines, strict=True)]


def _lines(files: Sequence[VerifiedFile], paths: Sequence[Path], *, joined: bool) -> list[int]:
    """The line number of each file: files of one model, at most one per data set.

    If a data set has several files of a model, they are told apart by the view of the network, then by file names or
    folders if either works on every data set; otherwise each file gets its own line.
    """
    data = [file.meta.data for file in files]
    keys = [_maker(file) + ("" if joined else _preprocess(file)) for file in files]
    for key, own in _shared(data, keys).items():
        for k in own:
            keys[k] = key + _view(files[k])
    for key, own in _shared(data, keys).items():
        ways = ([paths[k].stem for k in own], [str(paths[k].parent) for k in own], [files[k].sha256 for k in own])
        way = next(way for way in ways if not _shared([data[k] for k in own], way))
        for k, further in zip(own, way, strict=True):
            keys[k] = key + further
    number = {key: k for k, key in enumerate(dict.fromkeys(keys))}
    return [number[key] for key in keys]


def _shared(data: Sequence[str], keys: Sequence[str]) -> dict[str, list[int]]:
    """Keys that a data set has more than once, with the positions of all files that have them."""
    often = Counter(zip(data, keys, strict=True))
    shared = {key for (_, key), n in often.items() if n > 1}
    return {key: [k for k, other in enumerate(keys) if other == key] for key in shared}


def _maker(file: VerifiedFile) -> str:
    card = file.meta.card
    own = [card.get(key) for key in ("config", "training", "code_sha256")]
    return json.dumps([_name(file), weights_sha256(file.meta), *own])


def _view(file: VerifiedFile) -> str:
    meta = file.meta
    levels = [name for name, _, _ in meta.levels]
    return json.dumps([meta.tap, levels, meta.precision, meta.backend, meta.partners]) + _preprocess(file)


def _preprocess(file: VerifiedFile) -> str:
    return json.dumps(file.meta.preprocess, sort_keys=True)


def _name(file: VerifiedFile) -> str:
    return str(file.meta.card.get("name", file.path.stem))


def _labels(files: Sequence[VerifiedFile], paths: Sequence[Path], lines: Sequence[int]) -> list[str]:
    """The label of each line."""
    members: dict[int, list[int]] = {}
    for k, line in enumerate(lines):
        members.setdefault(line, []).append(k)
    alike: dict[str, list[list[int]]] = {}
    for own in members.values():
        alike.setdefault(_name(files[own[0]]), []).append(own)
    found: dict[int, str] = {}
    for name, groups in alike.items():
        pieces = [""] if len(groups) == 1 else _pieces([[paths[k] for k in own] for own in groups])
        for own, piece in zip(groups, pieces, strict=True):
            found[lines[own[0]]] = f"{name} ({piece})" if piece else name
    often = Counter(map(look, found.values()))  # a model's name may equal a label assigned here
    return [
        found[line] if often[look(found[line])] == 1 else f"{found[line]}, SHA-256 {files[own[0]].sha256[:12]}"
        for line, own in sorted(members.items())
    ]


def _pieces(groups: Sequence[Sequence[Path]]) -> list[str]:
    """For each group of paths, the shortest piece common to all of them and to no other group; among equally short
    ones, the nearest to the file, without its suffix if possible. If there is none, a piece unique to the first
    path."""
    within = [[[*_slices(path.with_suffix("").parts), *_slices(path.parts)] for path in group] for group in groups]
    often = Counter(piece for group in within for piece in {piece for path in group for piece in path})
    found = []
    for group in within:
        common = set(group[0]).intersection(*group[1:])
        own = [piece for piece in group[0] if often[piece] == 1]
        best = next((piece for piece in own if piece in common), own[0])
        found.append(str(Path(*best)))
    return found


def _slices(path: Parts) -> Iterator[Parts]:
    """Every run of consecutive path parts: short ones first, and among equal lengths, those nearest the end first."""
    for length in range(1, len(path) + 1):
        for stop in range(len(path), length - 1, -1):
            yield path[stop - length : stop]
