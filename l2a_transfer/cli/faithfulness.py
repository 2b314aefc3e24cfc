"""`l2a-transfer faithfulness`: whether a network's prediction depends on the pixels that a map marks as important."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.options import (
    PATH,
    SEED,
    SOURCE,
    NameChoice,
    Verb,
    device_option,
    names,
    networks_option,
    option,
    option_group,
    report_options,
    tested_images_options,
)
from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.cli.tables import table_lines, terminal_width


@click.command("faithfulness", cls=Verb)
@click.argument("images", nargs=-1, type=PATH, metavar="[IMAGE|FOLDER…]")
@option_group(
    "Networks and maps",
    networks_option(),
    option("--method", metavar="M,M,…", default="evidence", show_default=True, help="Map methods."),
    option(
        "--set",
        "settings",
        multiple=True,
        metavar="METHOD.OPTION=VALUE",
        help="Set an option of a method, such as occlusion.window=4. Repeatable.",
    ),
    option(
        "--target",
        metavar="predicted|true|CLASS",
        default="predicted",
        show_default=True,
        help="The class whose probability is measured.",
    ),
)
@option_group(
    "Data",
    option("--data", help="Data set name, or imagefolder:PATH, npz:PATH, wds:PATH or parquet:PATH."),
    tested_images_options(100),
    option("--side", metavar="N", type=int, help="Side of the images in pixels. [default: the network's own]"),
)
@option_group(
    "Deletion and insertion",
    option(
        "--steps",
        metavar="N",
        type=int,
        default=32,
        show_default=True,
        help="Number of steps from the first pixel to the last.",
    ),
    option(
        "--baseline",
        type=NameChoice("l2a_transfer.explain.checks.faithfulness:BASELINES"),
        default="mean",
        show_default=True,
        help="What replaces pixels: the mean colour of the training images, or the blurred image.",
    ),
    option(
        "--orders",
        metavar="N",
        type=int,
        default=3,
        show_default=True,
        help="Random maps per image and resolution.",
    ),
    option(
        "--resamples", metavar="N", type=int, default=10000, show_default=True, help="Bootstrap resamples over images."
    ),
    option(
        "--seed",
        metavar="N",
        type=SEED,
        default=0,
        show_default=True,
        help="Random seed of random maps, ties, bootstrap and untrained weights.",
    ),
)
@report_options("faithfulness.json")
@option_group(
    "Computation",
    device_option(),
    option(
        "--batch-size", metavar="N", type=click.IntRange(min=1), default=16, show_default=True, help="Images per batch."
    ),
)
@click.pass_obj
def command(obj: dict[str, Any], /, images: tuple[Path, ...], out: Path, **given: Any) -> None:
    """Measure deletion and insertion scores of map methods.

    Pixels are deleted or inserted in the order of a map, the most important first. The report contains the areas under
    the curve of the class probability with 95 % confidence intervals, the gain over random maps of the same resolution,
    and controls that do not depend on the network. Name images or folders, or pass --data.

    \b
    Example:
      l2a-transfer faithfulness --model vgg-att2-concat-pc.cifar10-w025 --method evidence,saliency --out faithful photos
    """
    from l2a_transfer.data.readers import open_source
    from l2a_transfer.evaluation.faithfulness import evaluate_faithfulness
    from l2a_transfer.evaluation.faithfulness_results import FaithfulnessConfig
    from l2a_transfer.evaluation.tested import chosen_images, pictures_source
    from l2a_transfer.files import said_if_complete
    from l2a_transfer.report.faithfulness import RESULTS, areas_grid, faithfulness_folder, write_faithfulness

    if bool(images) == bool(given["data"]):
        raise click.UsageError("name either images or folders, or --data")
    overwrite, as_json, models = given.pop("overwrite"), given.pop("as_json"), given.pop("model")
    split, limit = given.pop("split"), given.pop("limit")
    source = {key: given.pop(key) for key in SOURCE}
    given["options"] = _options(given.pop("settings"))
    config = FaithfulnessConfig(**{**given, "method": names(given["method"])})
    with said_if_complete(out / RESULTS, f"the report in {out}"):
        with faithfulness_folder(out, overwrite=overwrite):
            opened = pictures_source(images) if images else open_source(**source)
            chosen = chosen_images(opened, split=split, limit=None if images else limit)
            results = evaluate_faithfulness(models, chosen, config, progress=obj["progress"])
            written = write_faithfulness(results, out)
        if as_json:
            echo_json(results.document())
            return
        table = areas_grid(results)
        headings, kinds = zip(*table.columns, strict=True)
        echo(*table_lines(headings, table.rows, numbers=kinds, width=terminal_width()), "", *written)


def _options(settings: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """`occlusion.window=4` → {"occlusion": {"window": "4"}}. Raises: click.UsageError."""
    found: dict[str, dict[str, str]] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        method, dot, option_name = name.partition(".")
        if not equals or not dot:
            raise click.UsageError(f"--set must be METHOD.OPTION=VALUE, such as occlusion.window=4; got {text!r}")
        found.setdefault(method, {})[option_name] = value
    return found
