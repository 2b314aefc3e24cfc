"""Completeness of maps: the error of methods whose maps must sum to a known number.

`integrated-gradients` sums to the class's logit minus the logit of its baseline, up to the error of its quadrature.
`evidence` and a constant sum to the logit; if each level has its own classifier, each level's map and constant sum to
that classifier's logit. The mean of `cam` over positions plus the bias equals the logit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import BackendError
from l2a_transfer.explain.registry import METHODS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from l2a_transfer.explain.compute import MapBatch

INTEGRATED, EVIDENCE, CAM = "integrated-gradients", "evidence", "cam"
COMPLETE = (INTEGRATED, EVIDENCE, CAM)
"""Methods whose maps have a defined sum."""


def completeness_errors(
    model: nn.Module, images: Tensor, found: MapBatch, *, options: Mapping[str, Any] | None = None
) -> NDArray[np.float64]:
    """The difference between the sum of maps and the sum that their method defines.

    Parameters
    ----------
    model : nn.Module
        The network of the maps. It is not changed.
    images : Tensor (B, 3, H, W)
        The same normalised images as for the maps, on the device of the model.
    found : MapBatch
        The result of `map_batch`. Levels of `evidence` that it lacks are computed.
    options : mapping, optional
        The options that the maps were computed with.

    Returns
    -------
    ndarray of float64 (B,)
        The absolute error in units of the logit; if several maps have a defined sum, the largest error.

    Raises
    ------
    BackendError
        For a method without a defined sum; see `COMPLETE`.

    Examples
    --------
    >>> import torch
    >>> from l2a_transfer.explain.compute import map_batch
    >>> from l2a_transfer.models.loading import load_model
    >>> network, card = load_model("untrained:vgg-att2-concat-pc@0.0625")
    >>> images = torch.zeros(2, 3, 32, 32)
    >>> errors = completeness_errors(network, images, map_batch(network, images, method="evidence"))
    >>> errors.shape, bool((errors < 1e-5).all())
    ((2,), True)
    """
    import torch

    from l2a_transfer.models.copies import in_evaluation

    if found.method not in COMPLETE:
        raise BackendError(f"the maps of {found.method} have no defined sum", f"use {', '.join(COMPLETE)}")
    assert found.targets is not None
    model, targets = in_evaluation(model), torch.from_numpy(found.targets).to(images.device)
    with torch.no_grad():
        if found.method == INTEGRATED:
            defaults = METHODS.find(INTEGRATED).options
            baseline = torch.full_like(images, float({**defaults, **(options or {})}["baseline"]))
            wanted = {name: _logit(model, images, targets) - _logit(model, baseline, targets) for name in found.maps}
            sums = _sums(found)
        elif found.method == EVIDENCE:
            sums, wanted = _evidence(model, images, found, targets)
        else:
            sums, wanted = _cam(model, images, found, targets)
    errors = torch.stack([(sums[name] - wanted[name].double().cpu()).abs() for name in sums])  # (maps, B)
    largest: NDArray[np.float64] = errors.amax(dim=0).numpy()
    return largest


def _logit(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    logits: Tensor = model(images)
    return logits.gather(1, targets[:, None])[:, 0]


def _sums(found: MapBatch) -> dict[str, torch.Tensor]:
    """Map → its sum over positions, float64 (B,)."""
    import torch

    return {name: torch.from_numpy(values).double().sum(dim=(1, 2)) for name, values in found.maps.items()}


def _evidence(
    model: nn.Module, images: Tensor, found: MapBatch, targets: Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The actual sums of maps and constants, and the expected ones: of each level, or of all together."""
    import torch

    from l2a_transfer.explain.compute import map_batch
    from l2a_transfer.explain.layers import attended
    from l2a_transfer.models.interface import Network

    seen = attended(model, images)
    assert isinstance(model, Network)
    constants = {level: value.double().cpu() for level, value in model.evidence(seen, targets).constants.items()}
    if model.config.spec.head == "indep":
        classifiers = zip(model.classifiers, seen.g_a_bn_relu.items(), strict=True)  # type: ignore[arg-type]
        wanted = {level: _own(classifier(value), targets) for classifier, (level, value) in classifiers}
        sums = {level: value + constants[level] for level, value in _sums(found).items()}
        return sums, {level: wanted[level] for level in sums}
    if not set(constants) <= set(found.maps):
        found = map_batch(model, images, method=EVIDENCE, targets=targets)
    sums = _sums(found)
    total = torch.stack([sums[level] + constant for level, constant in constants.items()]).sum(dim=0)
    return {"all": total}, {"all": _own(seen.logits, targets)}


def _cam(
    model: nn.Module, images: Tensor, found: MapBatch, targets: Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The mean of the map and the bias, and the logit."""
    from l2a_transfer.explain.methods.cam import last_linear

    linear = last_linear(model, images)
    bias = 0.0 if linear.bias is None else linear.bias[targets].double().cpu()
    sums = {name: value / found.maps[name][0].size + bias for name, value in _sums(found).items()}
    return sums, dict.fromkeys(sums, _logit(model, images, targets))


def _own(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(1, targets[:, None])[:, 0]
