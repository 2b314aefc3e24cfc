"""The evaluations of a study, read again: what each run answered for every test image, in one order for all runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.documents import parse
from l2a_transfer.errors import EvaluationError
from l2a_transfer.features.store.views import open_features
from l2a_transfer.inputs import read_input
from l2a_transfer.study.answers_schema import check_answers

MAX_RESULTS_BYTES = 1 << 30
REDUCED = re.compile(r"PCA to ([0-9]{1,9})")
"""The variant of a row whose features a PCA has reduced."""

AGAIN = "remove it, and the study makes it again"


@dataclass(frozen=True)
class Answered:
    """One run on one target by one protocol, k and width: of each draw the true class of every test image, (n,), and
    whether the answer was right, (n,). `row`: that of `results.json`; `digests`: of the splits; `shared`: the draws'
    correlation."""

    row: dict[str, Any]
    weights_sha256: str | None
    digests: tuple[str, ...]
    truth: tuple[NDArray[np.int32], ...]
    right: tuple[NDArray[np.bool_], ...]
    shared: float

    @property
    def shots(self) -> int | None:
        return self.row["shots"]  # type: ignore[no-any-return]

    @property
    def components(self) -> int | None:
        """Columns that a PCA has left, where one was asked for; None for the features as they are."""
        found = REDUCED.fullmatch(self.row["variant"])
        return int(found[1]) if found else None


class Reader:
    """Reads evaluations; the true classes of a target's images are read once, from the first feature file."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, tuple[int, ...]], tuple[NDArray[np.intp], tuple[str, ...]]] = {}

    def answers(self, results: Path, features: Path) -> list[Answered]:
        """Every row of one evaluation. Raises: EvaluationError where the file is no evaluation of one feature file."""
        try:
            document = parse(read_input(results, MAX_RESULTS_BYTES))
            check_answers(document)
            (card,) = document["cards"].values()
            pairs = zip(document["rows"], document["details"], strict=True)
            return [
                self._answered(row, detail, document["splits"], card.get("weights_sha256"), features)
                for row, detail in pairs
            ]
        except OSError as error:
            raise EvaluationError(f"{results}: cannot be read: {error.strerror or error}") from error
        except (ValueError, LookupError) as error:
            said = f"{error} is not in the features" if isinstance(error, LookupError) else error
            raise EvaluationError(f"{results}: cannot be used: {said!s:.300}", AGAIN) from error

    def _answered(
        self, row: dict[str, Any], detail: dict[str, Any], splits: list[dict[str, Any]], weights: str | None,
        features: Path,
    ) -> Answered:  # fmt: skip
        own = [splits[k] for k in row["splits"]]
        place = {name: k for k, name in enumerate(detail["classes"])}
        truth, right = [], []
        for split, predictions in zip(own, detail["predictions"], strict=True):
            order, names = self._images(split["sha256"], tuple(split["test"]), features)
            true = np.array([place[name] for name in names], dtype=np.int32)
            truth.append(true)
            right.append(true == np.array(predictions, dtype=np.int32)[order])
        return Answered(
            row, weights, tuple(split["sha256"] for split in own), tuple(truth), tuple(right), float(own[0]["shared"])
        )

    def _images(
        self, digest: str, test: tuple[int, ...], features: Path
    ) -> tuple[NDArray[np.intp], tuple[str, ...]]:  # fmt: skip
        """The order of a split's test rows by id, and the true class of each in that order.

        The digest is over ids and classes, and all files of a target are extracted by the same options, so that files
        with the same digest and row numbers have the same images in the same rows.
        """
        key = digest, test
        if key not in self._read:
            rows = list(test)
            with open_features(features) as file:
                order = np.argsort(np.array(file.ids)[rows], kind="stable")
                names = tuple(file.meta.classes[label] for label in file.labels[rows][order])
            self._read[key] = order, names
        return self._read[key]
