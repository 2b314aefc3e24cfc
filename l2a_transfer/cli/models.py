"""`l2a-transfer models`: the networks that there are."""

from __future__ import annotations

import click

from l2a_transfer.cli.options import Verb
from l2a_transfer.cli.output import echo, echo_json
from l2a_transfer.wording import counted


@click.command("models", cls=Verb)
@click.option("--json/--text", "as_json", default=False, help="One JSON list.")
def command(as_json: bool) -> None:
    """List the weights that ship with the package, and the architectures that can be trained or used untrained.

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
    echo("Pretrained, for --model:")
    for card in cards:
        accuracy = card.metrics["test_accuracy"]
        echo(
            f"  {card.name:<40} {card.parameters:>9,} parameters  {card.training['data']} test accuracy "
            f"{100 * accuracy['value']:.2f} % (n = {accuracy['n']:,}, {counted(accuracy['seeds'], 'seed')})"
        )
    echo(
        "", f"Architectures, for train, and for --model as untrained:ARCH[@WIDTH]; width {DEFAULT_WIDTH:g} by default:"
    )
    for name, spec in ARCHITECTURES.items():
        echo(f"  {name:<28} {'features of ' + ', '.join(spec.levels) if spec.levels else 'pooled last features'}")
