"""`l2a-transfer import`: convert features that another program computed to a feature file."""

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
    option(
        "--labels", metavar="FILE[#NAME]", type=PATH, help="Label of each row, or a feature file of the same images."
    ),
    option("--ids", metavar="FILE[#NAME]", type=PATH, help="Id of each row. [default: row numbers]"),
    option("--split", metavar="FILE[#NAME]", type=PATH, help="Split of each row. [default: a single split]"),
    option("--classes", metavar="FILE", type=PATH, help="Names of the classes 0, 1, … [default: the numbers]"),
)
@option_group(
    "Names",
    option("--name", help="Name of the model in reports. [default: the name of FEATURES]"),
    option("--data", help="Name of the data set in reports. [default: as in --labels, or imported]"),
)
@option_group(
    "Output",
    option("--out", type=PATH, required=True, metavar="FILE.h5", help="Feature file to write."),
    option("--overwrite/--no-overwrite", default=False, help="Overwrite --out."),
)
def command(features: Path, out: Path, **given: Any) -> None:
    """Import features that another program computed.

    FEATURES is a .npy, .npz, .csv, .tsv, .txt, .parquet or .pt file, or the output folder of thingsvision or
    CLIP_benchmark. FILE#NAME names an array of an .npz file, or a column of a table.

    The result is a feature file that is marked as imported. No code in FEATURES is run, and nothing is unpickled.

    \b
    Example:
      l2a-transfer import features.npy --labels labels.npy --name my-model --out my-model.h5
    """
    from l2a_transfer.features.imported.importing import import_features

    result = import_features(features, out, **given)
    echo(f"{result.path}: {result.rows} × {result.dim}, imported")
