"""Pictures with their masks, in small batches of equal size as network input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from l2a_transfer.data.masks import LABEL, Annotation, MaskSource, NoObjectError, match
from l2a_transfer.errors import ArgumentError, BackendError, DataError
from l2a_transfer.explain.dispatch import MAX_SIDE, scaled_size
from l2a_transfer.localization.results import LocalizationConfig

if TYPE_CHECKING:
    from l2a_transfer.data.sources import ImageSource

BATCH = 16
MAX_PIXELS = 16_000_000
"""Maximum number of pixels of all pictures waiting for others of their size."""
NO_MASK, NO_OBJECT, OTHER_CLASS = "without a mask", "without an object in the mask", "of a class that no network has"


@dataclass(frozen=True)
class Pictured:
    """One picture with its object: its index in the selected rows, its name, label, pixels and annotation."""

    place: int
    name: str
    label: int
    image: Image.Image
    annotation: Annotation


@dataclass
class Selection:
    """The rows of a source to measure, with the keys of their masks, and the number of skipped pictures.

    Parameters
    ----------
    rows : ndarray of int64, shape (N,)
        Rows of the source.
    keys : list of str
        Key of the mask of each row.
    skipped : Counter
        Reason → number of pictures.
    """

    rows: NDArray[np.int64]
    keys: list[str]
    skipped: Counter[str] = field(default_factory=Counter)

    def again(self) -> Selection:
        """The same pictures for another pass, with its own counts."""
        return Selection(self.rows, self.keys)


def selected(
    source: ImageSource, masks: MaskSource, config: LocalizationConfig, known: Sequence[str] | None
) -> Selection:
    """Select the pictures with a mask and a class that the networks have.

    Parameters
    ----------
    source : ImageSource
        The pictures.
    masks : MaskSource
        Their masks.
    config : LocalizationConfig
        Whether other pictures are skipped or are an error.
    known : sequence of str or None
        Classes of the source that every network has; None if classes do not matter.

    Raises
    ------
    DataError
        For pictures without a mask or of other classes, if they must not be skipped, and if none is left.
    """
    keys = match(source.ids, masks)
    skipped: Counter[str] = Counter()
    rows = []
    for row, name in enumerate(source.ids):
        label = int(source.labels[row])
        if known is not None and (label < 0 or source.classes[label] not in known):
            if not config.skip_unknown:
                what = f"the class {source.classes[label]!r}, which not every network has" if label >= 0 else "no class"
                raise DataError(
                    f"{source.name}: {name} has {what}; common classes: {', '.join(known) or 'none'}",
                    "`skip_unknown=True` skips these pictures; `same_class` maps a class of the data to the networks'",
                )
            skipped[OTHER_CLASS] += 1
        elif name not in keys:
            if not config.skip_unmasked:
                raise DataError(
                    f"{source.name}: {name} has no mask in {masks.name}",
                    "`skip_unmasked=True` skips these pictures",
                )
            skipped[NO_MASK] += 1
        else:
            rows.append(row)
    if not rows:
        why = f"; left out: {', '.join(f'{n} {reason}' for reason, n in skipped.items())}" if skipped else ""
        raise DataError(f"{source.name}: no pictures to measure{why}", "use other `masks`")
    return Selection(np.array(rows, dtype=np.int64), [keys[source.ids[row]] for row in rows], skipped)


def batches(
    source: ImageSource, masks: MaskSource, selection: Selection, config: LocalizationConfig, smallest: int
) -> Iterator[list[Pictured]]:
    """All selected pictures, in batches of at most BATCH with equal size as network input.

    The number of pictures in memory is bounded. Pictures without an object are counted in `selection.skipped` if they
    may be skipped.

    Raises
    ------
    DataError
        For an unusable picture or mask; the message names the file.
    """
    waiting: dict[tuple[int, int], list[Pictured]] = {}
    for place in range(len(selection.rows)):
        picture = pictured(source, masks, selection, place, config)
        if picture is None:
            continue
        size = input_size(picture.image, config.side, smallest, picture.name)
        own = waiting.setdefault(size, [])
        own.append(picture)
        if len(own) == BATCH:
            yield waiting.pop(size)
        elif sum(p.image.width * p.image.height for others in waiting.values() for p in others) > MAX_PIXELS:
            yield waiting.pop(max(waiting, key=lambda one: len(waiting[one])))
    yield from waiting.values()


def pictured(
    source: ImageSource, masks: MaskSource, selection: Selection, place: int, config: LocalizationConfig
) -> Pictured | None:
    """One selected picture; None if it has no object and such pictures are skipped."""
    row = int(selection.rows[place])
    image, label = source.image(row), int(source.labels[row])
    wanted = config.mask_class
    if wanted == LABEL:
        if label < 0:
            raise ArgumentError(f"mask_class is the picture's label, but {source.ids[row]} has none")
        wanted = source.classes[label]
    try:
        annotation = masks.read(selection.keys[place], image.size, wanted)
    except NoObjectError as error:
        if config.skip_unmasked:
            selection.skipped[NO_OBJECT] += 1
            return None
        raise DataError(error.problem, "`skip_unmasked=True` skips these pictures") from error
    return Pictured(place, source.ids[row], label, image, annotation)


def input_size(image: Image.Image, side: int, smallest: int, name: str) -> tuple[int, int]:
    """(width, height) of the picture as network input.

    Raises: BackendError for a picture that would become too narrow.
    """
    size = scaled_size(image.width, image.height, side)
    if min(size) < smallest:
        raise BackendError(
            f"{name}: {image.width} × {image.height} pixels is too long for its height: its shorter side would be "
            f"{min(size)} pixels, and the networks need {smallest}"
        )
    return size


def check_side(side: int, smallest: int) -> None:
    """Raises: ArgumentError for a side that the networks do not support."""
    if not smallest <= side <= MAX_SIDE:
        raise ArgumentError(f"side must be between {smallest} and {MAX_SIDE} pixels, got {side}")
