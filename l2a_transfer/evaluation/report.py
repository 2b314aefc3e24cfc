"""Results → JSON, CSV, Markdown, one HTML page and plots. Renders what was measured; computes nothing."""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2a_transfer.errors import OutputExistsError
from l2a_transfer.evaluation import lookup
from l2a_transfer.evaluation.compare import Comparison
from l2a_transfer.evaluation.evaluate import EvalResults, EvalRow
from l2a_transfer.evaluation.markdown import report_markdown
from l2a_transfer.evaluation.page import page
from l2a_transfer.evaluation.plots import accuracy_png, confusion_png
from l2a_transfer.evaluation.results_schema import earlier_files
from l2a_transfer.evaluation.seeds import SeedSummary
from l2a_transfer.text import csv_cell, json_text

RESULTS = "results.json"
FIXED = (RESULTS, "results.csv", "comparisons.csv", "seeds.csv", "report.html", "report.md", "accuracy.png")
INTERVALS = ("accuracy_ci95", "mean_class_accuracy_ci95", "ci95", "ci95_simultaneous")
ENDS = dict.fromkeys(INTERVALS, ("low", "high")) | {"n": ("a", "b")}
"""Pairs of values that are two columns of a CSV file."""


def check_output(out: Path, *, overwrite: bool) -> None:
    """Raises: OutputExistsError where `out` holds a report and may not be replaced, or is no folder; OSError where it
    cannot be written, which is better known before the SVMs are fitted than after."""
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"{out}: is a file, and a report needs a folder", "choose another `out`")
    for name in FIXED:
        if (out / name).exists() and not overwrite:
            raise OutputExistsError(
                f"{out / name}: exists", "`overwrite=True` replaces the report, or choose another `out`"
            )
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    problem = errno.ENOTDIR if not there.is_dir() else 0 if os.access(there, os.W_OK) else errno.EACCES
    if problem:
        raise OSError(problem, os.strerror(problem), str(there))


def write_report(results: EvalResults, out: Path, *, overwrite: bool = False) -> list[Path]:
    """Writes the report into the folder `out` and returns its files, `results.json` first.

    Every file is written beside its place and moved there when all are complete, `results.json` last; the plots of an
    earlier report that this one does not have are removed. Raises: OutputExistsError.
    """
    check_output(out, overwrite=overwrite)
    out.mkdir(parents=True, exist_ok=True)
    earlier = _files_of(out / RESULTS)
    confusions = _confusion_names(results)
    names = [*FIXED, *confusions]
    content: dict[str, Callable[[], bytes]] = {
        "results.csv": lambda: _csv([_flat(row) for row in results.document()["rows"]], EvalRow),
        "comparisons.csv": lambda: _csv([_flat(c) for c in results.document()["comparisons"]], Comparison),
        "seeds.csv": lambda: _csv([_flat(s) for s in results.document()["seeds"]], SeedSummary),
        "report.html": lambda: page(results).encode(),
        "report.md": lambda: report_markdown(results, confusions).encode(),
        "accuracy.png": lambda: accuracy_png(results.rows),
    }
    partials = [out / f"{name}.partial" for name in names]
    try:
        for name, partial in zip(names[1:], partials[1:], strict=True):
            if name in content:
                _write(partial, content[name]())
            else:
                k = confusions[name]
                _write(partial, confusion_png(results.rows[k], results.details[k]))
        # Half a character in a class name (a lone surrogate) is written as the \\uXXXX that JSON has for it.
        _write(partials[0], _json(results, names).encode("utf-8", "backslashreplace"))
        for name, partial in reversed(list(zip(names, partials, strict=True))):
            os.replace(partial, out / name)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    for name in earlier - set(names):
        (out / name).unlink(missing_ok=True)
    return [out / name for name in names]


def _csv(flat: list[dict[str, Any]], kind: type[EvalRow | Comparison | SeedSummary]) -> bytes:
    """One line a row; intervals as two columns, several values joined by semicolons."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=_columns(kind), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in flat)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _columns(kind: type[EvalRow | Comparison | SeedSummary]) -> list[str]:
    names: list[str] = []
    for field in dataclasses.fields(kind):
        names += [f"{field.name}_{end}" for end in ENDS[field.name]] if field.name in ENDS else [field.name]
    return names


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key in ENDS:
            parts = ("", "") if value is None else value
            flat.update({f"{key}_{end}": part for end, part in zip(ENDS[key], parts, strict=True)})
        elif key in ("c_grid_draws", "cv_accuracy_draws"):
            flat[key] = ";".join(" ".join(map(str, draw)) for draw in value)
        else:
            flat[key] = ";".join(map(str, value)) if isinstance(value, tuple) else value
    return flat


def _json(results: EvalResults, files: list[str]) -> str:
    """The document, one element of a list a line, so that files can be compared; `files` are the report's own."""
    parts = []
    for key, value in {**results.document(), "files": files}.items():
        if isinstance(value, list):
            items = ",\n".join(f"  {_dump(item)}" for item in value)
            parts.append(f' "{key}": [\n{items}\n ]' if value else f' "{key}": []')
        else:
            parts.append(f' "{key}": {_dump(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _dump(value: Any) -> str:
    return json_text(json.dumps(value, ensure_ascii=False, allow_nan=False))


def _files_of(path: Path) -> set[str]:
    """Plots that an earlier report of this schema names as its own; empty where there is none that can be read."""
    return {name for name in earlier_files(path) if re.fullmatch(r"confusion-[\w.@+-]+\.png", name)}


def _confusion_names(results: EvalResults) -> dict[str, int]:
    """`confusion-DATA-MODEL.png` → row, of letters that every file system takes, and no name twice."""
    names: dict[str, int] = {}
    for k in lookup.pictured(results):
        row = results.rows[k]
        stem = "confusion-" + re.sub(r"[^A-Za-z0-9_.@+-]+", "_", f"{row.data}-{row.label}")[:100].lower()
        same = sum(re.fullmatch(rf"{re.escape(stem)}(\+\d+)?\.png", name) is not None for name in names)
        names[(f"{stem}+{same + 1}" if same else stem) + ".png"] = k
    return names


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
