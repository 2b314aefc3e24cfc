"""Reads evaluations: the predictions of each run for every test image, in the same order for all runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.documents import parse
from l2a_transfer.errors import EvaluationError
from l2a_transfer.evaluation.probes.registry import SVM
from l2a_transfer.features.store.views import open_features
from l2a_transfer.inputs import read_input
from l2a_transfer.study.answers_schema import check_answers

MAX_RESULTS_BYTES = 1 << 30
REDUCED = re.compile(r"PCA to ([0-9]{1,9})")
"""The variant of a row whose features a PCA has reduced."""

AGAIN = "remove it, and the study will recreate it"


@dataclass(frozen=True)
class RunAnswers:
    """The predictions of one run on one target, for one protocol, number of shots and feature width.

    Attributes
    ----------
    row : dict
        The row of `results.json`.
    weights_sha256 : str or None
        The digest of the weights.
    digests : tuple of str
        The digest of the split of each draw.
    truth : tuple of ndarray of int32, shape (n,)
        The class of each test image, for each draw.
    right : tuple of ndarray of bool, shape (n,)
        Whether the prediction is correct, for each draw.
    shared : float
        The correlation between draws that the corrected t test assumes.
    """

    row: dict[str, Any]
    weights_sha256: str | None
    digests: tuple[str, ...]
    truth: tuple[NDArray[np.int32], ...]
    right: tuple[NDArray[np.bool_], ...]
    shared: float

    @property
    def shots(self) -> int | None:
        """Training images per class; None for a protocol other than low-shot."""
        return self.row["shots"]  # type: ignore[no-any-return]

    @property
    def probe(self) -> str:
        """The classifier on the features."""
        return self.row.get("probe", SVM)  # type: ignore[no-any-return]

    @property
    def components(self) -> int | None:
        """The number of columns after PCA; None without PCA."""
        found = REDUCED.fullmatch(self.row["variant"])
        return int(found[1]) if found else None


class EvaluationReader:
    """Reads evaluations. The classes of a target's images are read once, from the first feature file."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, tuple[int, ...]], tuple[NDArray[np.intp], tuple[str, ...]]] = {}

    def answers(self, results: Path, features: Path) -> list[RunAnswers]:
        """Every row of one evaluation. Raises: EvaluationError if the file is not an evaluation of one feature file."""
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
        self,
        row: dict[str, Any],
        detail: dict[str, Any],
        splits: list[dict[str, Any]],
        weights: str | None,
        features: Path,
    ) -> RunAnswers:
        own = [splits[k] for k in row["splits"]]
        place = {name: k for k, name in enumerate(detail["classes"])}
        truth, right = [], []
        for split, predictions in zip(own, detail["predictions"], strict=True):
            order, names = self._images(split["sha256"], tuple(split["test"]), features)
            true = np.array([place[name] for name in names], dtype=np.int32)
            truth.append(true)
            right.append(true == np.array(predictions, dtype=np.int32)[order])
        return RunAnswers(
            row, weights, tuple(split["sha256"] for split in own), tuple(truth), tuple(right), float(own[0]["shared"])
        )

    def _images(self, digest: str, test: tuple[int, ...], features: Path) -> tuple[NDArray[np.intp], tuple[str, ...]]:
        """The order that sorts the test rows of a split by id, and the class of each row in that order.

        The digest covers ids and classes, and all files of a target are extracted with the same options. Files with the
        same digest and row numbers therefore have the same images in the same rows.
        """
        key = digest, test
        if key not in self._read:
            rows = list(test)
            with open_features(features) as file:
                order = np.argsort(np.array(file.ids)[rows], kind="stable")
                names = tuple(file.meta.classes[label] for label in file.labels[rows][order])
            self._read[key] = order, names
        return self._read[key]
