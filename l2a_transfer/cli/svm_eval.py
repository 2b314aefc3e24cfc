"""`l2a-transfer svm-eval`: how well features generalize, measured with a linear SVM."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.options import (
    FOLDER,
    PATH,
    NameChoice,
    Verb,
    device_option,
    numbers,
    option,
    option_group,
)
from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.cli.tables import results_lines, terminal_width, verdict_lines

CLASS_COLUMNS = ("class", "counts as")
"""The columns of --class-map."""
SHOWN = 6
"""Number of comparisons that are printed; the report has all of them."""


@click.command("svm-eval", cls=Verb)
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE.h5 ...")
@option_group(
    "Protocol",
    option(
        "--protocol",
        type=NameChoice("l2a_transfer.evaluation.protocols:PROTOCOLS"),
        default="auto",
        show_default=True,
        help="How to split rows into training and test sets. auto: by the splits in the file.",
    ),
    option(
        "--draws",
        metavar="N",
        type=int,
        help="Number of random splits. [default: set by the protocol]",
    ),
    option(
        "--shots",
        metavar="N,N,…",
        default="1,2,4,8,16",
        show_default=True,
        help="Images per class in the low-shot protocol.",
    ),
    option("--seed", metavar="N", type=int, default=0, show_default=True, help="Random seed."),
    option("--source", multiple=True, metavar="DOMAIN", help="Train on this domain. Repeatable. [default: all]"),
    option("--target", multiple=True, metavar="DOMAIN", help="Test on this domain. Repeatable. [default: all]"),
    option(
        "--class-map",
        type=PATH,
        metavar="FILE",
        help="JSON or CSV file: a class name of one domain, and the class of another that it counts as.",
    ),
)
@option_group(
    "Support vector machine",
    option(
        "--c-grid",
        metavar="C,C,…",
        default="1e-4,1e-3,1e-2,1e-1",
        show_default=True,
        help="Values of C to try. With one value, no cross-validation is run.",
    ),
    option(
        "--folds",
        metavar="N",
        type=int,
        default=5,
        show_default=True,
        help="Folds of the cross-validation that chooses C.",
    ),
    option(
        "--decades",
        metavar="N",
        type=int,
        default=2,
        show_default=True,
        help="How many times the grid of C may be extended by a factor of ten.",
    ),
    option(
        "--solver",
        type=NameChoice(("batched", "liblinear")),
        default="batched",
        show_default=True,
        help="batched: fast, on CPU or GPU. liblinear: the reference, CPU only.",
    ),
)
@option_group(
    "Probes",
    option(
        "--probe",
        "probes",
        default="svm",
        show_default=True,
        metavar="NAME,NAME,…",
        help="Classifiers: svm, logistic, knn, ncm. Models are compared within each probe.",
    ),
    option("--logme/--no-logme", default=False, help="Also report the LogME score of the training rows."),
)
@option_group(
    "Comparisons",
    option(
        "--compare",
        multiple=True,
        metavar="A,B",
        help="Compare these two models, or two architectures over their training seeds. Repeatable.",
    ),
    option(
        "--reference",
        metavar="MODEL",
        help="Compare every other model with this one only. Models that cannot be compared are listed on stderr.",
    ),
    option(
        "--ablate", default="", metavar="NAME,NAME,…", help="Ablations to add: levels, normalization, precision, width."
    ),
    option("--widths", default="", metavar="N,N,…", help="Also evaluate features reduced to N columns by PCA."),
)
@option_group(
    "Output",
    option("--out", type=FOLDER, required=True, metavar="DIR", help="Output folder of the report."),
    option("--pictures", metavar="DATA", help="Show up to 24 misclassified images of this data set in report.html."),
    option("--data-dir", type=PATH, help="Folder that contains the data set of --pictures."),
    option(
        "--split-from",
        type=NameChoice("l2a_transfer.data.layout:SPLITS_FROM"),
        default="auto",
        show_default=True,
        help="How splits of --pictures are assigned, as in extract. Use folders if extract used --domain-from folder.",
    ),
    option("--overwrite/--no-overwrite", default=False, help="Overwrite an earlier report in --out."),
    option("--json", "as_json", is_flag=True, help="Print results.json instead of the table."),
)
@option_group(
    "Computation",
    device_option("Device of the batched solver."),
    option(
        "--max-memory",
        metavar="SIZE",
        help="Memory limit of the batched solver, such as 500M or 8G. [default: half of the free memory]",
    ),
    option(
        "--jobs",
        metavar="N",
        type=int,
        default=1,
        show_default=True,
        help="Threads for liblinear. The number does not affect the results.",
    ),
)
@click.pass_obj
def command(obj: dict[str, Any], /, files: tuple[Path, ...], out: Path, **given: Any) -> None:
    """Evaluate feature files with linear SVMs.

    The result is a table of models × data sets with 95 % confidence intervals.

    C, or the hyperparameter of another probe, is chosen by cross-validation on the training rows. The test rows are
    used once.

    \b
    Example:
      l2a-transfer svm-eval attention.h5 uniform.h5 pixels.h5 --out report
    """
    from l2a_transfer.data.domains import read_pairs
    from l2a_transfer.data.readers import open_source
    from l2a_transfer.evaluation.evaluate import evaluate_files
    from l2a_transfer.evaluation.misclassified import check_pictures, misclassified
    from l2a_transfer.evaluation.results import EvalConfig
    from l2a_transfer.files import said_if_complete
    from l2a_transfer.report import lookup
    from l2a_transfer.report.write import RESULTS, report_folder, write_report

    pictures, data_dir, split_from = given.pop("pictures"), given.pop("data_dir"), given.pop("split_from")
    for name, value in (("--data-dir", data_dir), ("--split-from", split_from != "auto")):
        if value and not pictures:
            raise click.UsageError(f"{name} needs --pictures")
    overwrite, as_json = given.pop("overwrite"), given.pop("as_json")
    given["c_grid"] = numbers("--c-grid", given["c_grid"], float, "1e-4,1e-3,1e-2")
    given["shots"] = numbers("--shots", given["shots"], int, "1,2,4")
    given["probes"] = tuple(name.strip() for name in given["probes"].split(",") if name.strip())
    given["ablate"] = tuple(name.strip() for name in given["ablate"].split(",") if name.strip())
    given["widths"] = numbers("--widths", given["widths"], int, "64,128") if given["widths"] else ()
    given["max_memory"] = _bytes(given["max_memory"])
    given["class_map"] = read_pairs(given["class_map"], *CLASS_COLUMNS) if given["class_map"] else {}
    given["compare"] = tuple(_pair(text) for text in given["compare"])
    config = EvalConfig(**given)
    source = open_source(pictures, data_dir=data_dir, split_from=split_from) if pictures else None
    if source is not None:
        check_pictures(files, source)
    with said_if_complete(out / RESULTS, f"the report in {out}"):
        with report_folder(out, overwrite=overwrite) as earlier:
            results = evaluate_files(files, config, progress=obj["progress"])
            if source is not None:
                results = dataclasses.replace(results, pictures=misclassified(results, source))
            written = write_report(results, out, overwrite=overwrite, earlier=earlier)
        if as_json:
            echo_json(results.document())
            return
        echo(*results_lines(results, width=terminal_width()), "")
        if results.comparisons:
            shown = [lookup.verdict(c) for c in lookup.verdicts(results)[:SHOWN]]
            echo(*verdict_lines(shown, total=len(results.comparisons), out=out), "")
        for path in written:
            echo(path)


def _pair(text: str) -> str:
    """Check that the text has the form A,B. It is split later, when model names are known. Raises: click.UsageError."""
    if not text.strip(", ") or "," not in text.strip(", "):
        raise click.UsageError(f"--compare must be two names separated by a comma, such as A,B; got {text!r}")
    return text


def _bytes(text: str | None) -> int | None:
    """500M → 500·2²⁰. Raises: click.UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)i?B?", text or "0", re.IGNORECASE)
    if not found:
        raise click.UsageError(f"--max-memory must be a size such as 500M or 8G, got {text!r}")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ")) or None
