"""`l2a-transfer svm-eval`: how well features generalize, measured with a linear SVM."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.cli.paths import FOLDER, PATH
from l2a_transfer.wording import are, counted

SHOWN = 6
"""Comparisons that are printed; the report has them all."""


@click.command("svm-eval")
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE.h5 ...")
@click.option(
    "--out",
    type=FOLDER,
    required=True,
    metavar="DIR",
    help="Folder for the report.",
)
@click.option("--protocol", default="auto", show_default=True, help="auto, official, caltech-30, low-shot, stratified.")
@click.option("--c-grid", default="1e-4,1e-3,1e-2,1e-1", show_default=True, help="Candidates for C; one: no choice.")
@click.option("--folds", type=int, default=5, show_default=True, help="Of the cross-validation that chooses C.")
@click.option("--draws", type=int, help="Repeat a drawn split N times [default: the protocol's number].")
@click.option("--solver", default="batched", show_default=True, help="batched, or liblinear as the reference.")
@click.option("--decades", type=int, default=2, show_default=True, help="The grid may grow so often, tenfold each.")
@click.option("--shots", default="1,2,4,8,16", show_default=True, help="Images a class, for low-shot.")
@click.option("--ablate", default="", metavar="LIST", help="Variants: levels,normalization,precision,width.")
@click.option("--widths", default="", metavar="N,N,…", help="Variants: features reduced to N columns by a PCA.")
@click.option(
    "--compare",
    multiple=True,
    metavar="A,B",
    help="Compare these two models of the table, or architectures over their seeds; may be repeated.",
)
@click.option(
    "--reference",
    metavar="MODEL",
    help="Compare the other models with this one alone; what is left out is said on stderr.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda, for the batched solver.")
@click.option(
    "--max-memory", metavar="SIZE", help="For the batched solver, as 500M or 8G [default: half of what is left]."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option("--jobs", type=int, default=1, show_default=True, help="liblinear's threads; they change no number.")
@click.option("--overwrite/--no-overwrite", default=False, help="Replace an earlier report in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print results.json instead of the table.")
@click.pass_obj
def command(obj: dict[str, Any], /, files: tuple[Path, ...], out: Path, **given: Any) -> None:
    """Linear SVMs on feature files: one table of models × data sets, with 95 % intervals.

    C is chosen by cross-validation inside the training rows; the test rows are used once.

    \b
    Example:
      l2a-transfer svm-eval attention.h5 uniform.h5 pixels.h5 --out report
    """
    from l2a_transfer.evaluation.evaluate import evaluate_files
    from l2a_transfer.evaluation.results import EvalConfig
    from l2a_transfer.files import said_if_complete
    from l2a_transfer.report.markdown import markdown_table
    from l2a_transfer.report.write import RESULTS, report_folder, write_report

    overwrite, as_json = given.pop("overwrite"), given.pop("as_json")
    given["c_grid"] = _numbers("--c-grid", given["c_grid"], float, "1e-4,1e-3,1e-2")
    given["shots"] = _numbers("--shots", given["shots"], int, "1,2,4")
    given["ablate"] = tuple(name.strip() for name in given["ablate"].split(",") if name.strip())
    given["widths"] = _numbers("--widths", given["widths"], int, "64,128") if given["widths"] else ()
    given["max_memory"] = _bytes(given["max_memory"])
    given["compare"] = tuple(_pair(text) for text in given["compare"])
    config = EvalConfig(**given)
    with said_if_complete(out / RESULTS, f"the report in {out}"):
        with report_folder(out, overwrite=overwrite) as earlier:
            results = evaluate_files(files, config, progress=obj["progress"])
            written = write_report(results, out, overwrite=overwrite, earlier=earlier)
        if as_json:
            echo_json(results.document())
            return
        echo(*markdown_table(results).split("\n"), "")
        for comparison in results.comparisons[:SHOWN]:
            echo(f"- {comparison.verdict}")
        if len(results.comparisons) > SHOWN:
            more = len(results.comparisons) - SHOWN
            echo(f"- {counted(more, 'more comparison')} {are(more)} in {out}")
        if results.comparisons:
            echo("")
        for path in written:
            echo(path)


def _numbers(flag: str, text: str, kind: Callable[[str], Any], example: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(number) for number in text.split(","))
    except ValueError as error:
        raise click.UsageError(f"{flag} must be numbers with commas between, as {example}: {error}") from error


def _pair(text: str) -> str:
    """A,B, to be cut when the names of the models are known. Raises: click.UsageError."""
    if not text.strip(", ") or "," not in text.strip(", "):
        raise click.UsageError(f"--compare must be two names with a comma between, as A,B; got {text!r}")
    return text


def _bytes(text: str | None) -> int | None:
    """500M → 500·2²⁰. Raises: click.UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)i?B?", text or "0", re.IGNORECASE)
    if not found:
        raise click.UsageError(f"--max-memory must be a size as 500M or 8G, got {text!r}")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ")) or None
