"""predictions.csv: every test image of every draw, with the prediction and margin of each model."""

from __future__ import annotations

import csv
import io
from collections import Counter

from l2a_transfer.evaluation.probes.registry import SVM
from l2a_transfer.evaluation.results import EvalResults, EvalRow
from l2a_transfer.report import lookup
from l2a_transfer.text import csv_cell, look

IMAGE = ("data", "protocol", "shots", "draw", "id", "true")


def predictions_csv(results: EvalResults) -> bytes:
    """One line per test image and split. Each model, variant and probe has two columns: `NAME: prediction` and
    `NAME: margin`, empty if the model was not tested on the image.

    The margin is the score of the true class minus the best score of another class. It is negative if the prediction is
    wrong. Scores depend on the probe, so margins are only comparable within a model.
    """
    names = _names(results)
    columns = [f"{name}: {what}" for name in names.values() for what in ("prediction", "margin")]
    lines: dict[tuple[object, ...], dict[str, object]] = {}
    for row, detail in zip(results.rows, results.details, strict=True):
        name = names[_model(row)]
        for number, answers, margins in zip(row.splits, detail.predictions, detail.margins, strict=True):
            split, ids, classes = results.splits[number], results.test_ids[number], results.test_classes[number]
            shots = "" if split.shots is None else split.shots
            place = (split.data, split.protocol, shots, split.draw)
            for image, true, answer, margin in zip(ids, classes, answers, margins.tolist(), strict=True):
                line = lines.setdefault((*place, image), dict(zip(IMAGE, (*place, image, true), strict=True)))
                line[f"{name}: prediction"] = detail.classes[answer]
                line[f"{name}: margin"] = f"{margin:.6g}"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([csv_cell(name) for name in (*IMAGE, *columns)])
    for line in lines.values():
        writer.writerow([csv_cell(line.get(name, "")) for name in (*IMAGE, *columns)])
    return text.getvalue().encode("utf-8", "backslashreplace")


def _names(results: EvalResults) -> dict[tuple[int, str, str], str]:
    """The name of each model, variant and probe; the probe is included if it is not the SVM.

    A model's name may equal another one's name with its probe or variant. Such names also get the digest of the file.
    """
    names = {
        _model(row): lookup.full_name(row) + ("" if row.probe == SVM else f", probe {row.probe}")
        for row in results.rows
    }
    digests = {_model(row): row.file_sha256 for row in reversed(results.rows)}
    often = Counter(map(look, names.values()))
    return {
        key: name if often[look(name)] == 1 else f"{name}, SHA-256 {digests[key][:12]}" for key, name in names.items()
    }


def _model(row: EvalRow) -> tuple[int, str, str]:
    return row.line, row.variant, row.probe
