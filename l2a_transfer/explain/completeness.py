"""The difference between the sum of maps and the score that it should equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.explain.compute import MapBatch, split_to_fit
from l2a_transfer.explain.registry import METHODS

if TYPE_CHECKING:
    from torch import Tensor, nn

TOTAL = "all levels and their constants"


def completeness_errors(
    model: nn.Module, images: Tensor, found: MapBatch, options: Mapping[str, Any] | None = None
) -> NDArray[np.float64] | None:
    """The difference between the sum of each image's maps and its expected value.

    Integrated gradients must sum to the change of the class's logit from the baseline, and evidence with its constants
    to the logit. If each level has its own classifier, evidence must sum to each level's logit, and the largest
    difference is returned.

    Parameters
    ----------
    model : nn.Module
        The network of the maps, in evaluation mode.
    images : Tensor (B, 3, H, W)
        The normalised images given to `map_batch`.
    found : MapBatch
        Its result.
    options : mapping, optional
        The options given to `map_batch`.

    Returns
    -------
    ndarray or None
        (B,), in units of the logit, 0 or more. None for a method without a defined sum, and if `found` lacks maps of
        the sum.
    """
    import torch

    if found.targets is None or found.method not in ("evidence", "integrated-gradients"):
        return None
    sums = {name: values.sum(axis=(1, 2), dtype=np.float64) for name, values in found.maps.items()}

    def promised(some: Tensor, of: Tensor | None) -> dict[str, Tensor]:
        assert of is not None
        with torch.no_grad():
            if found.method == "evidence":
                return _promised_of_evidence(model, some, of)
            baseline = torch.full_like(some[:1], _baseline(found.method, options))
            return {"pixels": class_logits(model(some), of) - class_logits(model(baseline).expand(len(of), -1), of)}

    targets = torch.as_tensor(found.targets, device=images.device)
    scores = {
        name: values.cpu().numpy() for name, values in split_to_fit(promised, images, targets, model=model).items()
    }
    if TOTAL in scores:
        levels = [name for name in scores if name != TOTAL]
        sums[TOTAL] = np.asarray(sum(sums[name] + scores.pop(name) for name in levels if name in sums))
        if set(levels) - set(sums):
            return None
    if set(scores) - set(sums):
        return None
    errors = np.stack([np.abs(sums[name] - score) for name, score in scores.items()])  # (promises, B)
    return np.asarray(errors.max(axis=0))


def _promised_of_evidence(model: Any, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The expected sum of each level's map (with one classifier, the logit under `TOTAL`), and each level's
    constant."""
    found = model.attend(images)
    constants = {level: values.double() for level, values in model.evidence(found, targets).constants.items()}
    if model.config.spec.head != "indep":
        return {TOTAL: class_logits(found.logits, targets), **constants}
    return {
        level: class_logits(classifier(seen), targets) - constants[level]
        for classifier, (level, seen) in zip(model.classifiers, found.g_a_bn_relu.items(), strict=True)
    }


def _baseline(method: str, options: Mapping[str, Any] | None) -> float:
    spec = METHODS.find(method)
    return float({**spec.options, **spec.checked_options(dict(options or {}))}["baseline"])


def class_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The logit of each image's class, (B,), float64."""
    return logits.gather(1, targets[:, None])[:, 0].double()
