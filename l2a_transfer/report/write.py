"""Results → JSON, CSV, Markdown, one HTML page and figures. Only renders."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from l2a_transfer.errors import names_keywords, wrong_kind
from l2a_transfer.evaluation.compare import Comparison
from l2a_transfer.evaluation.results import EvalResults, EvalRow
from l2a_transfer.evaluation.results_schema import earlier_files
from l2a_transfer.evaluation.seeds import SeedSummary
from l2a_transfer.files import check_folder, check_free, check_replaceable, leftovers, output_path, replacing_all
from l2a_transfer.lock import folder_lock
from l2a_transfer.report import domains, figures, lookup
from l2a_transfer.report.folder import check_writable_place, json_lines
from l2a_transfer.report.latex import results_latex
from l2a_transfer.report.markdown import report_markdown
from l2a_transfer.report.page import page
from l2a_transfer.report.predictions import predictions_csv
from l2a_transfer.text import csv_cell

RESULTS = "results.json"
SEEDS = "seeds.csv"
"""Written only if an architecture has several training seeds."""
DOMAINS = "domains.svg"
"""Written only if the protocol is over domains."""
PREDICTIONS = "predictions.csv"
"""Written only if the results have margins, like those of `evaluate`."""
FIXED = (
    RESULTS,
    "results.csv",
    "comparisons.csv",
    SEEDS,
    PREDICTIONS,
    "results.tex",
    "report.html",
    "report.md",
    "accuracy.svg",
    DOMAINS,
)
REMOVABLE = re.compile(r"(confusion-[\w.@+-]+|accuracy)\.(svg|png)|(seeds|predictions)\.csv|domains\.svg")
"""Files that a report may remove if an earlier report lists them. Figures used to be PNG files."""
INTERVALS = ("accuracy_ci95", "mean_class_accuracy_ci95", "ci95", "ci95_simultaneous")
ENDS = dict.fromkeys(INTERVALS, ("low", "high")) | dict.fromkeys(("n", "files", "variants"), ("a", "b"))
"""Pairs of values that become two columns of a CSV file."""


@contextmanager
def report_folder(out: Path, *, overwrite: bool, beside: Sequence[str] = ()) -> Iterator[set[str]]:
    """Lock the folder `out`, which is created if needed, from before the SVMs are fitted until the report is written.

    Yields the optional files that an earlier report there lists, for `write_report`.
    Raises: like `check_output`; OutputExistsError if another process is writing to it.
    """
    check_output(out, overwrite=overwrite, beside=beside)
    with folder_lock(out):
        # Another process may have held the lock until now and written its report.
        check_output(out, overwrite=overwrite, beside=beside)
        yield _files_of(out / RESULTS)


def check_output(out: Path, *, overwrite: bool, beside: Sequence[str] = ()) -> None:
    """Check `out` before the SVMs are fitted. Files left by an interrupted report may be replaced.

    Raises: OutputExistsError if `out` contains a report or files called `beside` that may not be replaced, if it is not
    a folder, or if one of these names is not a regular file; OSError if it cannot be written.
    """
    check_folder(out, "a report")
    check_writable_place(out)
    replaced = leftovers(out)
    for path in sorted([*out.glob("confusion-*.svg"), *out.glob("confusion-*.png"), *out.glob("accuracy.png")]):
        check_replaceable(path)
    for name in (*FIXED, *beside):
        check_free(out / name, overwrite=overwrite, what="the report", replaced=replaced)


@names_keywords
def write_report(
    results: EvalResults,
    out: str | Path,
    *,
    overwrite: bool = False,
    beside: Mapping[str, bytes] | None = None,
    earlier: Collection[str] | None = None,
) -> list[Path]:
    """Write a report as HTML, Markdown, LaTeX, CSV and JSON, with figures.

    All files are first written under temporary names, and moved into place when all are complete, `results.json` last.

    Parameters
    ----------
    results : EvalResults
        The results of `evaluate`.
    out : str or Path
        The folder; it is created if needed.
    overwrite : bool, default=False
        Overwrite the report in `out`. Figures, `seeds.csv` and `predictions.csv` of the earlier report are removed if
        the new report does not have them.
    beside : mapping of str to bytes, optional
        Names and contents of more files to write together with the report.
    earlier : collection of str, optional
        Optional files of an earlier report, as returned by `report_folder`; by default, they are looked up in `out`.

    Returns
    -------
    list of Path
        The files, `results.json` first.

    Raises
    ------
    OutputExistsError
        If `out` contains a report and `overwrite` is not given, or if another process is writing to it.
    OSError
        If a file cannot be written; the error names it.

    Examples
    --------
    >>> import l2a_transfer
    >>> source = l2a_transfer.open_source("digits", limit=100)
    >>> features = l2a_transfer.extract(source, "untrained:vgg-gap@0.0625", "features.h5", progress=False)
    >>> results = l2a_transfer.evaluate(features, c_grid=[1e-3], draws=2)
    >>> files = l2a_transfer.write_report(results, "report")
    >>> "report.html" in {path.name for path in files}
    True
    """
    if not isinstance(results, EvalResults):
        raise wrong_kind("results", "the result of evaluate()", results)
    out = output_path(out)
    beside = beside or {}
    if earlier is None:
        with report_folder(out, overwrite=overwrite, beside=tuple(beside)) as found:
            return _write_report(results, out, beside, found)
    check_output(out, overwrite=overwrite, beside=tuple(beside))
    with folder_lock(out):
        return _write_report(results, out, beside, earlier)


def _write_report(results: EvalResults, out: Path, beside: Mapping[str, bytes], earlier: Collection[str]) -> list[Path]:
    confusions = _confusion_names(results)
    some = {SEEDS: bool(results.seeds), PREDICTIONS: bool(results.test_ids), DOMAINS: bool(results.domains)}
    names = [*(name for name in FIXED if some.get(name, True)), *confusions]
    content: dict[str, Callable[[], bytes]] = {
        "results.csv": lambda: _csv([_flat(dataclasses.asdict(row)) for row in results.rows], EvalRow),
        "comparisons.csv": lambda: _csv([_flat(dataclasses.asdict(c)) for c in results.comparisons], Comparison),
        SEEDS: lambda: _csv([_flat(dataclasses.asdict(s)) for s in results.seeds], SeedSummary),
        PREDICTIONS: lambda: predictions_csv(results),
        "results.tex": lambda: results_latex(results).encode("utf-8", "backslashreplace"),
        "report.html": lambda: page(results).encode(),
        "report.md": lambda: report_markdown(results, confusions).encode(),
        DOMAINS: lambda: domains.heat_map(results).file().encode(),
        "accuracy.svg": lambda: figures.accuracy(results.rows).file().encode(),
    }
    with replacing_all(out) as put:
        # A lone surrogate in a class name is written as its \\uXXXX escape, like in JSON.
        put(RESULTS, _json(results, names).encode("utf-8", "backslashreplace"))
        for name in names[1:]:
            if name in content:
                put(name, content[name]())
            else:
                k = confusions[name]
                put(name, figures.confusion(results.rows[k], results.details[k]).file().encode())
        for name, whole in beside.items():
            put(name, whole)
    for name in set(earlier) - set(names):
        (out / name).unlink(missing_ok=True)
    return [out / name for name in (*names, *beside)]


def _csv(flat: list[dict[str, Any]], kind: type[EvalRow | Comparison | SeedSummary]) -> bytes:
    """One line per row. Intervals become two columns, and several values are joined by semicolons."""
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
            flat.update({f"{key}_{end}": _joined(part) for end, part in zip(ENDS[key], parts, strict=True)})
        elif key in ("c_grid_draws", "cv_accuracy_draws"):
            flat[key] = ";".join(" ".join(map(str, draw)) for draw in value)
        else:
            flat[key] = _joined(value)
    return flat


def _joined(value: Any) -> Any:
    return ";".join(map(str, value)) if isinstance(value, tuple) else value


def _json(results: EvalResults, files: list[str]) -> str:
    """The JSON document; `files` are those of the report."""
    return json_lines({**results.document(), "files": files})


def _files_of(path: Path) -> set[str]:
    """The optional files that an earlier report of this schema lists; empty if none can be read."""
    return {name for name in earlier_files(path) if REMOVABLE.fullmatch(name)}


def _confusion_names(results: EvalResults) -> dict[str, int]:
    """`confusion-DATA-MODEL.svg` → row. Names are unique and valid on every file system."""
    names: dict[str, int] = {}
    for k in lookup.pictured(results):
        row = results.rows[k]
        stem = "confusion-" + re.sub(r"[^A-Za-z0-9_.@+-]+", "_", f"{row.data}-{row.label}")[:100].lower()
        free = (f"{stem}{end}.svg" for end in itertools.chain([""], (f"+{n}" for n in itertools.count(2))))
        names[next(name for name in free if name not in names)] = k
    return names
