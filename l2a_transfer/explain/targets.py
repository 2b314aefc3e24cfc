"""The class that a map explains: from a name or a number to an index of the logits."""

from __future__ import annotations

from collections.abc import Sequence

from l2a_transfer.errors import ArgumentError, unknown_name, wrong_kind

PREDICTED = "predicted"
"""The predicted class of each image."""


def class_index(wanted: str | int, classes: Sequence[str], num_classes: int) -> int | None:
    """The index of a class; None for `PREDICTED`.

    Parameters
    ----------
    wanted : str or int
        `PREDICTED`, the name of a class, or its number, also as text if no class has that name.
    classes : sequence of str
        The class names of the weights; empty if there are none.
    num_classes : int
        K, the number of logits.

    Raises
    ------
    ArgumentError
        For a number that is not between 0 and K − 1, for a name if the weights have no class names, or for an ambiguous
        name.
    UnknownNameError
        For an unknown name.
    TypeError
        For anything other than a name or a number.

    Examples
    --------
    >>> class_index("cat", ["dog", "cat"], 2), class_index("predicted", ["dog", "cat"], 2)
    (1, None)
    """
    if isinstance(wanted, bool) or not isinstance(wanted, (str, int)):
        raise wrong_kind("target", f"{PREDICTED!r}, the name of a class, or its number", wanted)
    if wanted == PREDICTED:
        return None
    if numbers := [k for k, name in enumerate(classes) if name == wanted]:
        if len(numbers) > 1:  # such as the two cranes of ImageNet
            raise ArgumentError(
                f"target {wanted!r} is the name of the classes {' and '.join(map(str, numbers))}", "give the number"
            )
        return numbers[0]
    if isinstance(wanted, str) and not (wanted.isascii() and wanted.isdecimal()):
        if classes:
            raise unknown_name("class", wanted, classes)
        raise ArgumentError(
            f"target must be {PREDICTED!r} or a number between 0 and {num_classes - 1}: these weights do not name "
            f"their classes; got {wanted!r}"
        )
    if not 0 <= int(wanted) < num_classes:
        raise ArgumentError(f"target must be between 0 and {num_classes - 1}, got {wanted}")
    return int(wanted)
