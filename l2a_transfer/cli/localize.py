"""`l2a-transfer localize`: how well maps find the objects in pictures."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.options import (
    FOLDER,
    PATH,
    SEED,
    Verb,
    device_option,
    networks_option,
    option,
    option_group,
    reading_options,
    report_options,
)
from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.cli.tables import localization_lines, terminal_width
from l2a_transfer.wording import are, counted

SHOWN = 6
"""Number of comparisons that are printed; the report has all of them."""


@click.command("localize", cls=Verb)
@option_group(
    "Maps",
    networks_option(),
    option(
        "--method",
        metavar="NAME,NAME,…",
        default="attention",
        show_default=True,
        help="Map methods. The controls centre, sobel, random and everything are always measured as well.",
    ),
    option(
        "--class",
        "target",
        metavar="NAME",
        default="predicted",
        show_default=True,
        help="The class that class-specific maps explain: true, predicted, or a class of the networks.",
    ),
    option(
        "--same-class",
        multiple=True,
        metavar="LABEL=CLASS",
        help="The networks' name for a class of the data, such as car=automobile. Repeatable.",
    ),
    option(
        "--side",
        metavar="N",
        type=int,
        default=64,
        show_default=True,
        help="Shorter side of the networks' input in pixels.",
    ),
    option("--levels", metavar="NAME,NAME,…", default="", help="Levels of the maps. [default: set by the method]"),
    option(
        "--option",
        multiple=True,
        metavar="METHOD.NAME=VALUE",
        help="Set an option of a method, such as occlusion.window=16. Repeatable.",
    ),
)
@reading_options
@option_group(
    "Data",
    option("--data", required=True, metavar="SOURCE|FOLDER", help="A data set, as in extract, or a folder of images."),
    option("--data-dir", type=PATH, metavar="DIR", help="Folder that contains the data set."),
    option("--split", metavar="NAME", help="Use only this split."),
    option("--limit", metavar="N", type=int, help="Use at most N images per split."),
    option(
        "--skip-unknown/--no-skip-unknown",
        default=False,
        help="Skip images of classes that a network does not have.",
    ),
)
@option_group(
    "Masks",
    option(
        "--masks",
        required=True,
        metavar="MASKS",
        help="png:FOLDER, voc:FOLDER, coco:FILE, yolo:FOLDER, csv:FILE, caltech:FOLDER or airplanes-mini.",
    ),
    option(
        "--mask-class",
        metavar="NAME",
        help="Use only objects of this class or number. label: of the image's own class.",
    ),
    option(
        "--skip-unmasked/--no-skip-unmasked",
        default=False,
        help="Skip images without a mask, or with an empty one.",
    ),
)
@option_group(
    "Thresholds and comparisons",
    option(
        "--folds",
        metavar="N",
        type=int,
        default=2,
        show_default=True,
        help="Number of folds. The threshold of each fold is chosen on the others.",
    ),
    option(
        "--validation",
        type=PATH,
        metavar="FILE",
        help="Choose the threshold on the images in this list, one id per line, instead of on folds.",
    ),
    option(
        "--measure",
        metavar="NAME",
        help="Measure to compare, such as average_precision or pointing. [default: jaccard; for boxes, "
        "max_box_accuracy]",
    ),
    option(
        "--seed",
        metavar="N",
        type=SEED,
        default=0,
        show_default=True,
        help="Random seed of folds, ties, confidence intervals and untrained weights.",
    ),
)
@report_options(
    "localization.json",
    option("--write-masks", type=FOLDER, metavar="DIR", help="Also write the binarised maps as PNG files."),
)
@option_group(
    "Computation",
    device_option("Device of the networks."),
)
@click.pass_obj
def command(obj: dict[str, Any], /, out: Path, write_masks: Path | None, **given: Any) -> None:
    """Measure how well maps find the objects in images.

    Maps are compared with masks or boxes. The threshold of a map is chosen on other images than those it is tested on.

    \b
    Example:
      l2a-transfer localize --model vgg-att2-concat-pc.cifar10-w025 --data photos --masks png:masks --out localization
    """
    from l2a_transfer.data.masks import open_masks
    from l2a_transfer.files import said_if_complete
    from l2a_transfer.localization import mask_files
    from l2a_transfer.localization.localize import localize, picture_rows
    from l2a_transfer.localization.results import RESULTS
    from l2a_transfer.localization.sheet import sheet_of
    from l2a_transfer.report import lookup
    from l2a_transfer.report.localization import localization_folder, write_localization

    overwrite, config = given["overwrite"], _config(given)
    with ExitStack() as stack:
        stack.enter_context(said_if_complete(out / RESULTS, f"the report in {out}"))
        stack.enter_context(localization_folder(out, overwrite=overwrite))
        if write_masks is not None:
            stack.enter_context(mask_files.masks_folder(write_masks, overwrite=overwrite))
        found = localize(
            given["model"],
            _source(given),
            open_masks(given["masks"]),
            config,
            validation=_listed(given["validation"]),
            device=given["device"],
            progress=obj["progress"],
        )
        with ExitStack() as until_the_report:
            masks = write_masks and until_the_report.enter_context(mask_files.writing_masks(found, write_masks))
            written = write_localization(found.results, sheet_of(found), picture_rows(found), out)
        if given["as_json"]:
            echo_json(found.results.document())
            return
        echo(*localization_lines(found.results, width=terminal_width()), "")
        for comparison in found.results.comparisons[:SHOWN]:
            echo(f"- {lookup.verdict(comparison)}")
        if (more := len(found.results.comparisons) - SHOWN) > 0:
            echo(f"- {counted(more, 'more comparison')} {are(more)} in {out}")
        echo("", *([masks] if masks else []), *written)


def _config(given: dict[str, Any]) -> Any:
    from l2a_transfer.localization.results import LocalizationConfig

    options: dict[str, dict[str, str]] = {}
    for text in given["option"]:
        name, equals, value = text.partition("=")
        method, dot, own = name.partition(".")
        if not equals or not dot or not own:
            raise click.UsageError(f"--option must be METHOD.NAME=VALUE, such as occlusion.window=16; got {text!r}")
        options.setdefault(method, {})[own] = value
    return LocalizationConfig(
        methods=_names(given["method"]),
        target=given["target"],
        same_class=dict(_pair(text) for text in given["same_class"]),
        side=given["side"],
        levels=_names(given["levels"]),
        options=options,
        mask_class=given["mask_class"],
        folds=given["folds"],
        measure=given["measure"],
        skip_unmasked=given["skip_unmasked"],
        skip_unknown=given["skip_unknown"],
        seed=given["seed"],
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _pair(text: str) -> tuple[str, str]:
    """Parse LABEL=CLASS. Raises: click.UsageError."""
    label, equals, own = text.partition("=")
    if not equals or not label or not own:
        raise click.UsageError(f"--same-class must be LABEL=CLASS, such as car=automobile; got {text!r}")
    return label, own


def _source(given: dict[str, Any]) -> Any:
    """The pictures. A folder without a prefix is an image folder."""
    from l2a_transfer.data.readers import open_source

    data = given["data"]
    if ":" not in data and Path(data).expanduser().is_dir():
        data = f"imagefolder:{data}"
    names = ("data_dir", "split", "limit", "split_from", "verify_source")
    return open_source(data, **{name: given[name] for name in names})


def _listed(path: Path | None) -> list[str] | None:
    """The lines of a list. Raises: DataError if the file cannot be read."""
    from l2a_transfer.data.masks import read_names

    return None if path is None else read_names(path)
