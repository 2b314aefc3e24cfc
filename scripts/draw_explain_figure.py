"""Draw the figure of docs/explain.md: three photographs that ship in the package, explained by six methods.

    python scripts/draw_explain_figure.py --out docs/images/explain.png

The photographs are of Caltech-101 (Li, Andreeto, Ranzato, Perona, doi 10.22002/D1.20086), CC BY 4.0, reduced in size.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from l2a_transfer.data.readers import open_source
from l2a_transfer.explain.dispatch import explain_stream
from l2a_transfer.explain.figures import explain_sheet, sheet_row
from l2a_transfer.explain.painting import Style
from l2a_transfer.explain.question import Asked, Question
from l2a_transfer.files import write_whole
from l2a_transfer.models.loading import load_model

MODEL = "vgg-att2-concat-pc.cifar10-w025"
CLASSES = ("car_side", "helicopter", "elephant")
METHODS = ("attention", "evidence", "grad-cam", "saliency", "occlusion", "sobel")
SIDE = 64


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(out: Path) -> None:
    """Write the figure as PNG."""
    source = open_source("caltech-mini", split="test")
    rows = [int(np.flatnonzero(source.labels == source.classes.index(name))[0]) for name in CLASSES]
    network, card = load_model(MODEL)
    asked = (Asked(source.ids[row], source.image(row)) for row in rows)
    question = Question(METHODS, SIDE, ("L3",), {"occlusion": {"window": 16, "stride": 8}})
    style = Style(dpi=200)
    drawn = [
        sheet_row(np.asarray(one.picture), found, style)
        for one, found in explain_stream(network, card.preprocess, card.classes, asked, question)
    ]
    title = f"{MODEL}; explained: the predicted class. Photographs: Caltech-101, CC BY 4.0"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, explain_sheet(drawn, style, "png", title=title))


if __name__ == "__main__":
    main()
