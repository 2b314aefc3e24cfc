"""A network with partners that are the same for every image, instead of the image itself."""

from __future__ import annotations

from torch import Tensor

from l2a_transfer.errors import ArgumentError
from l2a_transfer.models.interface import Attended, Evidence, Network
from l2a_transfer.models.parts import Parts


class WithPartners(Network):
    """A network with fixed partners. Without it, each image is its own partner.

    Parameters
    ----------
    network : Network
        A network that attends each image together with k others. It is not copied.
    partners : Tensor (k, 3, H, W)
        The k other images, normalised, of the same size as the images.

    Raises
    ------
    ArgumentError
        If the network takes no partners, or a different number of them.
    """

    partners_of_all: Tensor

    def __init__(self, network: Network, partners: Tensor) -> None:
        super().__init__(network.config)
        k = network.partners
        if k == 0 or partners.ndim != 4 or len(partners) != k:
            raise ArgumentError(
                f"partners must be ({k}, 3, H, W) for {network.config.architecture}; got {tuple(partners.shape)}"
                if k
                else f"network must take partners; {network.config.architecture} attends each image alone"
            )
        self.network, self.preprocess, self.partners = network, network.preprocess, 0
        self.register_buffer("partners_of_all", partners.detach(), persistent=False)
        self.train(network.training)

    def attend(self, images: Tensor, partners: Tensor | None = None) -> Attended:
        self.check_partners(images, partners)
        return self.network.attend(images, self.partners_of_all.expand(len(images), *self.partners_of_all.shape))

    def evidence(self, found: Attended, targets: Tensor) -> Evidence:
        return self.network.evidence(found, targets)

    def parts(self) -> Parts:
        own = {part: tuple(f"network.{name}" for name in names) for part, names in self.network.parts().items()}
        return {**own, "partners": ("partners_of_all",)}
