"""`l2a-transfer explain`: maps that explain the predictions of a network, with any methods."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from l2a_transfer.cli.options import (
    FOLDER,
    PATH,
    SEED,
    NameList,
    Verb,
    device_option,
    option,
    option_group,
    preprocess_options,
    preprocess_values,
    reading_options,
    split_names,
    weights_option,
)
from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.cli.pictures import TRUE, Pictures
from l2a_transfer.cli.tables import table_lines, terminal_width
from l2a_transfer.wording import counted

if TYPE_CHECKING:
    from l2a_transfer.explain.write import Explained

SHOWN = 10
"""Number of pictures that are printed; explain.json has all of them."""


@click.command("explain", cls=Verb)
@click.argument("images", nargs=-1, type=PATH, metavar="[IMAGE|FOLDER…]")
@option_group(
    "Model",
    option(
        "--model",
        required=True,
        help="Bundled name, .safetensors file or untrained:ARCH[@WIDTH]. Other networks: torchvision:NAME, timm:NAME "
        "or module:FILE.py:FUNCTION.",
    ),
    option("--seed", metavar="N", type=SEED, default=0, show_default=True, help="Random seed of untrained weights."),
    weights_option(),
    device_option(),
)
@option_group(
    "Maps",
    option(
        "--method",
        type=NameList("l2a_transfer.explain.registry:METHODS"),
        default="evidence",
        show_default=True,
        help="Map methods, separated by commas.",
    ),
    option(
        "--class",
        metavar="CLASS",
        default="predicted",
        show_default=True,
        help="The class to explain: predicted, true (needs labels), or the name of a class.",
    ),
    option(
        "--levels",
        metavar="L,L,…",
        help="Levels, such as L2,L3, or layers of another network. [default: those that the classifier uses]",
    ),
    option(
        "--option",
        multiple=True,
        metavar="METHOD.NAME=VALUE",
        help="Set an option of a method, such as occlusion.window=16. Repeatable.",
    ),
    option(
        "--group/--no-group",
        default=False,
        help="Also map what the images of a class have in common, with another class as the control.",
    ),
    option(
        "--control-seed",
        metavar="N",
        type=SEED,
        default=0,
        show_default=True,
        help="Random seed for choosing the control class of each class.",
    ),
    option(
        "--side",
        metavar="N",
        type=int,
        help="Shorter side of the network's input in pixels. [default: 128; other networks: --as-extracted]",
    ),
    option(
        "--as-extracted/--not-as-extracted",
        default=False,
        help="Preprocess images exactly as extract does. Excludes --side.",
    ),
)
@preprocess_options
@option_group(
    "Data",
    option("--data", help="Data set name, or imagefolder:PATH, npz:PATH, wds:PATH or parquet:PATH."),
    option("--data-dir", type=PATH, help="Folder that contains the data set."),
    option("--download/--no-download", default=False, help="Download the data set into --data-dir, and weights."),
    option("--split", help="Use only this split."),
    reading_options,
    option(
        "--limit",
        metavar="N",
        type=click.IntRange(min=1),
        help="Use at most N images per split, balanced over the classes.",
    ),
)
@option_group(
    "Drawing",
    option("--smooth/--no-smooth", default=True, show_default=True, help="Interpolate between the positions of a map."),
    option("--alpha", metavar="A", type=float, default=0.8, show_default=True, help="Opacity of the strongest colour."),
    option("--cmap", metavar="NAME", default="inferno", show_default=True, help="Colormap of nonnegative maps."),
    option("--signed-cmap", metavar="NAME", default="coolwarm", show_default=True, help="Colormap of signed maps."),
    option("--dpi", metavar="N", type=int, default=300, show_default=True, help="Resolution of the contact sheet."),
    option(
        "--format",
        type=NameList("l2a_transfer.explain.painting:FORMATS"),
        default="png",
        show_default=True,
        help="File formats, separated by commas.",
    ),
    option(
        "--overlays/--no-overlays", default=True, show_default=True, help="Write an overlay of each map on its image."
    ),
    option(
        "--sheet",
        metavar="N",
        type=click.IntRange(0, 200),
        default=24,
        show_default=True,
        help="Draw the first N images on a contact sheet. 0: no sheet.",
    ),
)
@option_group(
    "Output",
    option("--out", type=FOLDER, required=True, metavar="DIR", help="Output folder of the drawings and explain.json."),
    option("--store", type=PATH, metavar="FILE.h5", help="Also write the values of all maps to this file."),
    option("--overwrite/--no-overwrite", default=False, help="Overwrite the results in --out, and --store."),
    option("--json", "as_json", is_flag=True, help="Print explain.json instead of the table."),
)
@click.pass_obj
def command(obj: dict[str, Any], /, images: tuple[Path, ...], out: Path, **given: Any) -> None:
    """Draw maps that explain the predictions of a network.

    Class-specific methods explain the predicted class, unless --class names another. The output is one overlay per
    image and map at the image's own resolution, one contact sheet, and explain.json with the predictions and the scale
    of the colours.

    --group adds two maps per level. They show where an image resembles what attention selects in the other images of
    its class and, as a control, in the images of another class. The class of an image is its label in --data, or the
    name of its folder.

    \b
    Example:
      l2a-transfer explain --model vgg-att2-concat-pc.cifar10-w025 --method evidence,grad-cam --out why photo.jpg
    """
    from l2a_transfer.explain.dispatch import explain_stream
    from l2a_transfer.explain.group import GROUP
    from l2a_transfer.explain.grouping import check_groups, group_maps_beside, group_pictures
    from l2a_transfer.explain.painting import Style
    from l2a_transfer.explain.question import DEFAULT_SIDE, Question
    from l2a_transfer.explain.store import MapsMeta, writing_maps
    from l2a_transfer.explain.subject import open_subject
    from l2a_transfer.explain.write import DOCUMENT, check_store, explain_folder, file_stem, write_explained
    from l2a_transfer.files import said_if_complete

    if given["as_extracted"] and given["side"] is not None:
        raise click.UsageError("--side and --as-extracted cannot be used together")
    question = Question(
        split_names(given["method"]),
        DEFAULT_SIDE if given["side"] is None else given["side"],
        split_names(given["levels"]),
        _options(given["option"]),
        given["group"],
        given["control_seed"],
    )
    keys = ("smooth", "alpha", "cmap", "signed_cmap", "dpi")
    style = Style(**{key: given[key] for key in keys}, formats=split_names(given["format"]))
    own = {key: given[key] for key in ("seed", "device", "weights", "download")}
    subject = open_subject(given["model"], **own, **preprocess_values(given))
    if given["as_extracted"] or (given["side"] is None and not subject.is_own):
        question = replace(question, side=None)
    pictures = Pictures(images, given)
    targets = pictures.targets(given["class"], subject)
    classes = check_groups(pictures.groups, pictures.names) if question.group else ()
    stems = [file_stem(k, name, of=len(pictures.names)) for k, name in enumerate(pictures.names)]
    asked = {
        "class": given["class"],
        "side": question.side,
        "as_extracted": question.side is None,
        "levels": ",".join(question.levels),
        "data": pictures.name,
        "weights": subject.weights_sha256,
    }
    header = {
        **asked,
        "model": subject.name,
        "classes": list(subject.classes),
        "preprocess": subject.preprocess.to_json(),
        "options": {method: question.all_options(method) for method in question.methods},
    }
    about = f"; explained: {_which(given['class'])}" if question.class_specific else ""
    store: Path | None = given["store"]
    if store is not None:
        check_store(store, overwrite=given["overwrite"], out=out)
    how = {"overlays": given["overlays"], "overwrite": given["overwrite"]}
    with (
        said_if_complete(out / DOCUMENT, f"the set of pictures in {out}"),
        explain_folder(out, stems, question, style, attention=subject.maps, **how),
    ):
        beside = None
        if question.group:
            progress = obj["progress"]
            templates = pictures.asked(targets, progress=progress, what="templates")
            grouping = group_pictures(subject.network, subject.preprocess, templates, classes, question)
            beside = group_maps_beside(subject.network, subject.preprocess, grouping, question)
            header["group"] = grouping.to_json()
            asked["group"] = json.dumps(header["group"], ensure_ascii=False)
        meta = MapsMeta(pictures.name, subject.classes, subject.card, subject.preprocess.to_json(), asked)
        asking = pictures.asked(targets, progress=obj["progress"])
        written = write_explained(
            explain_stream(subject.network, subject.preprocess, subject.classes, asking, question, beside=beside),
            stems,
            out,
            question=question,
            preprocess=subject.preprocess,
            style=style,
            header=header,
            title=f"{', '.join([*question.methods, *([GROUP] if question.group else [])])} of {subject.name}{about}",
            overlays=given["overlays"],
            sheet=given["sheet"],
            store=writing_maps(store, meta, question.all_options) if store else None,
        )
    _print(written, out, store, as_json=given["as_json"])


def _options(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parse METHOD.NAME=VALUE options. Raises: click.UsageError."""
    found: dict[str, dict[str, Any]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        method, dot, name = key.strip().partition(".")
        if not (equals and dot and method and name):
            raise click.UsageError(f"--option must be like occlusion.window=16, got {text!r}")
        found.setdefault(method, {})[name] = value.strip()
    return found


def _print(written: Explained, out: Path, store: Path | None, *, as_json: bool) -> None:
    if as_json:
        echo_json(written.document)
        return
    images = written.document["images"]
    rows = []
    for image in images[:SHOWN]:
        predicted = _class_cell(image["predicted_class"], image["predicted"], image["predicted_probability"])
        for method in image["methods"]:
            of = method["target"]
            about = "" if of is None else _class_cell(method["class"], of, method["probability"])
            if "template" in method:
                about = f"{counted(method['template']['images'], 'image')} of {method['template']['class']}"
            error = method["completeness_error"]
            strongest = ", ".join(f"{own['map']} {own['scale']}" for own in method["maps"])
            rows.append(
                [image["name"], predicted, method["method"], about, strongest, "" if error is None else f"{error:.1e}"]
            )
    headings = ["image", "predicted", "method", "explained", "colour scale", "completeness error"]
    echo(*table_lines(headings, rows, width=terminal_width()), "")
    if len(images) > SHOWN:
        echo(f"{counted(len(images) - SHOWN, 'more image')} in {written.paths[-1]}", "")
    if written.overlays:
        echo(f"{counted(len(written.overlays), 'overlay')} in {out}")
    for path in [*written.paths, *([store] if store else [])]:
        echo(path)


def _which(wanted: str) -> str:
    return f"the {wanted} class" if wanted in ("predicted", TRUE) else wanted


def _class_cell(name: str | None, number: int, probability: float) -> str:
    return f"{name or f'class {number}'} {100 * probability:.0f} %"
