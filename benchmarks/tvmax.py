"""Speed of TVmax compared with one image at a time, and its cost in a training step compared with softmax.

The reference follows the authors' description (Martins et al. 2020), implemented here in Python and NumPy: for each
image separately, up to 35 sweeps over rows and columns that stop at a change of 0.01, and a gradient by groups of
neighbours that agree to one decimal. Ours processes all images at once, to a duality gap of 1e-12, and derives groups
from the dual. Scores are drawn from a normal distribution, or are those that the trained network of the zoo gives to
pictures of caltech-mini, whose spread is smaller.

    python benchmarks/tvmax.py --out benchmarks/results/tvmax.json
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from provenance import provenance

from l2a_transfer.data.loader import pixel_batches
from l2a_transfer.data.readers import open_source
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.total_variation import project_to_simplex, tvmax
from l2a_transfer.preprocess import normalize
from l2a_transfer.training.recipe import RECIPES
from l2a_transfer.training.requirements import objective_of

SHAPES = ((128, 8, 8), (128, 16, 16))
WEIGHTS = (0.01, 0.1, 1.0)
ARCHITECTURE, WIDTH, BATCH, SIZE = "vgg-att2-concat-pc", 0.25, 128, 32
TRAINED = {
    "softmax": "vgg-att2-concat-pc.cifar10-w012.fast.seed-0",
    "tvmax:0.1": "vgg-att2-concat-pc-tvmax-0.1.cifar10-w012.fast.seed-0",
}
ZOO = Path(__file__).parent / "zoo"
SWEEPS, CHANGE = 35, 1e-2


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON to write.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Of each pair of times.")
@click.option("--images", type=click.IntRange(min=1), default=BATCH, show_default=True, help="Fewer for a trial.")
def main(out: Path, rounds: int, images: int) -> None:
    document = {
        "schema": "l2a-benchmark/1",
        "what": "seconds of TVmax forward and backward on normal scores, for a batch, beside the reference scheme of "
        "one image at a time; and of a training step with tvmax:0.1 over one with softmax; medians of paired rounds",
        **provenance(shlex.join(["python", *sys.argv])),
        "rounds": rounds,
        "batch": [
            compared(torch.randn(images, *shape[1:], generator=torch.Generator().manual_seed(0)), weight, rounds)
            for shape in SHAPES
            for weight in WEIGHTS
        ],
        "batch_trained": [compared(scores, 0.1, rounds) for scores in trained_scores(images)],
        "step": steps(images, rounds),
        "step_trained": steps(images, rounds, trained=True),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(out)


def trained_scores(images: int) -> list[torch.Tensor]:
    """The scores (B, H, W) of the trained network at L3 and L2, on the first pictures of caltech-mini."""
    network, card = load_model(ZOO / f"{TRAINED['tvmax:0.1']}.safetensors")
    model: Any = network.eval()
    with torch.no_grad():
        local = model.local_features(pictures(images, card))
        scored = model.scored(local)
    return [scored[level].scores.view(images, *local[level].shape[2:]).contiguous() for level in ("L3", "L2")]


def compared(scores: torch.Tensor, weight: float, rounds: int) -> dict[str, Any]:
    """Seconds of both on scores (B, H, W), and the difference between their weights."""
    shape = scores.shape
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def ours() -> torch.Tensor:
        own = scores.clone().requires_grad_()
        weights = tvmax(own, weight)
        weights.backward(gradient)  # type: ignore[no-untyped-call]
        return weights.detach()

    ours()
    times: dict[str, list[float]] = {"ours": [], "reference": []}
    for _ in range(rounds):
        expected = timed(times["ours"], ours)
        found = timed(times["reference"], lambda: reference(scores.double().numpy(), gradient.double().numpy(), weight))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    row = {
        "shape": list(shape),
        "scores_std": round(float(scores.std()), 3),
        "lambda": weight,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "all_seconds": {name: [round(value, 4) for value in values] for name, values in times.items()},
        "times_as_fast": round(seconds["reference"] / seconds["ours"], 1),
        "largest_difference": float(np.abs(found - expected.numpy()).max()),
    }
    print(row["shape"], weight, row["seconds"], row["times_as_fast"], file=sys.stderr)
    return row


def steps(images: int, rounds: int, *, trained: bool = False) -> dict[str, Any]:
    """Seconds of a step (forward, loss and backward) by normalizer: of new networks, or of trained ones on pictures."""
    recipe = RECIPES["fast"]
    pixels = torch.randn(images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(images) % 10
    runs: dict[str, Callable[[], None]] = {}
    for normalizer, stem in TRAINED.items():
        config = ModelConfig(ARCHITECTURE, width=WIDTH, normalizer=normalizer, dropout=0.0)
        model: Any = build_model(config, seed=0)
        if trained:
            model, card = load_model(ZOO / f"{stem}.safetensors")
            config, pixels = model.config, pictures(images, card)
        model = model.train().to(memory_format=torch.channels_last)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        objective = objective_of(config, recipe)

        def run(model: Any = model, objective: Any = objective, pixels: torch.Tensor = pixels) -> None:
            model.zero_grad()
            generator, progress = torch.Generator().manual_seed(0), torch.zeros(())
            objective.loss(model, pixels, labels, generator=generator, progress=progress).loss.backward()

        run()
        runs[normalizer] = run
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            timed(times[name], run)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    ratios = [other / one for one, other in zip(times["softmax"], times["tvmax:0.1"], strict=True)]
    print(seconds, statistics.median(ratios), file=sys.stderr)
    return {
        "architecture": ARCHITECTURE,
        "width": config.width,
        "images": images,
        "size": SIZE,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "over_softmax": round(statistics.median(ratios), 3),
        "all_over_softmax": [round(value, 3) for value in ratios],
    }


def pictures(images: int, card: Any) -> torch.Tensor:
    """The first pictures of caltech-mini as a network's normalised input (B, 3, 32, 32)."""
    (batch,) = pixel_batches(open_source("caltech-mini"), card.preprocess, [range(images)])
    return normalize(torch.from_numpy(batch.images_u8), *card.preprocess.statistics())


def timed(times: list[float], call: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    found = call()
    times.append(time.perf_counter() - began)
    return found


def reference(scores: NDArray[np.float64], gradient: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """Weights of each image, one after the other; the gradient is also computed, for its time."""
    found = np.empty_like(scores)
    for k, (image, own) in enumerate(zip(scores, gradient, strict=True)):
        smooth = sweeps(image, weight)
        found[k] = (
            project_to_simplex(torch.from_numpy(np.ascontiguousarray(smooth)).view(1, -1)).view(image.shape).numpy()
        )
        on = found[k] > 0
        through = np.where(on, own - own[on].mean(), 0)
        for group in groups(np.round(smooth, 1)):
            through.flat[group] = through.flat[group].mean()
    return found


def sweeps(image: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """Total variation of rows and columns, alternating (Dykstra's splitting)."""
    x = image.copy()
    p, q = np.zeros_like(x), np.zeros_like(x)
    for _ in range(SWEEPS):
        rows = np.stack([line_denoised(line, weight) for line in x + p])
        p += x - rows
        new = np.stack([line_denoised(line, weight) for line in (rows + q).T]).T
        q += rows - new
        change, x = np.abs(new - x).max(), new
        if change < CHANGE:
            break
    return x


def line_denoised(line: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """`argmin_y ½‖y − z‖² + λ Σ |y_i − y_{i+1}|` of one line, by its taut string (Davies & Kovac 2001)."""
    n, sums = len(line), [0.0, *np.cumsum(line).tolist()]
    lower, upper = [value - weight for value in sums], [value + weight for value in sums]
    lower[n] = upper[n] = sums[n]
    found, start, at = np.empty(n), 0, 0.0
    while start < n:
        low, high, i_low, i_high = -np.inf, np.inf, start, start
        for j in range(start + 1, n + 1):
            a, b = (lower[j] - at) / (j - start), (upper[j] - at) / (j - start)
            if a > high:
                found[start:i_high], start, at = high, i_high, upper[i_high]
                break
            if b < low:
                found[start:i_low], start, at = low, i_low, lower[i_low]
                break
            if a >= low:
                low, i_low = a, j
            if b <= high:
                high, i_high = b, j
        else:
            found[start:n], start = (sums[n] - at) / (n - start), n
    return found


def groups(values: NDArray[np.float64]) -> list[list[int]]:
    """Flat positions of each connected group of equal values."""
    H, W = values.shape
    left, found = set(range(H * W)), []
    while left:
        group, edge = [], [left.pop()]
        while edge:
            at = edge.pop()
            group.append(at)
            i, j = divmod(at, W)
            for other in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                flat = other[0] * W + other[1]
                if 0 <= other[0] < H and 0 <= other[1] < W and flat in left and values.flat[flat] == values.flat[at]:
                    left.discard(flat)
                    edge.append(flat)
        found.append(group)
    return found


if __name__ == "__main__":
    main()
