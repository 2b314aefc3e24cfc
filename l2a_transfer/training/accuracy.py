"""What a network reaches on images that it was not fitted on."""

from __future__ import annotations

import torch
from torch import nn

from l2a_transfer.data.loader import choose_workers, pixel_batches
from l2a_transfer.data.sources import ImageSource
from l2a_transfer.devices import ieee_float32
from l2a_transfer.preprocess import Preprocess, normalize


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    source: ImageSource,
    preprocess: Preprocess,
    *,
    batch_size: int = 250,
    workers: int | None = None,
) -> float:
    """Accuracy between 0 and 1 in float32, on the device where the model is, in evaluation mode."""
    device = next(model.parameters()).device
    mean, std = preprocess.statistics(device)
    rows = [range(start, min(start + batch_size, len(source))) for start in range(0, len(source), batch_size)]
    was_training, correct = model.training, 0
    model.eval()
    try:
        decoded = pixel_batches(source, preprocess, rows, workers=choose_workers(len(source), workers))
        with ieee_float32():
            for part, pixels in zip(rows, decoded, strict=True):
                batch = normalize(torch.from_numpy(pixels.images_u8).to(device), mean, std)
                truth = torch.from_numpy(source.labels[part.start : part.stop]).to(device)
                correct += int((model(batch.contiguous(memory_format=torch.channels_last)).argmax(1) == truth).sum())
    finally:
        model.train(was_training)
    return correct / len(source)
