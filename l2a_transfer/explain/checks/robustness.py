"""Which images a network still classifies correctly under attack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from l2a_transfer.errors import ArgumentError, unknown_name
from l2a_transfer.explain.checks.attacks import ATTACKS, FGSM, LEVELS, NOISE, AttackConfig
from l2a_transfer.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn

CLEAN = "clean"
Setting = tuple[str, float]
"""An attack and its ε in 1/255; (CLEAN, 0.0) is no attack."""


@dataclass(frozen=True)
class Attacked:
    """Results for N images under attack.

    Parameters
    ----------
    right : dict of (str, float) to ndarray
        (attack, ε) → whether each image is classified correctly, bool (N,), in the order of `settings`.
    flat : ndarray of bool (N,)
        Whether the gradient of the unchanged image is 0 in every pixel, so that gradient attacks cannot start.
    """

    right: dict[Setting, NDArray[np.bool_]] = field(repr=False)
    flat: NDArray[np.bool_] = field(repr=False)


def settings(epsilons: Sequence[float], attacks: Sequence[str] = ATTACKS) -> tuple[Setting, ...]:
    """No attack, then each attack at each ε, and the noise at each ε.

    Raises
    ------
    UnknownNameError
        For an unknown attack.
    ArgumentError
        If there is no attack or no ε, a duplicate, or an ε out of range.

    Examples
    --------
    >>> settings([1, 2], ["fgsm"])
    (('clean', 0.0), ('fgsm', 1.0), ('fgsm', 2.0), ('noise', 1.0), ('noise', 2.0))
    """
    for name in attacks:
        if name not in ATTACKS:
            raise unknown_name("attack", name, ATTACKS)
    if not attacks or len(set(attacks)) < len(attacks):
        raise ArgumentError(f"attack must be one or more different names of {', '.join(ATTACKS)}; got {list(attacks)}")
    found = tuple(float(epsilon) for epsilon in epsilons)
    if not found or len(set(found)) < len(found) or not all(0 < epsilon <= LEVELS for epsilon in found):
        raise ArgumentError(
            "epsilon must be different numbers above 0 and at most 255, in units of 1/255, such as 1,2,4; "
            f"got {list(epsilons)}"
        )
    return ((CLEAN, 0.0), *((name, epsilon) for name in (*attacks, NOISE) for epsilon in sorted(found)))


def under_attack(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    epsilons: Sequence[float],
    attacks: Sequence[str] = ATTACKS,
    preprocess: Preprocess | None = None,
    config: AttackConfig | None = None,
) -> Attacked:
    """Whether each image is classified correctly: unchanged, under each attack at each ε, and with noise of each ε.

    Parameters
    ----------
    model : nn.Module
        Any module that returns logits (B, K) for normalised images. It is attacked in evaluation mode, and not changed.
    batches : iterable of (Tensor, Tensor)
        Images (B, 3, H, W), uint8 from 0 to 255 or floating point from 0 to 1, and the true class of each, int64 (B,);
        on the device of the model. A batch that does not fit into memory is split.
    epsilons : sequence of float
        The largest changes of a pixel, in 1/255.
    attacks : sequence of str, default=("fgsm", "pgd")
        See `attacks.attack`.
    preprocess : Preprocess, optional
        Preprocessing of the network, for its mean and standard deviation; by default that of CIFAR-10.
    config : AttackConfig, optional
        Settings of the attacks.

    Returns
    -------
    Attacked

    Raises
    ------
    UnknownNameError, ArgumentError, BackendError
        As `settings` and `attacks.attack`.

    Examples
    --------
    >>> import torch
    >>> from l2a_transfer.models.loading import load_model
    >>> network, card = load_model("untrained:vgg-att2-concat-pc@0.0625")
    >>> batch = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 2, 3])
    >>> found = under_attack(network, [batch], epsilons=[2], attacks=["fgsm"], preprocess=card.preprocess)
    >>> {setting: right.shape for setting, right in found.right.items()}
    {('clean', 0.0): (4,), ('fgsm', 2.0): (4,), ('noise', 2.0): (4,)}
    """
    import torch

    from l2a_transfer.devices import ieee_float32
    from l2a_transfer.explain.checks.attacks import attack, gradient, one_step
    from l2a_transfer.explain.compute import split_to_fit
    from l2a_transfer.models.copies import in_evaluation
    from l2a_transfer.preprocess import normalize

    wanted = settings(epsilons, attacks)
    preprocess, config, model = preprocess or Preprocess(), config or AttackConfig(), in_evaluation(model)

    def compute(images: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        assert labels is not None
        pixels = images.float() / LEVELS if images.dtype == torch.uint8 else images
        first = gradient(model, pixels, labels, preprocess=preprocess)
        flat = (first == 0).flatten(1).all(dim=1)
        right = []
        for name, epsilon in wanted:
            if name == CLEAN:
                changed = pixels
            elif name == FGSM:
                changed = one_step(pixels, first, epsilon=epsilon)  # all ε share this gradient
            else:
                changed = attack(
                    model, pixels, labels, epsilon=epsilon, method=name, preprocess=preprocess, config=config
                )
            with torch.no_grad():
                logits = model(normalize(changed, *preprocess.statistics(changed.device)))
            right.append(logits.argmax(dim=1) == labels)
        return {"right": torch.stack(right, dim=1).cpu(), "flat": flat.cpu()}  # (B, settings), (B,)

    with ieee_float32():
        found = [split_to_fit(compute, images, labels, model=model, gradients=True) for images, labels in batches]
    if not found:
        raise ArgumentError("batches must contain at least one image")
    every = torch.cat([one["right"] for one in found]).numpy()
    flat = torch.cat([one["flat"] for one in found]).numpy()
    return Attacked({setting: every[:, k] for k, setting in enumerate(wanted)}, flat)
