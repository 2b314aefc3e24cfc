"""Evidence maps: how much each position adds to a class's logit, exactly and without a gradient.

Once the mask of the head's ReLU is known, the head is linear in the local features, so a class's logit is a sum over
positions. With one classifier over all levels, the maps of all levels and a constant sum to the logit. If each level
has its own classifier, each map and its constant sum to that classifier's logit. This is the counterpart for attention
networks of class activation maps [1]_ for networks with global average pooling.

.. [1] B. Zhou et al.: Learning Deep Features for Discriminative Localization. CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from l2a_transfer.errors import unknown_name
from l2a_transfer.explain.registry import register_map_method

if TYPE_CHECKING:
    from torch import Tensor, nn

ALL = "all"
"""The sum of all levels' maps, on the finest grid."""


@register_map_method("evidence", kind="signed", per_level=True, class_specific=True)
def evidence(model: nn.Module, images: Tensor, targets: Tensor, *, levels: Sequence[str] = ()) -> dict[str, Tensor]:
    """Each level's contributions to the logit, and with several levels and one classifier their sum, ``"all"``."""
    from l2a_transfer.explain.layers import attended
    from l2a_transfer.models.interface import Network

    found = attended(model, images)
    assert isinstance(model, Network)
    maps = model.evidence(found, targets).maps
    if len(maps) > 1 and model.config.spec.head != "indep":
        maps = {**maps, ALL: summed(list(maps.values()))}
    for level in levels:
        if level not in maps:
            raise unknown_name("level", level, tuple(maps))
    return {level: values for level, values in maps.items() if not levels or level in levels}


def summed(maps: Sequence[Tensor]) -> Tensor:
    """The sum of maps (B, h, w) of several resolutions on the finest grid, which keeps the total of all maps.

    Coarser maps are interpolated linearly and divided by the number of fine positions per coarse one.
    """
    import torch.nn.functional as F

    finest = max(maps, key=lambda values: values[0].numel())
    total = finest.clone()
    for values in maps:
        if values is finest:
            continue
        finer = F.interpolate(values[:, None], size=finest.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        total += finer * (values[0].numel() / finest[0].numel())
    return total
