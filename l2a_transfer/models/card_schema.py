"""Schemas of cards: of networks in weights and ONNX files, and of whatever made a feature file."""

from __future__ import annotations

from typing import Any

from l2a_transfer.documents import ANYTHING, FLAG, NOTHING, NUMBER, either, integer, list_of, table, text

CONFIG = table(
    {"architecture": text()},
    optional={
        "num_classes": integer(),
        "width": NUMBER,
        "normalizer": text(),
        "dropout": NUMBER,
        "global_branch": text(),
        "selection": text(),
    },
)
PREPROCESS = table(
    {
        "size": integer(),
        "fit": text(),
        "filter": text(),
        "mean": list_of(NUMBER, length=3),
        "std": list_of(NUMBER, length=3),
    },
    optional={"resize": integer(), "decode": text()},
)
METRICS = table(
    others=either(
        NUMBER, table(optional={"value": NUMBER, "n": integer(), "seeds": integer()}, others=ANYTHING), text(), NOTHING
    )
)
INIT_FROM = table(
    optional={"name": text(), "sha256": text(), "not_loaded": list_of(text())},
    others=ANYTHING,
)
TRAINING = table(
    optional={
        "untrained": FLAG,
        "permuted_labels": integer(),
        "seed": either(integer(), text(), NOTHING),
        "data": text(),
        "split": text(),
        "n": integer(),
        "seconds": NUMBER,
        "float32": list_of(text()),
        "init_from": either(text(), INIT_FROM, NOTHING),
    },
    others=ANYTHING,
)
CARD = table(
    {
        "schema": text(),
        "name": text(),
        "config": CONFIG,
        "preprocess": PREPROCESS,
        "classes": list_of(text()),
        "parameters": integer(),
        "training": TRAINING,
        "metrics": METRICS,
    },
    others=ANYTHING,
)
"""The card of a network of this package. A version may add keys, but not to `config` and `preprocess`, because these
affect the output."""

OBJECT = table(others=ANYTHING)
_OF_FEATURES = {
    "config": OBJECT,
    "preprocess": OBJECT,
    "classes": list_of(text()),
    "parameters": NUMBER,
    "training": TRAINING,
    "metrics": METRICS,
}
CARD_OF_FEATURES = table(
    {"name": text()},
    optional={key: either(kind, NOTHING) for key, kind in _OF_FEATURES.items()},
    others=ANYTHING,
)
"""The card of features, possibly made by another program: a name, and optional fields in the form that reports show."""


def check_card(values: Any) -> None:
    """Raises: ValueError, naming the field that has the wrong type."""
    CARD.check(values, "card")
