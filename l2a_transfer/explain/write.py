"""The folder of explained pictures: overlays, the sheet, and `explain.json`, which describes each map."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.errors import ArgumentError, OutputExistsError
from l2a_transfer.explain.figures import SheetRow, explain_sheet, overlay_file, sheet_row
from l2a_transfer.explain.group import CONTROL, GROUP
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.explain.painting import Style, scale_of, state_of
from l2a_transfer.explain.question import Asked, Question
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.files import Put, check_folder, check_free, leftovers, names_a_format, replacing_all
from l2a_transfer.lock import folder_lock
from l2a_transfer.models.config import LEVELS
from l2a_transfer.preprocess import Preprocess
from l2a_transfer.text import STEERING

SCHEMA = "l2a-explain/1"
DOCUMENT, SHEET = "explain.json", "sheet"
MAX_STEM_BYTES = 120
MAPS = (*LEVELS, "all")
"""Possible map names of a method with several levels."""


@dataclass(frozen=True)
class Explained:
    """What was written: the document, and the paths of overlays and other files, `explain.json` last."""

    document: dict[str, Any]
    overlays: list[Path] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)


def file_stem(number: int, name: str, *, of: int) -> str:
    """The beginning of the names of a picture's files: its number, and a file-safe part of its name.

    Examples
    --------
    >>> file_stem(7, "cats/0 1.jpg", of=12)
    '007-0 1'
    """
    stem = re.sub(r"[/\\\\]", "_", STEERING.sub("_", PurePosixPath(name).stem))
    short = stem.encode()[:MAX_STEM_BYTES].decode("utf-8", "ignore")
    return f"{number:0{max(3, len(str(of - 1)))}d}-{short}"


@contextmanager
def explain_folder(
    out: Path,
    stems: Sequence[str],
    question: Question,
    style: Style,
    *,
    overlays: bool,
    overwrite: bool,
    attention: Sequence[str] = (),
) -> Iterator[None]:
    """Create the folder `out` if needed, and hold its lock while pictures are explained.

    `attention`: the network's names of its attention maps, if these are not levels.

    Raises
    ------
    OutputExistsError
        If a file that may be written exists and `overwrite` is false, if one is not a regular file, if `out` is not a
        folder, or if another process writes into it.
    """
    names = [DOCUMENT, *(f"{SHEET}.{format}" for format in style.formats)]
    if overlays:
        spaces = [(method, METHODS[method].maps or (*MAPS, *attention)) for method in question.methods]
        spaces += [(method, tuple(LEVELS)) for method in (GROUP, CONTROL) if question.group]
        names += [
            overlay_name(stem, method, name, format)
            for stem in stems
            for method, maps in spaces
            for name in dict.fromkeys(maps)
            for format in style.formats
        ]

    def check() -> None:
        check_folder(out, "a set of pictures")
        replaced = leftovers(out)
        for name in names:
            check_free(out / name, overwrite=overwrite, replaced=replaced)

    check()
    with folder_lock(out):
        check()  # the previous holder of the lock may have written files
        yield


def overlay_name(stem: str, method: str, level: str, format: str) -> str:
    """File name of one map of one picture."""
    return f"{stem}-{method}-{level}.{format}"


def write_explained(
    stream: Iterable[tuple[Asked, list[ImageMaps]]],
    stems: Sequence[str],
    out: Path,
    *,
    question: Question,
    preprocess: Preprocess,
    style: Style,
    header: dict[str, Any],
    title: str,
    overlays: bool = True,
    sheet: int = 24,
    store: AbstractContextManager[Callable[[Sequence[ImageMaps]], None]] | None = None,
) -> Explained:
    """Write the overlays of each picture as it arrives, then the sheet and `explain.json`: all files or none.

    Call it within `explain_folder`. Memory grows only with the pictures on the sheet and the lines of `explain.json`.

    Parameters
    ----------
    stream : iterable
        The output of `explain_stream`.
    stems : sequence of str
        The beginning of each picture's file names.
    out : Path
        The folder.
    question, preprocess, style
        The settings, the preprocessing of the network, and the style of drawn maps.
    header : dict
        Entries of `explain.json` about the run.
    title : str
        Title of the sheet.
    overlays : bool
        Whether to write a file for each map.
    sheet : int
        Number of pictures on the sheet: the first ones. 0 for no sheet.
    store : context manager, optional
        The result of `writing_maps`; its file is complete before any other appears.

    Raises
    ------
    OSError
        If a file cannot be written. The error names the file.
    """
    rows: list[SheetRow] = []
    images: list[dict[str, Any]] = []
    written = Explained({"schema": SCHEMA, **header, "images": images})
    with replacing_all(out) as put:
        with store or nullcontext() as keep:
            for stem, (asked, found) in zip(stems, stream, strict=True):
                picture = seen_region(asked.picture, preprocess, question.side)
                if keep is not None:
                    keep(found)
                if len(rows) < sheet:
                    rows.append(sheet_row(picture, found, style))
                files = _put_overlays(put, picture, found, stem, style) if overlays else {}
                written.overlays.extend(out / name for own in files.values() for name in own)
                images.append(_record(asked, found, files))
        if rows:
            more = f" (the first {len(rows)} of {len(images):,} pictures)" if len(rows) < len(images) else ""
            for format in style.formats:
                put(f"{SHEET}.{format}", explain_sheet(rows, style, format, title=f"{title}{more}"))
                written.paths.append(out / f"{SHEET}.{format}")
        document = json.dumps(written.document, indent=1, ensure_ascii=False, allow_nan=False)
        put(DOCUMENT, document.encode(), moved_last=True)
    written.paths.append(out / DOCUMENT)
    return written


def _put_overlays(
    put: Put, picture: NDArray[np.uint8], found: Sequence[ImageMaps], stem: str, style: Style
) -> dict[tuple[str, str], list[str]]:
    """Write the overlays of a picture. Returns (method, map) → file names."""
    names: dict[tuple[str, str], list[str]] = {}
    for maps in found:
        for level in maps.maps:
            for format in style.formats:
                name = overlay_name(stem, maps.method, level, format)
                put(name, overlay_file(picture, maps, level, style, format))
                names.setdefault((maps.method, level), []).append(name)
    return names


def seen_region(picture: Image.Image, preprocess: Preprocess, side: int | None) -> NDArray[np.uint8]:
    """The part of the picture that the network saw, at the picture's own resolution: uint8 (H, W, 3).

    This is the whole picture, unless the preprocessing of `extract` crops it to the centre.
    """
    if side is None and preprocess.fit == "crop":
        short = min(picture.size)
        if preprocess.resize:
            short = max(1, round(short * preprocess.size / preprocess.resize))
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        picture = picture.crop((left, top, left + short, top + short))
    return np.asarray(picture, dtype=np.uint8)


def _record(asked: Asked, found: Sequence[ImageMaps], files: dict[tuple[str, str], list[str]]) -> dict[str, Any]:
    """The entry of a picture in `explain.json`."""
    first, pixels = found[0], np.ascontiguousarray(asked.picture, dtype=np.uint8)
    H, W = first.image.shape[:2]
    return {
        "name": first.name,
        "sha256": hashlib.sha256(pixels.data).hexdigest(),
        "size": [asked.picture.width, asked.picture.height],
        "network_size": [W, H],
        "predicted": first.predicted,
        "predicted_class": first.predicted_name,
        "predicted_probability": first.predicted_probability,
        "methods": [
            {
                "method": maps.method,
                "target": maps.target,
                "class": maps.class_name,
                "probability": maps.probability,
                "completeness_error": maps.completeness,
                **({} if maps.template is None else {"template": _template(maps)}),
                "maps": [
                    {
                        "map": level,
                        "kind": maps.kinds[level],
                        "size": [values.shape[1], values.shape[0]],
                        "min": float(values.min()),
                        "max": float(values.max()),
                        "peak": maps.peak(level),
                        "state": state_of(values) or "varies",
                        "scale": scale_of(values, maps.kinds[level]),
                        "files": files.get((maps.method, level), []),
                    }
                    for level, values in maps.maps.items()
                ],
            }
            for maps in found
        ],
    }


def _template(maps: ImageMaps) -> dict[str, Any]:
    return {"class": maps.template, "images": maps.template_images}


def check_store(path: Path, *, overwrite: bool, out: Path) -> None:
    """Raises: OutputExistsError if the file of maps exists and `overwrite` is false, or if it is the folder itself;
    ArgumentError for another file extension."""
    if names_a_format(path) and path.suffix.lower() not in (".h5", ".hdf5"):
        raise ArgumentError(
            f"store must be the name of an HDF5 file, such as {path.with_suffix('.h5').name}; got {path.name!r}"
        )
    if path.resolve() == out.resolve():
        raise OutputExistsError(f"{path}: is the folder of the drawings", "choose another `store`")
    check_free(path, overwrite=overwrite)
