"""`l2a-transfer sanity`: whether maps change when the network does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from l2a_transfer.cli.options import (
    FOLDER,
    PATH,
    SEED,
    Verb,
    device_option,
    option,
    option_group,
)
from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.cli.tables import table_lines, terminal_width

TRAIN = "train"
RUN = "permuted-labels"
"""The folder in --out in which a network is trained on permuted labels."""


@click.command("sanity", cls=Verb)
@click.argument("images", nargs=-1, type=PATH, metavar="[IMAGE|FOLDER…]")
@option_group(
    "Maps",
    option("--model", required=True, help="Bundled name, .safetensors file or untrained:ARCH[@WIDTH]."),
    option(
        "--method",
        metavar="NAME,NAME,…",
        help="Map methods. [default: those of attention, evidence, grad-cam, saliency and guided-backprop that the "
        "network supports]",
    ),
    option("--seed", metavar="N", type=SEED, default=0, show_default=True, help="Random seed."),
)
@option_group(
    "Images",
    option("--data", metavar="DATA", help="Use the test images of this data set, as in extract."),
    option("--data-dir", type=PATH, help="Folder that contains the data set."),
    option("--limit", metavar="N", type=int, default=48, show_default=True, help="Largest number of images."),
    option("--side", metavar="N", type=int, help="Side of the images in pixels. [default: the network's own]"),
)
@option_group(
    "Randomisation",
    option("--seeds", metavar="N", type=int, default=3, show_default=True, help="Number of random networks."),
    option(
        "--cascade/--no-cascade",
        default=True,
        show_default=True,
        help="Randomise parts cumulatively from the logits down.",
    ),
    option("--independent/--no-independent", default=True, show_default=True, help="Randomise one part at a time."),
)
@option_group(
    "Permuted labels",
    option(
        "--labels",
        metavar="WEIGHTS|train",
        help="Also compare with weights trained on permuted labels. train: train them in OUT/permuted-labels, or "
        "resume that run.",
    ),
    option("--labels-data", metavar="DATA", help="Data set to train on. [default: that of the model card]"),
    option(
        "--labels-limit",
        metavar="N",
        type=click.IntRange(min=1),
        help="Number of training images, balanced over the classes. Fewer are memorized sooner. [default: all]",
    ),
    option(
        "--epochs", metavar="N", type=click.IntRange(min=1), help="Training epochs. [default: those of the model card]"
    ),
    device_option("Device of this training."),
)
@option_group(
    "Output",
    option("--out", type=FOLDER, required=True, metavar="DIR", help="Output folder."),
    option("--overwrite/--no-overwrite", default=False, help="Overwrite an earlier result in --out."),
    option("--json", "as_json", is_flag=True, help="Print sanity.json instead of the tables."),
)
@click.pass_obj
def command(obj: dict[str, Any], /, images: tuple[Path, ...], out: Path, **given: Any) -> None:
    """Check that maps change when the network does.

    Parts of the network are randomised: cumulatively from the logits down (cascade), or one at a time (independent).
    The maps are then compared with those of the intact network. A method whose maps hardly change explains the image,
    not the network. Sobel's edge map is always included as a control. Name images or folders, or pass --data.

    \b
    Example:
      l2a-transfer sanity --model vgg-att2-concat-pc.cifar10-w025 --out sanity photos
    """
    if bool(images) == bool(given["data"]):
        raise click.UsageError("name either images or folders, or --data")
    orders = tuple(order for order in ("cascade", "independent") if given[order])
    if not orders and not given["labels"]:
        raise click.UsageError("--no-cascade and --no-independent leave nothing to do without --labels")
    for name in ("labels_data", "labels_limit", "epochs"):
        if given[name] is not None and given["labels"] != TRAIN:
            raise click.UsageError(f"--{name.replace('_', '-')} needs --labels train")
    methods = None if given["method"] is None else _names(given["method"])

    from l2a_transfer.explain.checks.sanity import check_sanity
    from l2a_transfer.files import said_if_complete
    from l2a_transfer.models.loading import load_model
    from l2a_transfer.report.sanity import RESULTS, sanity_folder, write_sanity

    network, card = load_model(given["model"], seed=given["seed"])
    with said_if_complete(out / RESULTS, f"the sanity check in {out}"):
        with sanity_folder(out, overwrite=given["overwrite"]):
            pictures = _pictures(images, card, given)
            labels = _labels(card, out, given, progress=obj["progress"])
            results = check_sanity(
                network,
                card,
                pictures,
                methods=methods,
                seeds=given["seeds"],
                seed=given["seed"],
                orders=orders,
                labels=labels,
                progress=obj["progress"],
            )
            written = write_sanity(results, out)
        if given["as_json"]:
            echo_json(results.document())
            return
        _print(results)
        for path in written:
            echo(path)


def _print(results: Any) -> None:
    from l2a_transfer.explain.checks.results import statements
    from l2a_transfer.report.sanity import overview

    for order in results.orders:
        grid = overview(results, order)
        numbers = [is_number for _, is_number in grid.columns]
        headings = [name for name, _ in grid.columns]
        echo(f"{grid.caption}:", "", *table_lines(headings, grid.rows, numbers=numbers, width=terminal_width()), "")
    if results.labels is not None:
        echo(f"train_accuracy {results.labels.train_accuracy:.4f} on permuted labels (n = {results.labels.n})", "")
    said = [*statements(results), *(f"{method} was left out: {why}" for method, why in results.left_out.items())]
    if said:
        echo(*(f"- {line}" for line in said), "")


def _names(text: str) -> tuple[str, ...]:
    from l2a_transfer.explain.registry import METHODS

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise click.UsageError("--method must be names separated by commas, such as evidence,saliency")
    for name in names:
        METHODS.find(name)
    return names


def _pictures(images: tuple[Path, ...], card: Any, given: dict[str, Any]) -> Any:
    """The images at the size of --side."""
    import dataclasses

    from l2a_transfer.data.readers import open_source
    from l2a_transfer.explain.checks.pictures import pictures_in, pictures_of

    preprocess = card.preprocess
    if given["side"] is not None:
        preprocess = dataclasses.replace(preprocess, size=given["side"])
    if given["data"]:
        source = open_source(given["data"], data_dir=given["data_dir"])
        return pictures_of(source, preprocess, limit=given["limit"])
    return pictures_in(images, preprocess, limit=given["limit"])


def _labels(card: Any, out: Path, given: dict[str, Any], *, progress: bool) -> Any:
    """The network of --labels and its card. With --labels train, it is trained first."""
    from l2a_transfer.models.loading import load_model

    if given["labels"] is None:
        return None
    if given["labels"] != TRAIN:
        return load_model(given["labels"])

    from l2a_transfer.data.readers import open_source
    from l2a_transfer.files import check_own_folder
    from l2a_transfer.training.permuted_labels import train_on_permuted_labels

    check_own_folder(out / RUN)  # training resumes from its checkpoint
    data = given["labels_data"] or card.training.get("data")
    if not data:
        raise click.UsageError(f"--labels train needs --labels-data, because the card of {card.name} names no data set")
    result = train_on_permuted_labels(
        card,
        open_source(data, data_dir=given["data_dir"], limit=given["labels_limit"]),
        out / RUN,
        epochs=given["epochs"],
        seed=given["seed"],
        device=given["device"],
        progress=progress,
    )
    return load_model(result.weights)
