"""`l2a-transfer robustness`: accuracy of networks under adversarial attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.options import (
    SEED,
    SOURCE,
    Verb,
    device_option,
    names,
    networks_option,
    numbers,
    option,
    option_group,
    report_options,
    tested_images_options,
)
from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.cli.tables import table_lines, terminal_width


@click.command("robustness", cls=Verb)
@option_group(
    "Networks",
    networks_option(),
    option("--reference", metavar="MODEL", help="Compare every other network with this one. [default: the first]"),
)
@option_group(
    "Data",
    option("--data", required=True, help="Data set name, or imagefolder:PATH, npz:PATH, wds:PATH or parquet:PATH."),
    tested_images_options(500),
)
@option_group(
    "Attacks",
    option(
        "--epsilon", metavar="E,E,…", default="1,2,4", show_default=True, help="Largest changes of a pixel, in 1/255."
    ),
    option("--attack", metavar="A,A", default="fgsm,pgd", show_default=True, help="Attacks: fgsm, pgd or both."),
    option("--steps", metavar="N", type=int, default=10, show_default=True, help="Number of PGD steps."),
    option("--step", metavar="E", type=float, help="Size of a PGD step, in 1/255. [default: 2.5 · epsilon / steps]"),
    option(
        "--seed",
        metavar="N",
        type=SEED,
        default=0,
        show_default=True,
        help="Random seed of starting points, noise and untrained weights.",
    ),
)
@report_options("robustness.json")
@option_group(
    "Computation",
    device_option(),
    option(
        "--batch-size", metavar="N", type=click.IntRange(min=1), default=64, show_default=True, help="Images per batch."
    ),
)
@click.pass_obj
def command(obj: dict[str, Any], /, out: Path, **given: Any) -> None:
    """Measure accuracy under adversarial attacks.

    FGSM and PGD change each pixel by at most epsilon. The report contains accuracies with 95 % confidence intervals,
    random noise of the same size as a control, checks for gradient masking, and paired tests between networks on the
    same images.

    \b
    Example:
      l2a-transfer robustness --model vgg-att2-concat-pc.cifar10-w025 --data cifar10 --data-dir data --out robustness
    """
    from l2a_transfer.data.readers import open_source
    from l2a_transfer.evaluation.robustness import evaluate_robustness
    from l2a_transfer.evaluation.robustness_results import RobustnessConfig
    from l2a_transfer.evaluation.tested import chosen_images
    from l2a_transfer.files import said_if_complete
    from l2a_transfer.report import lookup
    from l2a_transfer.report.robustness import RESULTS, accuracy_grid, robustness_folder, write_robustness

    overwrite, as_json, models = given.pop("overwrite"), given.pop("as_json"), given.pop("model")
    split, limit = given.pop("split"), given.pop("limit")
    source = {key: given.pop(key) for key in SOURCE}
    given["epsilon"] = numbers("--epsilon", given["epsilon"], float, "1,2,4")
    config = RobustnessConfig(**{**given, "attack": names(given["attack"])})
    with said_if_complete(out / RESULTS, f"the report in {out}"):
        with robustness_folder(out, overwrite=overwrite):
            images = chosen_images(open_source(**source), split=split, limit=limit)
            results = evaluate_robustness(models, images, config, progress=obj["progress"])
            written = write_robustness(results, out)
        if as_json:
            echo_json(results.document())
            return
        table = accuracy_grid(results)
        headings, kinds = zip(*table.columns, strict=True)
        echo(*table_lines(headings, table.rows, numbers=kinds, width=terminal_width()), "")
        echo(
            *(f"- {line}" for line in (*results.warnings, *(lookup.verdict(c) for c in results.comparisons))), *written
        )
