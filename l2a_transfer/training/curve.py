"""The learning curve as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from l2a_transfer.drawing import legible, plain_texts


@plain_texts()
def learning_curve(rows: Sequence[dict[str, Any]], title: str) -> bytes:
    """A PNG of loss and accuracy by epoch, from the rows of `metrics.jsonl`.

    Training accuracy is on augmented images, in training mode. If there is a test or validation accuracy, it has its
    own line. Dotted lines mark changes of the image size.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) < 40 else None
    left.plot(epochs, [row["train_loss"] for row in rows], marker=marker, markersize=3, color="tab:blue")
    left.set_ylabel("training loss")
    right.plot(
        epochs,
        [100 * row["train_accuracy"] for row in rows],
        marker=marker,
        markersize=3,
        color="tab:blue",
        label="training, augmented",
    )
    measured = sorted({key for row in rows for key in row if key.endswith("_accuracy") and key != "train_accuracy"})
    for key, colour in zip(measured, ("tab:orange", "tab:green", "tab:red"), strict=False):
        own = [row for row in rows if key in row]
        at, values = [row["epoch"] for row in own], [100 * row[key] for row in own]
        right.plot(at, values, "s-", markersize=3, color=colour, label=legible(key.removesuffix("_accuracy")))
    right.set_ylabel("accuracy, %")
    right.legend(fontsize=8, frameon=False)
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        for before, row in pairwise(rows):
            if before["resolution"] != row["resolution"]:
                at = (before["epoch"] + row["epoch"]) / 2
                axis.axvline(at, color="grey", linestyle=":", linewidth=1)
                axis.annotate(
                    f"{row['resolution']} px",
                    (at, 1),
                    xycoords=("data", "axes fraction"),
                    fontsize=7,
                    xytext=(2, -8),
                    textcoords="offset points",
                    color="grey",
                )
    figure.suptitle(legible(title), fontsize=10)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()
