"""Maps compared with masks, from pictures to a table: all rows and controls are measured on the same images."""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from l2a_transfer.data.masks import MaskSource
from l2a_transfer.errors import ArgumentError, DataError, unknown_name
from l2a_transfer.explain.registry import METHODS
from l2a_transfer.localization import intervals
from l2a_transfer.localization.compare import Measured, compare
from l2a_transfer.localization.folds import folds_of, validation_folds
from l2a_transfer.localization.lines import Line, lines_of, maps_of_lines
from l2a_transfer.localization.metrics import LEVELS
from l2a_transfer.localization.networks import (
    TRUE,
    Opened,
    open_networks,
    shared_classes,
)
from l2a_transfer.localization.pictures import Selection, batches, check_side, selected
from l2a_transfer.localization.results import (
    MEASURES,
    OF_BOXES,
    OF_MASKS,
    LocalizationConfig,
    LocalizationResults,
    Row,
)
from l2a_transfer.localization.tally import COLUMNS, THRESHOLDS, Fold, Tally
from l2a_transfer.version import __version__

if TYPE_CHECKING:
    from l2a_transfer.data.sources import ImageSource


@dataclass(frozen=True)
class Localization:
    """The output of `localize`: results, and the data needed to draw pictures and masks.

    Parameters
    ----------
    results : LocalizationResults
        The table.
    lines : tuple of Line
        One for each row, in the same order, with the values of every image.
    source, masks, selection : ImageSource, MaskSource, Selection
        The pictures and their masks.
    """

    results: LocalizationResults
    lines: tuple[Line, ...]
    source: ImageSource
    masks: MaskSource
    selection: Selection

    @property
    def measured(self) -> NDArray[np.bool_]:
        """(N,): which of the selected pictures are in the table."""
        tally = self.lines[0].tally
        return tally.taken & tally.fold.measured


def localize(
    models: Sequence[str | Path],
    source: ImageSource,
    masks: MaskSource,
    config: LocalizationConfig | None = None,
    *,
    validation: Sequence[str] | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Localization:
    """Measure how well maps find the objects in pictures.

    Thresholds of J, P and MaxBoxAccV2 are chosen on images other than those they are used for.

    Parameters
    ----------
    models : sequence of str or Path
        Networks, as for `load_model`.
    source : ImageSource
        Pictures, from `open_source`.
    masks : MaskSource
        Their masks, from `open_masks`.
    config : LocalizationConfig, optional
        Methods, classes and other settings.
    validation : sequence of str, optional
        Ids of pictures that only choose thresholds. By default, all pictures are measured, each with a threshold chosen
        on the other folds.
    device : {"auto", "cpu", "cuda"}
        Device for computing maps.
    progress : bool, default=True
        Show a progress bar on stderr.

    Returns
    -------
    Localization

    Raises
    ------
    ArgumentError
        For unknown names or classes, or sizes that do not fit.
    DataError
        For pictures without a mask or an object, unless they are skipped, and for unusable files.
    BackendError
        If no network supports any of the methods.
    """
    config = config or LocalizationConfig()
    for method in config.methods:
        METHODS.find(method)
    if not config.methods or len(set(config.methods)) < len(config.methods):
        raise ArgumentError("method must be one or more distinct names")
    if config.measure is not None and config.measure not in MEASURES:
        raise unknown_name("measure", config.measure, MEASURES)
    networks = open_networks(models, config, source.classes, device=device, seed=config.seed)
    smallest = max(own.network.config.min_size for own in networks)
    check_side(config.side, smallest)
    about_labels = config.target == TRUE and any(METHODS[method].class_specific for method in config.methods)
    known = shared_classes(networks, source.classes) if about_labels or config.skip_unknown else None
    selection = selected(source, masks, config, known)
    fold = _folds(source, selection, config, validation)
    with ExitStack() as stack:
        lines = list(lines_of(networks, config, fold, stack))
        found = _measure_all(lines, source, masks, selection, config, smallest, progress=progress)
        _check_enough(lines[0].tally, source.name)
        for line in lines:
            line.tally.finish()
    return Localization(
        _results(lines, networks, source, masks, selection, config, fold, found),
        tuple(lines),
        source,
        masks,
        selection,
    )


def picture_rows(found: Localization) -> Iterator[tuple[object, ...]]:
    """Row, picture, class and all measures of each measured picture, for a table; undefined measures are empty."""
    defined = [name in found.results.rows[0].measures for name in MEASURES]
    source, selection = found.source, found.selection
    for line in found.lines:
        for place in np.flatnonzero(found.measured):
            row = int(selection.rows[place])
            label = int(source.labels[row])
            values = line.tally.values[place].tolist()
            measured = (value if is_defined else "" for value, is_defined in zip(values, defined, strict=True))
            yield (line.label, source.ids[row], source.classes[label] if label >= 0 else "", *measured)


def _folds(
    source: ImageSource, selection: Selection, config: LocalizationConfig, validation: Sequence[str] | None
) -> Fold:
    if validation is not None:
        return Fold(validation_folds([source.ids[row] for row in selection.rows], validation), swapped=False)
    return Fold(folds_of(source.labels[selection.rows], config.folds, config.seed), swapped=True)


@dataclass
class _Found:
    """Facts about the masks, collected while measuring."""

    foreground: float = 0.0
    images: int = 0
    outlined: bool = True
    boxes: bool = True


def _measure_all(
    lines: Sequence[Line],
    source: ImageSource,
    masks: MaskSource,
    selection: Selection,
    config: LocalizationConfig,
    smallest: int,
    *,
    progress: bool,
) -> _Found:
    found = _Found()
    with tqdm(total=len(selection.rows), desc="maps", unit="image", file=sys.stderr, disable=not progress) as bar:
        for pictures in batches(source, masks, selection, config, smallest):
            for line, maps in maps_of_lines(lines, pictures, config, source.classes):
                for picture, values in zip(pictures, maps, strict=True):
                    line.tally.add(picture.place, picture.name, values, picture.annotation, signed=line.is_signed)
            for picture in pictures:
                found.foreground += float(picture.annotation.foreground.sum() / (~picture.annotation.ignored).sum())
                found.outlined = found.outlined and picture.annotation.outlined
                found.boxes = found.boxes and len(picture.annotation.boxes) > 0
            found.images += len(pictures)
            bar.update(len(pictures))
    return found


def _check_enough(tally: Tally, name: str) -> None:
    """Raises: DataError if a fold has no image left after skipping images without an object."""
    if not tally.count.all():
        raise DataError(
            f"{name}: of {int(tally.taken.sum())} image(s) with an object, too few are left to choose thresholds on",
            "add images",
        )


def _results(
    lines: Sequence[Line],
    networks: Sequence[Opened],
    source: ImageSource,
    masks: MaskSource,
    selection: Selection,
    config: LocalizationConfig,
    fold: Fold,
    found: _Found,
) -> LocalizationResults:
    taken = lines[0].tally.taken
    kept = np.flatnonzero(taken & fold.measured)
    labels = source.labels[selection.rows[kept]]
    measured = [name for name in MEASURES if found.outlined or name not in OF_MASKS]
    measured = [name for name in measured if found.boxes or name not in OF_BOXES]
    measure = config.measure or ("jaccard" if found.outlined else "max_box_accuracy")
    if measure not in measured:
        raise ArgumentError(f"measure {measure!r} needs {'boxes' if measure in OF_BOXES else 'outlines'} in masks")
    rows = [_row(line, kept, labels, measured, config, outlined=found.outlined) for line in lines]
    values = [
        Measured(row, line.source(source.name), line.tally.values[kept, COLUMNS[measure]])
        for row, line in zip(rows, lines, strict=True)
    ]
    return LocalizationResults(
        config=dataclasses.replace(config, measure=measure),
        data=source.name,
        masks=masks.name,
        images=len(kept),
        classes=tuple(source.classes[k] for k in np.unique(labels) if k >= 0),
        choosing=int(taken.sum()) - len(kept),
        skipped=dict(selection.skipped),
        foreground=found.foreground / found.images,
        outlined=found.outlined,
        rows=tuple(rows),
        comparisons=compare(values, labels, measure=measure, data=source.name),
        models={own.label: own.document for own in networks},
        versions=_versions(),
    )


def _row(
    line: Line,
    kept: NDArray[np.int64],
    labels: NDArray[np.int32],
    measured: Sequence[str],
    config: LocalizationConfig,
    *,
    outlined: bool,
) -> Row:
    tally, opened = line.tally, line.opened
    columns = [COLUMNS[name] for name in measured]
    found = intervals.measures_of(tally.values[kept][:, columns], labels, config.seed)
    oracle = tally.oracle() if outlined else (None, None)
    about = opened is not None and METHODS[line.name.method].class_specific
    chosen = tally.chosen() if tally.fold.swapped else tally.chosen()[:1]
    return Row(
        label=line.label,
        model="" if opened is None else opened.label,
        method=line.name.method,
        map=line.name.map,
        kind=line.name.kind,
        target=config.target if about else "",
        control=opened is None,
        weights_sha256="" if opened is None else opened.sha256,
        images=len(kept),
        measures=dict(zip(measured, found, strict=True)),
        levels=tuple(float(THRESHOLDS[k] / LEVELS) for k in chosen) if outlined else (),
        pooled_average_precision=tally.pooled.average_precision if outlined else None,
        oracle_jaccard=oracle[0],
        oracle_pixel_accuracy=oracle[1],
    )


def _versions() -> dict[str, str]:
    import torch

    return {
        "l2a-transfer": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
