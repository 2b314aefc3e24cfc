"""Accuracy of a network on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from l2a_transfer.data.loader import choose_workers, pixel_batches
from l2a_transfer.data.sources import ImageSource
from l2a_transfer.devices import ieee_float32
from l2a_transfer.features.extraction.partners import SEED, partner_rows
from l2a_transfer.models.interface import Network
from l2a_transfer.models.selection import Sampling
from l2a_transfer.preprocess import Preprocess, normalize
from l2a_transfer.training.data import TrainingData


def measure(
    network: Network,
    data: TrainingData,
    preprocess: Preprocess,
    *,
    sampling: Sampling | None = None,
    workers: int | None = None,
) -> dict[str, dict[str, float]]:
    """The metrics of a network on the test images, as recorded in its card: name → value, n and seeds.

    A network with partners is evaluated twice: with each image as its own partner, and as NAME_set_partners with those
    that `extract` would draw from the set (if it has enough images). Neither uses labels of test images. A hard
    network, which reads its best positions, is also evaluated as NAME_sampled, NAME_expected and NAME_soft, with the
    settings of `sampling`: by one draw, by the mean class probability of several draws, and with soft weights.
    """
    n, k = len(data.test), network.partners
    with_partners: dict[str, NDArray[np.int64] | None] = {data.test_metric: None}
    if 0 < k < n:
        with_partners[f"{data.test_metric}_set_partners"] = partner_rows(data.test.ids, k, SEED)
    readouts = network.config.family.readouts(network, sampling or Sampling())
    again = len(with_partners) + len(readouts) > 1
    pixels = data.test_pixels(preprocess, workers=workers, again=again)
    found = {
        name: evaluate(network, data.test, preprocess, workers=workers, partners=own, pixels=pixels)
        for name, own in with_partners.items()
    }
    for name, readout in readouts.items():
        key = f"{data.test_metric}_{name}"
        found[key] = evaluate(readout, data.test, preprocess, workers=workers, pixels=pixels)
    return {name: {"value": value, "n": n, "seeds": 1} for name, value in found.items()}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    source: ImageSource,
    preprocess: Preprocess,
    *,
    batch_size: int = 250,
    workers: int | None = None,
    partners: NDArray[np.int64] | None = None,
    pixels: NDArray[np.uint8] | None = None,
) -> float:
    """Accuracy between 0 and 1, computed in float32 and evaluation mode on the model's device.

    With k partners, the row of an image in `partners` (N, k) gives its partners; by default, each image is its own.
    `pixels`: the resized pictures, uint8 (N, 3, size, size), if they are already decoded.
    """
    own = np.arange(len(source))[:, None]
    members = own if partners is None else np.hstack([own, partners])  # (N, 1 + k)
    device = next(model.parameters()).device
    mean, std = preprocess.statistics(device)
    parts = [slice(start, min(start + batch_size, len(source))) for start in range(0, len(source), batch_size)]
    was_training, correct = model.training, 0
    model.eval()
    try:
        rows = [members[part].reshape(-1) for part in parts]
        decoded: Iterator[NDArray[np.uint8]]
        if pixels is not None:
            decoded = (pixels[own] for own in rows)
        else:
            streamed = pixel_batches(source, preprocess, rows, workers=choose_workers(len(source), workers))
            decoded = (found.images_u8 for found in streamed)
        with ieee_float32():
            for part, images_u8 in zip(parts, decoded, strict=True):
                batch = normalize(torch.from_numpy(images_u8).to(device), mean, std)
                truth = torch.from_numpy(source.labels[part]).to(device)
                groups = batch.reshape(len(truth), -1, *batch.shape[1:])  # (B, 1 + k, 3, H, W)
                images = groups[:, 0].contiguous(memory_format=torch.channels_last)
                logits = model(images) if partners is None else model(images, groups[:, 1:])
                correct += int((logits.argmax(1) == truth).sum())
    finally:
        model.train(was_training)
    return correct / len(source)
