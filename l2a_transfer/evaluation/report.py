"""Results → results.json, results.csv, report.md and plots. Renders what was measured; computes nothing."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2a_transfer.errors import OutputExistsError
from l2a_transfer.evaluation.evaluate import SCHEMA, EvalResults, EvalRow
from l2a_transfer.evaluation.plots import accuracy_png, confusion_png

RESULTS = "results.json"
FIXED = (RESULTS, "results.csv", "report.md", "accuracy.png")
COLUMNS = (
    "data", "model", "mean class accuracy, % [95 %]", "accuracy, % [95 %]", "protocol", "train / test", "D", "C",
    "fits not converged",
)  # fmt: skip
INTERVALS = {
    "bootstrap": "percentile bootstrap over the test rows of one split: how the number would move with other test "
    "images; within each class for the mean class accuracy",
    "corrected-t": "Nadeau–Bengio corrected t over draws of the split: how it would move with other draws",
}


def check_output(out: Path, *, overwrite: bool) -> None:
    """Raises: OutputExistsError where `out` holds a report and may not be replaced, or is no folder; OSError where it
    cannot be written, which is better known before the SVMs are fitted than after."""
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"{out}: is a file, and a report needs a folder; choose another --out")
    for name in FIXED:
        if (out / name).exists() and not overwrite:
            raise OutputExistsError(f"{out / name}: exists; --overwrite replaces the report, or choose another --out")
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
        "results.csv": lambda: _csv(results).encode(),
        "report.md": lambda: _markdown(results, confusions).encode(),
        "accuracy.png": lambda: accuracy_png(results.rows),
    }
    partials = [out / f"{name}.partial" for name in names]
    try:
        for name, partial in zip(names[1:], partials[1:], strict=True):
            if name in content:
                _write(partial, content[name]())
            else:
                k = confusions.index(name)
                _write(partial, confusion_png(results.rows[k], results.details[k]))
        _write(partials[0], _json(results, names).encode())
        for name, partial in reversed(list(zip(names, partials, strict=True))):
            os.replace(partial, out / name)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    for name in earlier - set(names):
        (out / name).unlink(missing_ok=True)
    return [out / name for name in names]


def markdown_table(results: EvalResults) -> str:
    """The table of models × data sets, one row a model and data set, percent with one decimal."""
    lines = [COLUMNS, tuple("---" if k < 2 or k == 4 else "---:" for k in range(len(COLUMNS)))]
    for row in results.rows:
        lines.append((
            _escape(row.data),
            f"`{_escape(row.label)}`",
            _cell(row.mean_class_accuracy, row.mean_class_accuracy_ci95),
            _cell(row.accuracy, row.accuracy_ci95),
            row.protocol + (f", {row.draws} draws" if row.draws > 1 else ""),
            f"{row.n_train} / {row.n_test}",
            str(row.dim) + (f" → {row.components}" if row.components is not None else ""),
            ", ".join(f"{C:g}" for C in row.C),
            f"{row.unconverged} of {row.fits}",
        ))  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'").replace("\n", " ")


def _markdown(results: EvalResults, confusions: list[str]) -> str:
    config = results.config
    used = list(dict.fromkeys(row.interval for row in results.rows))
    if len(config.c_grid) > 1:
        grid = ", ".join(f"{C:g}" for C in config.c_grid)
        choice = f"C chosen among {grid} by {config.folds}-fold stratified cross-validation on the training rows only"
    else:
        choice = f"C = {config.c_grid[0]:g}, not chosen"
    lines = [
        "# Linear SVM on frozen features",
        "",
        markdown_table(results),
        "",
        f"- StandardScaler → LinearSVC(dual=False), fitted on training rows; {choice}; test rows used once.",
        *(f"- 95 % intervals: {INTERVALS[kind]}." for kind in used),
        "- D: feature columns; `a → b`: PCA, fitted on the training rows.",
        "- Fits not converged: SVMs that stopped at the iteration limit "
        f"({config.max_iter}), of all that were fitted; they are used as they are.",
        *(f"- {line}" for line in dict.fromkeys(_remarks(row) for row in results.rows)),
        "",
        "![Mean class accuracy](accuracy.png)",
        "",
        "## Where each model errs",
        "",
    ]
    for row, name in zip(results.rows, confusions, strict=True):
        lines += [f"![Confusion matrix of {_escape(row.label)} on {_escape(row.data)}]({name})", ""]
    lines += [
        "## How to repeat this",
        "",
        f"Seed {config.seed}; {', '.join(f'{name} {version}' for name, version in results.versions.items())}. "
        "Every split's rows are in `results.json`; files with the same SHA-256 have the same images in each part.",
        "",
        "| data | protocol | draw | seed | train / test | SHA-256 of the split's ids |",
        "| --- | --- | ---: | ---: | ---: | --- |",
        *(
            f"| {_escape(split.data)} | {split.protocol} | {split.draw} | {'–' if split.seed is None else split.seed} "
            f"| {len(split.train)} / {len(split.test)} | `{split.sha256}` |"
            for split in results.splits
        ),
        "",
        "| data | model | file | tap | levels | precision | backend | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | ---: |",
        *(
            f"| {_escape(row.data)} | `{_escape(row.label)}` | `{_escape(row.file)}` | {row.tap} "
            f"| {', '.join(row.levels)} | {row.precision} | {row.backend} | {row.seconds:.1f} |"
            for row in results.rows
        ),
    ]
    return "\n".join(lines) + "\n"


def _remarks(row: EvalRow) -> str:
    own = f" `{_escape(row.label)}`: {'; '.join(row.notes)}." if row.notes else ""
    return f"{_escape(row.data)}: protocol {row.protocol}, {_escape(row.why)}.{own}"


def _csv(results: EvalResults) -> str:
    """One line a row; intervals as two columns, several values joined by semicolons."""
    text = io.StringIO()
    flat = [_flat(row) for row in results.document()["rows"]]
    writer = csv.DictWriter(text, fieldnames=list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key.endswith("_ci95"):
            flat[f"{key}_low"], flat[f"{key}_high"] = value
        elif key == "cv_accuracy_draws":
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
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _files_of(path: Path) -> set[str]:
    """Plots that an earlier report of this schema names as its own; empty where there is none that can be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        return set()
    return {name for name in document.get("files", []) if re.fullmatch(r"confusion-[\w.@+-]+\.png", str(name))}


def _confusion_names(results: EvalResults) -> list[str]:
    """`confusion-DATA-MODEL.png` a row, of letters that every file system takes, and no name twice."""
    names: list[str] = []
    for row in results.rows:
        stem = "confusion-" + re.sub(r"[^A-Za-z0-9_.@+-]+", "_", f"{row.data}-{row.label}")[:100].lower()
        same = sum(re.fullmatch(rf"{re.escape(stem)}(\+\d+)?", name) is not None for name in names)
        names.append(f"{stem}+{same + 1}" if same else stem)
    return [f"{name}.png" for name in names]


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
