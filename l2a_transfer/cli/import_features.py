"""`l2a-transfer import`: features that another program computed, as a feature file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.options import (
    PATH,
    Verb,
    option,
    option_group,
)
from l2a_transfer.cli.output import echo


@click.command("import", cls=Verb)
@click.argument("features", metavar="FEATURES", type=PATH)
@option_group(
    "Rows",
    option("--labels", metavar="FILE[#NAME]", type=PATH, help="Labels, or a feature file of the same images."),
    option("--ids", metavar="FILE[#NAME]", type=PATH, help="Names of the rows. [default: numbers]"),
    option("--split", metavar="FILE[#NAME]", type=PATH, help="Splits of the rows. [default: one split]"),
    option("--classes", metavar="FILE", type=PATH, help="Names of the classes 0, 1, … [default: the numbers]"),
)
@option_group(
    "Names",
    option("--name", help="What reports call the model. [default: the name of FEATURES]"),
    option("--data", help="What reports call the data set. [default: as in --labels, or imported]"),
)
@option_group(
    "Output",
    option("--out", type=PATH, required=True, metavar="FILE.h5", help="Feature file."),
    option("--overwrite/--no-overwrite", default=False, help="Replace --out."),
)
def command(features: Path, out: Path, **given: Any) -> None:
    """Write features that another program computed to a feature file.

    FEATURES is a .npy, .npz, .csv, .tsv, .txt, .parquet or .pt file, or the output folder of thingsvision or
    CLIP_benchmark. FILE#NAME names an array of an .npz, or a column of a table.

    The file says that its features were imported; nothing in FEATURES is run or unpickled.

    \b
    Example:
      l2a-transfer import features.npy --labels labels.npy --name my-model --out my-model.h5
    """
    from l2a_transfer.features.imported.importing import import_features

    result = import_features(features, out, **given)
    echo(f"{result.path}: {result.rows} × {result.dim}, imported")
