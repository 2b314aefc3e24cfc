"""Group maps of pictures next to those of other methods: the template of each class, and the control of each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from l2a_transfer.errors import DataError
from l2a_transfer.explain.dispatch import by_size, normalised, taken_together
from l2a_transfer.explain.group import CONTROL, GROUP, Templates, class_templates, control_classes, maps_by
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.explain.question import Asked, Question
from l2a_transfer.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Grouping:
    """The classes of pictures, and the template and control of each class.

    Parameters
    ----------
    classes : tuple of str
        Names of the classes; a label is an index into them.
    templates : Templates
        The result of `class_templates`, by label.
    other : dict of int to int
        Label → label of its control.
    seed : int
        Random seed of the controls.
    """

    classes: tuple[str, ...]
    templates: Templates = field(repr=False)
    other: dict[int, int]
    seed: int

    def to_json(self) -> dict[str, Any]:
        """The entry in `explain.json`."""
        counts = self.templates.counts
        return {
            "control_seed": self.seed,
            "classes": {
                name: {"images": counts[label], "control": self.classes[self.other[label]]}
                for label, name in enumerate(self.classes)
            },
        }


def check_groups(groups: Sequence[str | None], names: Sequence[str]) -> tuple[str, ...]:
    """The classes of pictures, sorted.

    Parameters
    ----------
    groups : sequence of str or None
        The class of each picture; None for one without.
    names : sequence of str
        Names of the pictures in errors.

    Raises
    ------
    DataError
        For a picture without a class, a class with one picture, or a single class: without a control, a group map does
        not show what is specific to the class.

    Examples
    --------
    >>> check_groups(["dog", "cat", "dog", "cat"], ["0", "1", "2", "3"])
    ('cat', 'dog')
    """
    counts: Counter[str] = Counter()
    for group, name in zip(groups, names, strict=True):
        if group is None:
            raise DataError(
                f"{name}: has no label, but a group map needs the class of each picture",
                "use `data` with labels, such as imagefolder:PATH, or omit `group`",
            )
        counts[group] += 1
    for group, count in sorted(counts.items()):
        if count < 2:
            raise DataError(
                f"a group map needs the other pictures of a class, but {group!r} has one picture",
                "add pictures of it, or remove it",
            )
    if len(counts) < 2:
        raise DataError(
            f"the control of a group map needs another class, but all pictures are of {next(iter(counts))!r}"
            if counts
            else "a group map needs pictures, but there are none",
            "add pictures of other classes",
        )
    return tuple(sorted(counts))


def group_pictures(
    model: nn.Module, preprocess: Preprocess, pictures: Iterable[Asked], classes: Sequence[str], question: Question
) -> Grouping:
    """The first of two passes over the pictures: the template of each class.

    Parameters
    ----------
    model, preprocess, question
        As for `explain_stream`.
    pictures : iterable of Asked
        All pictures, each with its `group`.
    classes : sequence of str
        The result of `check_groups`.

    Raises
    ------
    ArgumentError
        For a side that the network does not support.
    UnknownNameError
        For a level without attention.
    BackendError
        For a network without attention, or if its features are not finite.
    """
    label_of = {name: label for label, name in enumerate(classes)}

    def batches() -> Iterator[tuple[Tensor, list[int]]]:
        for together in taken_together(pictures):
            for own, pixels in by_size(model, preprocess, together, question.side):
                yield normalised(model, preprocess, pixels), [label_of[together[k].group or ""] for k in own]

    templates = class_templates(model, batches, levels=question.levels)
    other = control_classes(range(len(classes)), seed=question.control_seed)
    return Grouping(tuple(classes), templates, other, question.control_seed)


def group_maps_beside(
    model: nn.Module, preprocess: Preprocess, grouping: Grouping, question: Question
) -> Callable[[Sequence[Asked], list[list[ImageMaps]]], list[list[ImageMaps]]]:
    """The second pass: the argument `beside` of `explain_stream`, which adds the group map of each picture and its
    control.

    Parameters are as for `group_pictures`, plus its result; the pictures must be the same.
    """
    label_of = {name: label for label, name in enumerate(grouping.classes)}
    counts = grouping.templates.counts

    def beside(asked: Sequence[Asked], answers: list[list[ImageMaps]]) -> list[list[ImageMaps]]:
        images = normalised(model, preprocess, [answer[0].image for answer in answers])
        labels = [label_of[one.group or ""] for one in asked]
        found = maps_by(model, images, labels, grouping.templates, grouping.other, levels=question.levels)
        added = []
        for b, (answer, label) in enumerate(zip(answers, labels, strict=True)):
            other = grouping.other[label]
            own = (GROUP, found.maps, label, counts[label] - 1), (CONTROL, found.controls, other, counts[other])
            first = answer[0]
            more = [
                ImageMaps(
                    first.name,
                    first.image,
                    {level: values[b] for level, values in maps.items()},
                    dict.fromkeys(maps, "signed"),
                    method=method,
                    predicted=first.predicted,
                    predicted_name=first.predicted_name,
                    predicted_probability=first.predicted_probability,
                    template=grouping.classes[of],
                    template_images=count,
                )
                for method, maps, of, count in own
            ]
            added.append([*answer, *more])
        return added

    return beside
