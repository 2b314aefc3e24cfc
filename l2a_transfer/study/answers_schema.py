"""Checks of the results.json of an evaluation, which may have been changed since the study wrote it."""

from __future__ import annotations

from typing import Any

from l2a_transfer.documents import ANYTHING, NOTHING, Kind, either, integer, list_of, table, text
from l2a_transfer.evaluation.results import SCHEMA

MOST = 2**31 - 1
"""Largest number of rows, columns, classes and draws."""
FRACTION = Kind("a number, 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1)
SHOTS = either(integer(1, MOST), NOTHING)
ROW = table(
    {
        "variant": text(1000),
        "shots": SHOTS,
        "chance": FRACTION,
        "splits": list_of(integer(0, MOST)),
        **{key: integer(1, MOST) for key in ("draws", "n_classes", "n_train", "n_test", "dim")},
    },
    optional={"probe": text(100)},
    others=ANYTHING,
)
DETAIL = table({"classes": list_of(text()), "predictions": list_of(list_of(integer(0, MOST)))}, others=ANYTHING)
SPLIT = table({"sha256": text(64), "test": list_of(integer(0, MOST)), "shared": FRACTION}, others=ANYTHING)
CARD = table(optional={"weights_sha256": either(text(64), NOTHING)}, others=ANYTHING)
ANSWERS = table(
    {
        "schema": Kind(repr(SCHEMA), lambda value: value == SCHEMA),
        "rows": list_of(ROW),
        "details": list_of(DETAIL),
        "splits": list_of(SPLIT),
        "cards": table(others=CARD),
    },
    others=ANYTHING,
)


def check_answers(document: Any) -> None:
    """Raises: ValueError, naming the field that is invalid or inconsistent with another."""
    ANSWERS.check(document, "results")
    rows, details, splits, cards = (document[key] for key in ("rows", "details", "splits", "cards"))
    if len(cards) != 1:
        raise ValueError(f"results.cards must have one card, got {len(cards)}")
    if len(details) != len(rows):
        raise ValueError(f"results.details must have {len(rows)} entries, as results.rows, got {len(details)}")
    for k, (row, detail) in enumerate(zip(rows, details, strict=True)):
        own = row["splits"]
        if not own or max(own) >= len(splits):
            raise ValueError(f"results.rows[{k}].splits must be one or more indices of the {len(splits)} splits")
        tested = [len(splits[split]["test"]) for split in own]
        answers = detail["predictions"]
        if [len(each) for each in answers] != tested or not all(tested):
            raise ValueError(f"results.details[{k}].predictions must have one answer for each test image")
        if max(map(max, answers)) >= len(detail["classes"]):
            raise ValueError(f"results.details[{k}].predictions must be of {len(detail['classes'])} classes")
