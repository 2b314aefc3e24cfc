"""What every network is: `model(images)` gives logits, `model.attend(images)` everything that it found.

Shapes: B images, k partners of each, H × W pixels, K classes, D the width of the transfer feature.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from l2a_transfer.errors import ArgumentError, BackendError
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.parts import Parts, default_parts
from l2a_transfer.preprocess import Preprocess


@dataclass(frozen=True)
class Attended:
    """What a network says of a batch: logits, the attended features and where it looked.

    Parameters
    ----------
    logits : Tensor (B, K)
        Class scores.
    g_a, g_a_bn_relu : dict of str to Tensor (B, D_level)
        Level → attended feature, raw and as the classifier sees it, in the order of `config.feature_levels`. Networks
        without attention have one level.
    maps : dict of str to Tensor (B, H, W)
        Map name → weights between 0 and 1, in the order of `config.maps`, which says the level and the kind of each.
        Empty for networks without attention.
    local : dict of str to Tensor (B, C, H, W)
        Level → local features: the outputs of conv7 (L1), conv10 (L2) and conv13 (L3) after the ReLU, whether the
        classifier reads them or not. Empty for a family that does not give them; a family may add others.
    """

    logits: Tensor
    g_a: dict[str, Tensor]
    g_a_bn_relu: dict[str, Tensor]
    maps: dict[str, Tensor]
    local: dict[str, Tensor] = field(default_factory=dict)

    @property
    def features(self) -> Tensor:
        """The concatenated g_a, (B, D)."""
        return torch.cat(list(self.g_a.values()), dim=1)

    def __repr__(self) -> str:
        g_a, maps = (
            ", ".join(f"{name} {tuple(values.shape)}" for name, values in found.items()) or "none"
            for found in (self.g_a, self.maps)
        )
        return f"<Attended: logits {tuple(self.logits.shape)}; g_a {g_a}; maps {maps}>"


@dataclass(frozen=True)
class Evidence:
    """What each position adds to the score of one class an image, exactly.

    Parameters
    ----------
    maps : dict of str to Tensor (B, H, W)
        Level → signed contributions.
    constants : dict of str to Tensor (B,)
        Level → the part of the score that belongs to no position: biases and shifts of the batch norm.

    Notes
    -----
    Where one classifier reads all levels, the sums of all maps and constants are the class's logit. Where each level
    has its own classifier, a level's map and constant sum to the logit of that level's classifier.
    """

    maps: dict[str, Tensor]
    constants: dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One step from the image to the local features: a 3 × 3 convolution with what follows it, or a 2 × 2 max pool.

    Parameters
    ----------
    block : nn.Sequential or None
        A `Conv2d` with a border of one pixel, then layers that treat each position by itself; None for a pool.
    level : str, default=""
        The level whose local features are the output.
    """

    block: nn.Sequential | None
    level: str = ""


class Network(nn.Module):
    """Base of the networks: `model(images)` gives logits, `model.attend(images)` everything.

    Parameters
    ----------
    config : ModelConfig
        What it was built from; kept as `config`.

    Notes
    -----
    In evaluation mode the outputs of an image depend on nothing but the image, its partners and the weights. Networks
    of most families take no partners.
    """

    preprocess: Preprocess = Preprocess()
    """How pictures become its input; weights bring their own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.partners = config.partners

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        """Logits, attended features and maps.

        Parameters
        ----------
        images : Tensor (B, 3, H, W)
            float32, normalised by the model's Preprocess; H and W are at least `config.min_size` pixels.
        partners : Tensor (B, k, 3, H, W), optional
            The k = `config.partners` images that each image is attended with, normalised likewise; None where k is 0.

        Returns
        -------
        Attended

        Raises
        ------
        ArgumentError
            For partners that are missing, not wanted, or of another shape; see `check_partners`.
        """
        raise TypeError("Network is abstract; build one with build_model(config)")

    def attend_group(self, images: Tensor) -> Attended:
        """Each image attended with the others of its group, as in training.

        Parameters
        ----------
        images : Tensor (B, 3, H, W)
            Groups of 1 + k images, one after the other, normalised. The partners of an image are the k that follow it
            in its group, in a circle. Where k is 0 this is `attend`.

        Returns
        -------
        Attended
            Of all images, in their order.

        Raises
        ------
        ArgumentError
            Where the images are no whole groups.
        """
        size = 1 + self.partners
        if size == 1:
            return self.attend(images)
        if len(images) % size:
            raise ArgumentError(f"images must be groups of {size}, one after the other; got {len(images)}")
        groups = images.reshape(-1, size, *images.shape[1:])  # (B / size, size, 3, H, W)
        partners = torch.stack([groups.roll(-step, dims=1) for step in range(1, size)], dim=2)
        return self.attend(images, partners.flatten(0, 1))

    def local_steps(self) -> tuple[Step, ...]:
        """The steps that lead from images to local features, by which a small change is followed (`explain.regions`).

        Returns
        -------
        tuple of Step
            Each takes what the one before gave. Empty, as by default, where the local features of a position depend on
            more than its surroundings.
        """
        return ()

    def attend_from(self, local: dict[str, Tensor]) -> Attended:
        """What `attend` finds, from the local features of the levels that the classifier reads, and of L3.

        Raises: BackendError for a network without `local_steps`.
        """
        raise BackendError(f"{self.config.architecture} attends from images only", "give it images")

    def evidence(self, found: Attended, targets: Tensor) -> Evidence:
        """The exact decomposition of a class's score over positions, in evaluation mode.

        Parameters
        ----------
        found : Attended
            What `attend` gave, B images.
        targets : Tensor (B,)
            The class of each image, int64.

        Returns
        -------
        Evidence

        Raises
        ------
        BackendError
            For a family whose head has no such decomposition.
        """
        raise BackendError(f"the family of {self.config.architecture} has no evidence maps", "use another map method")

    def parts(self) -> Parts:
        """What is randomised together, from the logits down: the part's name → its modules and tensors.

        Returns
        -------
        dict of str to tuple of str
            Names as in `named_modules`, `named_parameters` and `named_buffers`; every tensor belongs to one part. By
            default each child is a part, the last one first.
        """
        return default_parts(self)

    def check_partners(self, images: Tensor, partners: Tensor | None) -> None:
        """Raises: ArgumentError where `partners` are not what this network takes. Every `attend` begins with it."""
        k = self.partners
        if partners is None and k == 0:
            return
        if k == 0:
            raise ArgumentError(f"partners must be None: {self.config.architecture} attends each image alone")
        expected = (len(images), k, *images.shape[1:])
        if partners is None or partners.shape != expected:
            got = "None" if partners is None else tuple(partners.shape)
            raise ArgumentError(
                f"partners must have the shape {expected}: {self.config.architecture} attends each image with {k} "
                f"more; got {got}"
            )

    def forward(self, images: Tensor, partners: Tensor | None = None) -> Tensor:
        """Logits (B, K); for `indep` heads the log of the mean class probability. Arguments as for `attend`."""
        return self.attend(images).logits if partners is None else self.attend(images, partners).logits
