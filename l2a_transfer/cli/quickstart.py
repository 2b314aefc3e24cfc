"""`l2a-transfer quickstart`: the main experiment in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.options import (
    FOLDER,
    Verb,
)
from l2a_transfer.cli.output import echo
from l2a_transfer.cli.tables import localization_lines, results_lines, terminal_width, verdict_lines

NEXT = """\
Next:
  l2a-transfer extract --model vgg-att2-concat-pc.cifar10-w025 --data imagefolder:YOUR_PICTURES --out yours.h5
  l2a-transfer svm-eval yours.h5 --out yours
  l2a-transfer export --model vgg-att2-concat-pc.cifar10-w025 --out extractor.onnx"""


@click.command("quickstart", cls=Verb)
@click.option(
    "--out",
    type=FOLDER,
    default=Path("quickstart"),
    show_default=True,
    metavar="DIR",
    help="Output folder.",
)
@click.option("--overwrite/--no-overwrite", default=False, help="Overwrite an earlier quickstart in --out.")
@click.pass_obj
def command(obj: dict[str, Any], out: Path, overwrite: bool) -> None:
    """Run the main experiment on bundled data. Works offline.

    A pretrained attention network, the same network with uniform attention, an untrained one and raw pixels give
    features of photographs that no network has seen, and a linear SVM is fitted to each. The maps of the two pretrained
    networks are compared with the outlines of airplanes.

    \b
    Example:
      l2a-transfer quickstart --out quickstart
    """
    from l2a_transfer.files import said_if_complete
    from l2a_transfer.quickstart import quickstart
    from l2a_transfer.report import lookup
    from l2a_transfer.report.write import RESULTS

    with said_if_complete(out / RESULTS, f"the report in {out}"):
        result = quickstart(out, overwrite=overwrite, progress=obj["progress"])
        echo("", *results_lines(result.results, width=terminal_width()), "")
        echo(*verdict_lines(result.verdicts, total=len(result.results.comparisons), out=out))
        echo("", *localization_lines(result.localization, width=terminal_width()), "")
        echo(
            *(
                f"- {lookup.verdict(comparison)}"
                for comparison in result.localization.comparisons
                if comparison.family == "models"
            )
        )
        echo("", "Files:")
        for path in result.files:
            echo(f"  {path}")
        echo("", *NEXT.split("\n"))
