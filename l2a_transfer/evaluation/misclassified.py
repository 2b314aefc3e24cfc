"""Thumbnails of misclassified test images for the report."""

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
"""Longer side of a thumbnail in pixels."""


def check_pictures(files: Sequence[str | Path], source: ImageSource) -> None:
    """Raises: ArgumentError if no feature file comes from the source's data set; StoreError for a damaged file."""
    names = list(dict.fromkeys(read_meta(Path(file))[0].data for file in files))
    if source.name not in names:
        raise ArgumentError(f"pictures are of {source.name}, but the feature files are of {', '.join(names)}")


def misclassified(results: EvalResults, source: ImageSource, *, most: int = MOST) -> tuple[Misclassified, ...]:
    """The images that most models misclassify; among these, those with the worst margins.

    Parameters
    ----------
    results : EvalResults
        Results with margins and ids, as `evaluate` returns them.
    source : ImageSource
        The data set of the features, opened again. Only the pictures shown are read.
    most : int, default=24
        Maximum number of images.

    Returns
    -------
    tuple of Misclassified
        For the unchanged models with the first probe, in the first draw, with the most training images per class. Over
        domains, only test images across domains that belong to the source, each once.

    Raises
    ------
    EvaluationError
        If the source lacks a test image, or has it in another class.
    DataError
        If a picture cannot be read.
    """
    shown = _places(results, source)
    own = [
        (row, detail)
        for row, detail in zip(results.rows, results.details, strict=True)
        if row.data in shown and not row.variant and row.probe == results.config.probes[0]
    ]
    largest = max((row.shots or 0 for row, _ in own), default=0)
    place = {name: k for k, name in enumerate(source.ids)}
    counts_as = dict(results.config.class_map)
    wrong: dict[tuple[str, str], list[tuple[float, str, str]]] = {}
    true: dict[str, str] = {}
    tested: dict[tuple[str, str], int] = {}
    for row, detail in own:
        if (row.shots or 0) != largest:
            continue
        number = row.splits[0]
        answers = zip(detail.predictions[0], detail.margins[0].tolist(), strict=True)
        images = zip(results.test_ids[number], results.test_classes[number], strict=True)
        # If a model has several files, each id is prefixed with the name of the data set.
        prefix = f"{source.name}/" if "feature_files" in results.cards[row.file_sha256] else ""
        for (name, label), (answer, margin) in zip(images, answers, strict=True):
            if not name.startswith(prefix):
                continue
            key = row.data, name.removeprefix(prefix)
            true[key[1]], tested[key] = label, tested.get(key, 0) + 1
            if detail.classes[answer] != label:
                wrong.setdefault(key, []).append((margin, row.label, detail.classes[answer]))
    for name, label in true.items():
        k = place.get(name)
        own_class = source.classes[source.labels[k]] if k is not None and source.labels[k] >= 0 else None
        if own_class is None or counts_as.get(own_class, own_class) != label:
            what = "is not there" if k is None else "has another class"
            raise EvaluationError(
                f"{source.name}: the image {name!r} of the feature files {what}",
                "name the data set of the features",
            )
    order = sorted(wrong, key=lambda key: (-len(wrong[key]), min(wrong[key])[0], key))
    worst = {name: data for data, name in reversed(order)}  # each image once, where its margin is worst
    order = [key for key in order if worst[key[1]] == key[0]]
    return tuple(
        Misclassified(
            data,
            name,
            true[name],
            tuple((label, answer, margin) for margin, label, answer in sorted(wrong[data, name])),
            tested[data, name],
            _png(source.image(place[name])),
        )
        for data, name in order[:most]
    )


def _places(results: EvalResults, source: ImageSource) -> set[str]:
    """The `data` of rows on the source's images: its name; with domains, the places across them, or those within if
    there are no others."""
    if not results.domains:
        return {source.name}
    across = {place.data for place in results.domains if place.within}
    return across or {place.data for place in results.domains}


def _png(picture: Image.Image) -> bytes:
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    times = SIDE // max(small.size)
    if times > 1:  # 8 × 8 pixels are too small to see
        small = small.resize((times * small.width, times * small.height), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    small.save(stream, format="PNG")
    return stream.getvalue()
