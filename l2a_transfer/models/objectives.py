"""Training objectives: cross-entropy, or a family's own loss.

Shapes: B images, H × W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2a_transfer.errors import ArgumentError


@dataclass
class StepLoss:
    """The results of one training step.

    Parameters
    ----------
    loss : Tensor ()
        The loss to minimise, float32.
    logits : Tensor (B, K)
        Logits for the training accuracy.
    metrics : dict of str to Tensor ()
        Other numbers; the mean of each over the epoch is logged as `train_NAME`. Every step must have the same names.

    Raises
    ------
    ValueError
        If a metric is called loss or accuracy, which are always logged.
    """

    loss: Tensor
    logits: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if taken := {"loss", "accuracy"} & set(self.metrics):
            raise ArgumentError(f"metrics must not be called {sorted(taken)[0]!r}, which is always logged")


class Objective(Protocol):
    """A loss for the networks of a family; `Family.objective` creates it."""

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, *, generator: torch.Generator, progress: Tensor
    ) -> StepLoss:
        """Compute the loss of one batch.

        Called within autocast if the run's precision is bf16, so convert logits to float32 before a loss is computed.

        Parameters
        ----------
        network : Network
            The network, in training mode; any of its methods may be called.
        images : Tensor (B, 3, H, W)
            float32, normalised. If the family has k partners, consecutive groups of 1 + k images of one class, as for
            `Network.attend_group`.
        labels : Tensor (B,)
            int64 class numbers.
        generator : torch.Generator
            On the device of the images, seeded from the run's seed, the step and the process. All sampling must draw
            from it, so that runs can be repeated and resumed.
        progress : Tensor ()
            The fraction of the run's steps that came before this one, at least 0 and below 1.

        Returns
        -------
        StepLoss
        """


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the logits in nats, with label smoothing; the default objective.

    Parameters
    ----------
    label_smoothing : float
        ε in [0, 1): targets are 1 − ε + ε/K for the image's class and ε/K for the others.
    """

    label_smoothing: float = 0.0

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, *, generator: torch.Generator, progress: Tensor
    ) -> StepLoss:
        # The logits of an indep head are log-probabilities already; a second log_softmax does not change them.
        logits = network(images).float()  # (B, K)
        return StepLoss(F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing), logits)


@dataclass(frozen=True)
class GroupCrossEntropy:
    """`CrossEntropy` for networks with partners: each image is attended with the others of its group.

    Parameters
    ----------
    label_smoothing : float
        As for `CrossEntropy`.
    """

    label_smoothing: float = 0.0

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, *, generator: torch.Generator, progress: Tensor
    ) -> StepLoss:
        logits = network.attend_group(images).logits.float()  # type: ignore[operator]
        return StepLoss(F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing), logits)
