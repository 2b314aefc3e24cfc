"""The interface of all networks: `model(images)` returns logits, `model.attend(images)` all results.

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
    """The results of a network for a batch: logits, attended features and attention maps.

    Parameters
    ----------
    logits : Tensor (B, K)
        Class scores.
    g_a, g_a_bn_relu : dict of str to Tensor (B, D_level)
        Level → attended feature, raw and as the classifier sees it, in the order of `config.feature_levels`. Networks
        without attention have one level.
    maps : dict of str to Tensor (B, H, W)
        Map name → weights between 0 and 1, in the order of `config.maps`, which gives the level and kind of each.
        Empty for networks without attention.
    local : dict of str to Tensor (B, C, H, W)
        Level → local features: the outputs of conv7 (L1), conv10 (L2) and conv13 (L3) after the ReLU, whether or not
        the classifier reads them. Empty for a family that does not provide them; a family may add others.
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
    """The exact contribution of each position to the score of one class per image.

    Parameters
    ----------
    maps : dict of str to Tensor (B, H, W)
        Level → signed contributions.
    constants : dict of str to Tensor (B,)
        Level → the part of the score that belongs to no position: biases and batch norm shifts.

    Notes
    -----
    If one classifier reads all levels, all maps and constants sum to the logit of the class. If each level has its own
    classifier, a level's map and constant sum to the logit of that classifier.
    """

    maps: dict[str, Tensor]
    constants: dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One step from the image to the local features: a 3 × 3 convolution and its pointwise layers, or a 2 × 2 max pool.

    Parameters
    ----------
    block : nn.Sequential or None
        A `Conv2d` with a padding of one pixel, then layers that treat each position separately; None for a pool.
    level : str, default=""
        The level whose local features are the output.
    """

    block: nn.Sequential | None
    level: str = ""


class Network(nn.Module):
    """Base class of the networks: `model(images)` returns logits, `model.attend(images)` all results.

    Parameters
    ----------
    config : ModelConfig
        The config that it was built from; kept as `config`.

    Notes
    -----
    In evaluation mode the outputs for an image depend only on the image, its partners and the weights. Networks of most
    families take no partners. Without partners, the others attend each image with itself.
    """

    preprocess: Preprocess = Preprocess()
    """How pictures become its input. Loading weights replaces it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.partners = config.partners

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        """Logits, attended features and maps.

        Parameters
        ----------
        images : Tensor (B, 3, H, W)
            float32, or the precision of the weights if they were converted; normalised by the model's Preprocess. H and
            W are at least `config.min_size` pixels.
        partners : Tensor (B, k, 3, H, W), optional
            The k = `config.partners` images that each image is attended with, also normalised. By default, each image
            is its own partner, k times. None if k is 0.

        Returns
        -------
        Attended

        Raises
        ------
        ArgumentError
            If partners are not supported or have the wrong shape; see `check_partners`.
        """
        raise TypeError("Network is abstract; build one with build_model(config)")

    def attend_group(self, images: Tensor) -> Attended:
        """Attend each image together with the others of its group, as in training.

        Parameters
        ----------
        images : Tensor (B, 3, H, W)
            Consecutive groups of 1 + k images, normalised. The partners of an image are the k images that follow it in
            its group, cyclically. If k is 0, this is `attend`.

        Returns
        -------
        Attended
            The results for all images, in the same order.

        Raises
        ------
        ArgumentError
            If the number of images is not a multiple of the group size.
        """
        size = 1 + self.partners
        if size == 1:
            return self.attend(images)
        if len(images) % size:
            raise ArgumentError(f"images must be consecutive groups of {size}; got {len(images)} images")
        groups = images.reshape(-1, size, *images.shape[1:])  # (B / size, size, 3, H, W)
        partners = torch.stack([groups.roll(-step, dims=1) for step in range(1, size)], dim=2)
        return self.attend(images, partners.flatten(0, 1))

    def local_steps(self) -> tuple[Step, ...]:
        """The steps from images to local features. `explain.regions` uses them to compute the effect of small changes.

        Returns
        -------
        tuple of Step
            Each takes the output of the one before. Empty, which is the default, if the local features of a position
            depend on more than its neighbourhood.
        """
        return ()

    def attend_from(self, local: dict[str, Tensor]) -> Attended:
        """The result of `attend`, computed from the local features of L3 and of the levels that the classifier reads.

        Raises: BackendError for a network without `local_steps`.
        """
        raise BackendError(f"{self.config.architecture} cannot start from local features", "pass images instead")

    def evidence(self, found: Attended, targets: Tensor) -> Evidence:
        """Decompose the score of a class exactly over positions, in evaluation mode.

        Parameters
        ----------
        found : Attended
            The result of `attend` for B images.
        targets : Tensor (B,)
            The class of each image, int64.

        Returns
        -------
        Evidence

        Raises
        ------
        BackendError
            If the family's head has no such decomposition.
        """
        raise BackendError(f"the family of {self.config.architecture} has no evidence maps", "use another map method")

    def parts(self) -> Parts:
        """The parts that are randomised one after another, from the logits down: part → its modules and tensors.

        Returns
        -------
        dict of str to tuple of str
            Names as in `named_modules`, `named_parameters` and `named_buffers`. Every tensor belongs to one part. By
            default each child is a part, the last one first.
        """
        return default_parts(self)

    def check_partners(self, images: Tensor, partners: Tensor | None) -> Tensor | None:
        """Check the partners, and complete them. Called first in every `attend`.

        Parameters
        ----------
        images : Tensor (B, 3, H, W)
            The images.
        partners : Tensor (B, k, 3, H, W) or None
            What `attend` was given.

        Returns
        -------
        Tensor (B, k, 3, H, W) or None
            The same partners; for None, each image k times. None if k is 0.

        Raises
        ------
        ArgumentError
            If `partners` do not suit this network.
        """
        k = self.partners
        if partners is None:
            return images[:, None].expand(-1, k, -1, -1, -1) if k else None
        if k == 0:
            raise ArgumentError(f"partners must be None: {self.config.architecture} attends each image alone")
        expected = (len(images), k, *images.shape[1:])
        if partners.shape != expected:
            raise ArgumentError(
                f"partners must have the shape {expected}: {self.config.architecture} attends each image with {k} "
                f"more; got {tuple(partners.shape)}"
            )
        return partners

    def forward(self, images: Tensor, partners: Tensor | None = None) -> Tensor:
        """Logits (B, K); for `indep` heads, the log of the mean class probability. Arguments as for `attend`."""
        return self.attend(images).logits if partners is None else self.attend(images, partners).logits
