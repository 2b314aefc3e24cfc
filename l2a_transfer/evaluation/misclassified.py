"""Test images that models get wrong, as small pictures for the report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from l2a_transfer.data.sources import ImageSource
from l2a_transfer.errors import ArgumentError, EvaluationError
from l2a_transfer.evaluation.detail import Misclassified
from l2a_transfer.evaluation.results import EvalResults
from l2a_transfer.features.store.reader import read_meta

MOST = 24
SIDE = 96
"""Pixels of the longer side of a picture."""


def check_pictures(files: Sequence[str | Path], source: ImageSource) -> None:
    """Raises: ArgumentError where no feature file is of the source's data set; StoreError for a damaged file."""
    names = list(dict.fromkeys(read_meta(Path(file))[0].data for file in files))
    if source.name not in names:
        raise ArgumentError(f"pictures are of {source.name}, and the feature files are of {', '.join(names)}")


def misclassified(results: EvalResults, source: ImageSource, *, most: int = MOST) -> tuple[Misclassified, ...]:
    """The images that most models get wrong, and among these the ones with the worst margins.

    Parameters
    ----------
    results : EvalResults
        With margins and ids, as `evaluate` gives them.
    source : ImageSource
        The data set that the features are of, opened again. Only the pictures that are shown are read.
    most : int, default=24
        How many are shown.

    Returns
    -------
    tuple of Misclassified
        Of the models as they are, by the first probe, in the first draw, with the most training images a class.

    Raises
    ------
    EvaluationError
        Where the source lacks a test image, or has it in another class.
    DataError
        For a picture that cannot be read.
    """
    own = [
        (row, detail)
        for row, detail in zip(results.rows, results.details, strict=True)
        if row.data == source.name and not row.variant and row.probe == results.config.probes[0]
    ]
    largest = max((row.shots or 0 for row, _ in own), default=0)
    place = {name: k for k, name in enumerate(source.ids)}
    wrong: dict[str, list[tuple[float, str, str]]] = {}
    true: dict[str, str] = {}
    tested: dict[str, int] = {}
    for row, detail in own:
        if (row.shots or 0) != largest:
            continue
        number = row.splits[0]
        answers = zip(detail.predictions[0], detail.margins[0].tolist(), strict=True)
        images = zip(results.test_ids[number], results.test_classes[number], strict=True)
        for (name, label), (answer, margin) in zip(images, answers, strict=True):
            true[name], tested[name] = label, tested.get(name, 0) + 1
            if detail.classes[answer] != label:
                wrong.setdefault(name, []).append((margin, row.label, detail.classes[answer]))
    for name, label in true.items():
        k = place.get(name)
        if k is None or source.labels[k] < 0 or source.classes[source.labels[k]] != label:
            what = "is not there" if k is None else "has another class"
            raise EvaluationError(
                f"{source.name}: the image {name!r} of the feature files {what}", "name the data set they were made of"
            )
    order = sorted(wrong, key=lambda name: (-len(wrong[name]), min(wrong[name])[0], name))
    return tuple(
        Misclassified(
            source.name,
            name,
            true[name],
            tuple((label, answer, margin) for margin, label, answer in sorted(wrong[name])),
            tested[name],
            _png(source.image(place[name])),
        )
        for name in order[:most]
    )


def _png(picture: Image.Image) -> bytes:
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    small.save(stream, format="PNG")
    return stream.getvalue()
