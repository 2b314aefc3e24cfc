"""`l2a-transfer svm-eval`: how well features generalize, measured with a linear SVM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command("svm-eval")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False), metavar="FILE.h5 ..."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, readable=False),
    required=True,
    metavar="DIR",
    help="Folder for the report.",
)
@click.option("--protocol", default="auto", show_default=True, help="auto, official, caltech-30 or stratified.")
@click.option("--c-grid", default="1e-4,1e-3,1e-2,1e-1", show_default=True, help="Candidates for C; one: no choice.")
@click.option("--folds", type=int, default=5, show_default=True, help="Of the cross-validation that chooses C.")
@click.option("--draws", type=int, help="Repeat a drawn split N times [default: the protocol's number].")
@click.option("--bootstrap", type=int, default=10_000, show_default=True, help="Resamples of the test rows.")
@click.option("--solver", default="liblinear", show_default=True, help="Who solves the SVM: liblinear.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of splits, folds, PCA and bootstrap.")
@click.option("--jobs", type=int, default=1, show_default=True, help="Threads; they change no number.")
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
    from l2a_transfer.evaluation.evaluate import EvalConfig, evaluate_files
    from l2a_transfer.evaluation.report import check_output, markdown_table, write_report

    overwrite, as_json = given.pop("overwrite"), given.pop("as_json")
    try:
        c_grid = tuple(float(C) for C in given.pop("c_grid").split(","))
    except ValueError as error:
        raise ValueError(f"--c-grid must be numbers with commas between, as 1e-4,1e-3,1e-2: {error}") from error
    config = EvalConfig(c_grid=c_grid, **given)
    check_output(out, overwrite=overwrite)
    results = evaluate_files(files, config, progress=obj["progress"])
    written = write_report(results, out, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(results.document(), ensure_ascii=False, allow_nan=False))
        return
    click.echo(f"{markdown_table(results)}\n")
    for path in written:
        click.echo(path)
