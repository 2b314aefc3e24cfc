"""`l2a-transfer models`: bundled weights and architectures."""

from __future__ import annotations

import click

from l2a_transfer.cli.options import (
    Verb,
)
from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.cli.tables import table_lines, terminal_width
from l2a_transfer.wording import counted


@click.command("models", cls=Verb)
@click.option("--json/--text", "as_json", default=False, help="Print a JSON list instead of the tables.")
def command(as_json: bool) -> None:
    """List bundled weights and architectures.

    \b
    Example:
      l2a-transfer models --json
    """
    from l2a_transfer.models.config import ARCHITECTURES, DEFAULT_WIDTH
    from l2a_transfer.models.weights import PRETRAINED, pretrained_names, read_card

    cards = [read_card(PRETRAINED / f"{name}.safetensors") for name in pretrained_names()]
    if as_json:
        rows = [{**card.to_json(), "pretrained": True} for card in cards]
        rows += [
            {"name": name, "pretrained": False, "family": spec.family, "levels": list(spec.levels)}
            for name, spec in ARCHITECTURES.items()
        ]
        echo_json(rows, indent=1)
        return
    width = terminal_width()
    metrics = [card.metrics["test_accuracy"] for card in cards]
    pretrained = [
        [
            card.name,
            f"{card.parameters:,}",
            str(card.training["data"]) + (", labels permuted" if "permuted_labels" in card.training else ""),
            f"{100 * accuracy['value']:.2f} % (n = {accuracy['n']:,}, {counted(accuracy['seeds'], 'seed')})",
        ]
        for card, accuracy in zip(cards, metrics, strict=True)
    ]
    echo("Pretrained weights, for --model:", "")
    headings = ["name", "parameters", "trained on", "test accuracy"]
    echo(*table_lines(headings, pretrained, numbers=[False, True, False, False], width=width))
    architectures = [
        [name, ", ".join(spec.levels) if spec.levels else "last pooled features"]
        for name, spec in ARCHITECTURES.items()
    ]
    default = f"width {DEFAULT_WIDTH:g} by default"
    echo("", f"Architectures, for train, and for --model as untrained:ARCH[@WIDTH]; {default}:", "")
    echo(*table_lines(["name", "features"], architectures, width=width))
