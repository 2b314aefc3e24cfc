"""`l2a-transfer layers`: the names for `--layer`."""

from __future__ import annotations

import dataclasses

import click

from l2a_transfer.cli.options import (
    Verb,
)
from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.cli.tables import table_lines, terminal_width


@click.command("layers", cls=Verb)
@click.option("--model", required=True, help="A model, as in extract. No weights are loaded or downloaded.")
@click.option(
    "--image-size",
    metavar="N",
    type=click.IntRange(4, 4096),
    help="Side of the input in pixels. [default: the model's own]",
)
@click.option("--json/--text", "as_json", default=False, help="Print a JSON list instead of the table.")
def command(model: str, image_size: int | None, as_json: bool) -> None:
    """List the layers of a network, for extract --layer.

    A name that ends with ":in" stands for the input of a module instead of its output.

    \b
    Example:
      l2a-transfer layers --model torchvision:resnet18
    """
    from l2a_transfer.features.backends.layers import list_layers

    layers = list_layers(model, image_size)
    if as_json:
        echo_json([dataclasses.asdict(layer) for layer in layers], indent=1)
        return
    rows = [
        [
            layer.name + (" (default)" if layer.is_default else ""),
            layer.kind,
            " × ".join(map(str, layer.shape)) if layer.shape else "no tensor",
            f"{layer.parameters:,}",
        ]
        for layer in layers
    ]
    headings = ["layer", "type", "for an image", "parameters"]
    echo(*table_lines(headings, rows, numbers=[False, False, False, True], width=terminal_width()))
